"""The envelope: an event as the gateway takes it, and which events it takes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Set
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any

from pydantic import BaseModel

from actguard.events import CustomEvent, Event, GuardBlocked, GuardIntervention, ScopedEvent

VERSION = 1
DIGEST_ALGORITHM = "sha256"

LIFTED = (
    "agent_id",
    "user_id",
    "model",
    "provider",
    "usd_micros",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "scope_id",
    "scope_name",
    "scope_kind",
    "parent_scope_id",
    "root_scope_id",
    "plan_key",
    "tool_name",
)
"""Fields of events that stand in the envelope itself, when they are known and not empty."""

_IDENTITY = frozenset(ScopedEvent.model_fields) - {"tool_name"}
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode
DEEPEST = 32
"""Levels of a user's payload that are exported; what lies deeper is left out."""


def envelope(event: Event, taken_at: datetime) -> dict[str, Any]:
    """``event`` as the gateway takes it; ``taken_at`` is when the exporter took it in.

    The digest is the SHA-256 of the payload as JSON with sorted keys and without spaces, in UTF-8.
    """
    payload = payload_of(event)
    content = {
        "id": event.id,
        "ts": utc_text(event.ts),
        "ingested_at": utc_text(taken_at),
        "tenant_id": None,
        "run_id": event.run_id,
        "trace_id": None,
        "span_id": None,
        "category": event.category,
        "name": event.name,
        "version": VERSION,
        "severity": event.severity,
        "outcome": event.outcome,
        "digest": digest(payload),
        "digest_algo": DIGEST_ALGORITHM,
        "payload": payload,
        "evidence": {},
        "meta": {},
    }
    fields = vars(event)  # asking a model for a field that it does not have takes 3 µs, and most have few of these
    for field in LIFTED:
        value = fields.get(field)
        if value is not None and value != "":
            content[field] = value
    return content


def payload_of(event: Event) -> dict[str, Any]:
    """What an event says beyond its envelope, JSON-safe. A guard's figures stand beside its other fields."""
    if isinstance(event, CustomEvent):
        content: dict[str, Any] = dict(event.payload)
    else:
        names = [name for name in type(event).model_fields if name not in _IDENTITY and name != "figures"]
        content = {name: getattr(event, name) for name in names}
        content = {name: value for name, value in content.items() if value is not None}
        if isinstance(event, GuardBlocked | GuardIntervention):
            content = {**event.figures, **content}
    safe = json_safe(content)
    assert isinstance(safe, dict)  # a mapping stays one
    return safe


def digest(payload: Mapping[str, Any]) -> str:
    """The fingerprint of a payload: 64 hexadecimal digits."""
    return hashlib.sha256(_canonical(payload).encode("utf-8", "replace")).hexdigest()


def utc_text(time: datetime) -> str:
    """ISO 8601 in UTC, ending in Z."""
    return time.astimezone(UTC).isoformat(timespec="microseconds")[: -len("+00:00")] + "Z"


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
