"""JSON of values that JSON does not know."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Set
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any

from pydantic import BaseModel

DEEPEST = 32
"""Levels of a user's payload that are exported; what lies deeper is left out."""
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def canonical_json(value: Any) -> str:
    """``value`` as JSON with sorted keys and without spaces, whatever it is."""
    return _canonical(json_safe(value))


def utc_text(time: datetime) -> str:
    """ISO 8601 in UTC, ending in Z."""
    if time.tzinfo is not UTC:
        time = time.astimezone(UTC)
    return time.isoformat(timespec="microseconds")[: -len("+00:00")] + "Z"


def json_safe(value: Any, depth: int = 0) -> Any:
    """``value`` as JSON can carry it, whatever it is: exact decimals as text, times in UTC, sets as lists, other
    objects as the name of their class, since their repr may show what must not leave the process.
    """
    if value is None or type(value) in (bool, str):
        return value
    if isinstance(value, Enum):
        return json_safe(value.value, depth)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, datetime):
        return utc_text(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    return _container(value, depth + 1)


def _container(value: Any, depth: int) -> Any:
    if depth > DEEPEST:
        return "<too deep>"
    if isinstance(value, BaseModel):
        value = {name: getattr(value, name, None) for name in type(value).model_fields}
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {_key(key): json_safe(item, depth) for key, item in list(value.items())}
    if isinstance(value, list | tuple | Set):
        return [json_safe(item, depth) for item in list(value)]
    return f"<{type(value).__name__}>"


def _key(key: Any) -> str:
    return key if type(key) is str else str(json_safe(key, DEEPEST))
