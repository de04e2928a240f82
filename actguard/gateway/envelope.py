"""The envelope: an event as the gateway takes it, written as JSON at once.

Thousands of events a second pass here, beside the program they tell of, so the text is put together by hand: a third
of the time that it takes to build dictionaries and encode them (7 µs for a small event, against 20).
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from json.encoder import encode_basestring as quoted
from typing import Any

from actguard.events import CustomEvent, Event, GuardBlocked, GuardIntervention, ScopedEvent
from actguard.gateway.json_safe import canonical_json, utc_text

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


def envelope(event: Event, taken_at: str) -> bytes:
    """``event`` as the gateway takes it, in UTF-8; ``taken_at`` is when the exporter took it in, as `utc_text` says it.

    The digest is the SHA-256 of the payload as JSON with sorted keys and without spaces, in UTF-8. Text that is no
    valid Unicode gets a question mark where it is not.
    """
    fields = vars(event)  # asking a model for a field that it does not have takes 3 µs
    payload = _payload(event, fields)
    digest = hashlib.sha256(payload.encode("utf-8", "replace")).hexdigest()
    lifted = "".join(
        [
            f",{key}{_text(value)}"
            for name, key in _lifted(type(event))
            if (value := fields[name]) is not None and value != ""
        ]
    )
    return (
        f'{{"id":{quoted(event.id)},"ts":"{utc_text(event.ts)}","ingested_at":"{taken_at}","tenant_id":null,'
        f'"run_id":{_text(event.run_id)},"trace_id":null,"span_id":null,"category":{quoted(event.category)},'
        f'"name":{quoted(event.name)},"version":{VERSION},"severity":{quoted(event.severity)},'
        f'"outcome":{quoted(event.outcome)},"digest":"{digest}","digest_algo":"{DIGEST_ALGORITHM}","payload":{payload},'
        f'"evidence":{{}},"meta":{{}}{lifted}}}'
    ).encode("utf-8", "replace")


def _payload(event: Event, fields: Mapping[str, Any]) -> str:
    """What an event says beyond its envelope, as JSON. A guard's figures stand beside its other fields."""
    if isinstance(event, CustomEvent):
        return _object(dict(event.payload))
    own = _own(type(event))
    if isinstance(event, GuardBlocked | GuardIntervention):
        known = {name: value for name, _ in own if (value := fields[name]) is not None}
        return _object({**event.figures, **known})
    items = [f"{key}{_text(value)}" for name, key in own if (value := fields[name]) is not None]
    return f"{{{','.join(items)}}}"


def _object(content: Mapping[Any, Any]) -> str:
    try:
        # Most are plain: text and numbers, nothing nested.
        items = [f"{quoted(name)}:{_PLAIN[type(value)](value)}" for name, value in sorted(content.items())]
    except (KeyError, TypeError):
        return canonical_json(content)
    return f"{{{','.join(items)}}}"


def _text(value: Any) -> str:
    write = _PLAIN.get(type(value))
    return canonical_json(value) if write is None else write(value)


_PLAIN: dict[type, Callable[[Any], str]] = {
    str: quoted,
    int: int.__repr__,
    bool: lambda value: "true" if value else "false",
    float: lambda value: float.__repr__(value) if math.isfinite(value) else "null",
    type(None): lambda _: "null",
    Decimal: lambda value: f'"{value}"',
}
"""How values of these very types are written; it agrees with `canonical_json`."""


@functools.cache
def _lifted(kind: type[Event]) -> list[tuple[str, str]]:
    """Those of `LIFTED` that a class of events has, each with the beginning of its JSON."""
    return _keys(name for name in LIFTED if name in kind.model_fields)


@functools.cache
def _own(kind: type[Event]) -> list[tuple[str, str]]:
    """The fields of a class of events that its payload shows, in the order of the alphabet, likewise."""
    return _keys(name for name in sorted(kind.model_fields) if name not in _IDENTITY and name != "figures")


def _keys(names: Iterable[str]) -> list[tuple[str, str]]:
    return [(name, f"{quoted(name)}:") for name in names]
