"""Values that come from models and tools, made comparable without trusting them.

No ``__eq__``, ``__hash__``, ``__str__`` or ``__repr__`` of a value's own class is asked for its identity: what is
compared, hashed and stored are exact builtins made from it, and long ones are replaced by a digest. So a hostile value
can neither pass for another nor keep memory.

What can be an id (`fact_id`): text, whole and other finite numbers, UUID, bytes, dates, and enum members (by their
value). A number and the text that writes it are the same id: ``1``, ``1.0``, ``Decimal("1.00")`` and ``"1"``. What
cannot: None, bool, NaN and infinities, empty text, containers, and everything else.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from datetime import date, time
from decimal import Decimal
from enum import Enum
from hashlib import blake2b
from numbers import Integral
from typing import Any, Final
from uuid import UUID

FactId = tuple[str, str | bytes]
"""A tag (``"text"``, ``"bytes"``, ``"long text"``, ``"long bytes"``) and the value, or its digest when it is long."""

LONGEST_ID = 256
"""Ids with more characters are kept as a digest."""
_MOST_BITS = 2048
"""Whole numbers with more bits are no ids and no amounts."""
_MOST_DIGITS = 400
"""Decimals with more digits, before or after the point, are no ids and no amounts."""
_WHOLE_FLOATS = 2.0**53
_DEEPEST = 20
_MOST_PARTS = 100_000


class _Strange:
    """Stands for a value that is none of the kinds known here."""


STRANGE: Final = _Strange()
Plain = None | bool | str | int | float | Decimal | bytes | _Strange
_PLAIN_TYPES = frozenset({type(None), bool, str, int, float, Decimal, bytes})


def plain(value: object) -> Plain:
    """``value`` as an exact builtin (or Decimal), or `STRANGE`.

    Enum members become their value; UUIDs, dates and times the text that writes them; subclasses what they extend.
    """
    if type(value) in _PLAIN_TYPES:
        return value  # type: ignore[return-value]  # its exact type is one of these
    try:
        return _made_plain(value)
    except Exception:  # noqa: BLE001  a hostile value is strange, whatever it raises
        return STRANGE


def _made_plain(value: Any) -> Plain:
    kind = type(value)
    if issubclass(kind, Enum):
        inner = object.__getattribute__(value, "_value_")
        return STRANGE if issubclass(type(inner), Enum) else plain(inner)
    if issubclass(kind, str):
        return str.__str__(value)
    if issubclass(kind, int):
        return int.__int__(value)
    if issubclass(kind, float):
        return float.__float__(value)
    if issubclass(kind, Decimal):
        return Decimal(value)
    if issubclass(kind, bytes):
        return bytes.__add__(value, b"")
    if issubclass(kind, bytearray):
        return bytes(bytearray.__getitem__(value, slice(None)))
    if issubclass(kind, UUID):
        return UUID.__str__(value)
    if issubclass(kind, date | time):
        return str(value.isoformat())
    if issubclass(kind, Integral):  # numpy's
        return int.__int__(value.__index__())
    return STRANGE


def number(value: object) -> Decimal | None:
    """The amount that ``value`` is, read as it is written (``0.1`` is one tenth); None if it is no finite number.

    None for bool, text, NaN, infinities, and for numbers of more than a few hundred digits.
    """
    if type(value) is int:
        return Decimal(value) if value.bit_length() <= _MOST_BITS else None
    exact = plain(value)
    if type(exact) is int:
        return number(exact)
    if type(exact) is float:
        return Decimal(repr(exact)) if math.isfinite(exact) else None
    if type(exact) is not Decimal or not exact.is_finite():
        return None
    digits = exact.as_tuple()
    in_range = len(digits.digits) <= _MOST_DIGITS and abs(int(digits.exponent)) <= _MOST_DIGITS
    return exact if in_range else None


def fact_id(value: object) -> FactId | None:
    """What ``value`` is as an id, or None when it cannot be one. See the top of this file for what can.

    Example: ``fact_id(1) == fact_id("1") == ("text", "1")``; ``fact_id(True)`` is None.
    """
    if type(value) is str and 0 < len(value) <= LONGEST_ID:  # nearly all of them
        return "text", value
    if type(value) is not str:
        value = plain(value)
        if type(value) is bytes:
            return _short("bytes", value, value) if value else None
        if type(value) is not str:
            value = _number_text(value)
    return _short("text", value, None) if value else None


def _short(tag: str, value: Any, encoded: bytes | None) -> FactId:
    if len(value) <= LONGEST_ID:
        return tag, value
    return f"long {tag}", blake2b(encoded or value.encode("utf-8", "surrogatepass"), digest_size=32).digest()


def _number_text(value: object) -> str:
    """The shortest text that writes a number, or an empty one when it is no finite number."""
    if type(value) is int:
        return str(value) if value.bit_length() <= _MOST_BITS else ""
    if type(value) is float and value.is_integer() and abs(value) < _WHOLE_FLOATS:
        return str(int(value))
    amount = number(value) if type(value) is not bool else None
    if amount is None:
        return ""
    text = f"{amount:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def scalar_key(value: object) -> tuple[str, Hashable] | None:
    """What ``value`` is equal to, with its kind: unlike ids, ``1``, ``"1"`` and ``True`` differ. None: no scalar."""
    if type(value) is str and len(value) <= LONGEST_ID:
        return "text", value
    exact = plain(value)
    if exact is None or type(exact) is bool:
        return "constant", exact
    if type(exact) is str or type(exact) is bytes:
        return _short("text" if type(exact) is str else "bytes", exact, exact if type(exact) is bytes else None)
    amount = number(exact)
    return None if amount is None else ("number", amount)


def key_of(value: object) -> tuple[str, Hashable]:
    """A key for any value at all: its id if it can be one, else a digest. Equal ids share a key."""
    return fact_id(value) or ("digest", digest(value))


def digest(value: object) -> bytes:
    """16 bytes that are the same for equal values of the kinds known here, in containers and data classes too.

    Numbers are compared by value and dicts without regard to order. An object of an unknown kind counts only with its
    class, so two of a kind look the same.
    """
    pieces: list[bytes] = []
    _Encoder(pieces).add(value, _DEEPEST)
    return blake2b(b"".join(pieces), digest_size=16).digest()


class _Encoder:
    """Writes a value as bytes that no other value is written as; every piece begins with its kind and length."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces
        self._room = _MOST_PARTS

    def _put(self, kind: str, content: bytes = b"") -> None:
        self._pieces.append(b"%s%d:%s" % (kind.encode(), len(content), content))

    def add(self, value: object, depth: int) -> None:
        self._room -= 1
        exact = value if type(value) is str else plain(value)
        if type(exact) is str:
            self._put("s", exact.encode("utf-8", "surrogatepass"))
        elif type(exact) is int and -_WHOLE_FLOATS < exact < _WHOLE_FLOATS:
            self._put("n", b"%d" % exact)
        elif type(exact) is bytes:
            self._put("b", exact)
        elif exact is None or type(exact) is bool:
            self._put(repr(exact))
        elif exact is not STRANGE:
            text = _number_text(exact) or (hex(exact) if type(exact) is int else repr(exact))
            self._put("n", text.encode())
        elif depth <= 0 or self._room <= 0:
            self._put("deep")
        else:
            try:
                self._add_container(value, depth - 1)
            except Exception:  # noqa: BLE001  a hostile container counts as an unknown object
                self._put("o", _class_name(value))

    def _add_container(self, value: Any, depth: int) -> None:
        kind = type(value)
        if issubclass(kind, Mapping):
            if all(type(name) is str for name in value):
                self._put("d", b"%d" % len(value))
                for name in sorted(value):
                    if self._room <= 0:
                        break
                    self.add(name, depth)
                    self.add(value[name], depth)
            else:
                self._add_unordered("m", value.items(), depth)
        elif issubclass(kind, list | tuple):
            self._put("l", b"%d" % len(value))
            for item in value:
                if self._room <= 0:
                    break
                self.add(item, depth)
        elif issubclass(kind, AbstractSet):
            self._add_unordered("u", value, depth)
        else:
            self._put("o", _class_name(value))
            self._add_unordered("f", (fields_of(value) or {}).items(), depth)

    def _add_unordered(self, kind: str, items: Iterable[object], depth: int) -> None:
        parts = []
        for item in items:
            if self._room <= 0:
                break
            inner = _Encoder([])
            inner._room = self._room
            inner.add(item, depth)
            self._room = inner._room
            parts.append(b"".join(inner._pieces))
        self._put(kind, b"".join(sorted(parts)))


def _class_name(value: object) -> bytes:
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}".encode("utf-8", "surrogatepass")


def fields_of(value: Any) -> dict[str, Any] | None:
    """The fields of a data class instance or pydantic model, by name; None for other objects."""
    kind = type(value)
    if dataclasses.is_dataclass(kind):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(kind)}
    declared = getattr(kind, "__pydantic_fields__", None)
    if not isinstance(declared, dict):
        return None
    return {name: getattr(value, name) for name in declared} | (getattr(value, "__pydantic_extra__", None) or {})
