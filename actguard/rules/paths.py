"""Arguments named by a path: ``"amount"``, ``"order.id"``, ``"items[].id"``.

A dot goes to the key of a mapping or the attribute of an object, ``[]`` to every item of a list, tuple or set. What is
not there is `ABSENT`; a shape that the path does not fit, a getter that raises and more items than anyone
would check are `UNREADABLE`, which no rule lets pass: a model must not get around a rule by sending a text
where an object is expected.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from decimal import Decimal
from pathlib import PurePath
from typing import Any, Final

from actguard.exceptions import ActGuardUsageError, quoted
from actguard.rules.values import STRANGE, fields_of, plain

MOST_VALUES = 10_000
"""A path that leads to more values than this is unreadable."""

_SYNTAX = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*|\[\])*", re.ASCII)
_PARTS = re.compile(r"\w+|\[\]", re.ASCII)
_ITEMS = "[]"


class Missing:
    """Stands for a value that a path does not lead to. It can be no id, no amount and no text."""

    __slots__ = ("_why",)

    def __init__(self, why: str) -> None:
        self._why = why

    def __repr__(self) -> str:
        return f"<{self._why}>"


ABSENT: Final = Missing("absent")
UNREADABLE: Final = Missing("unreadable")


@dataclass(frozen=True, slots=True)
class ArgumentPath:
    """A parsed path. ``first`` is the argument itself, ``rest`` what comes after it."""

    text: str
    first: str
    rest: tuple[str, ...]

    def values(self, arguments: Mapping[str, Any]) -> list[Any]:
        """What the path leads to: one value, or one for each item where it goes through ``[]``."""
        found = [arguments.get(self.first, ABSENT)]
        for part in self.rest:
            found = _items(found) if part == _ITEMS else [_member(value, part) for value in found]
        return found


def parse(path: object, what: str, field: str = "arg") -> ArgumentPath:
    """The path that ``path`` writes; ``what`` is the rule it belongs to.

    Raises:
        ActGuardUsageError: it is no str of the form ``name.name[].name``.
    """
    if not isinstance(path, str) or not _SYNTAX.fullmatch(path):
        raise ActGuardUsageError(
            f'{what}: {field} must name an argument, such as "amount", "order.id" or "items[].id", not {quoted(path)}',
            field=field,
        )
    first, *rest = _PARTS.findall(path)
    return ArgumentPath(path, first, tuple(rest))


def check_parameter(path: ArgumentPath, parameters: Collection[str], what: str, field: str = "arg") -> None:
    """Make sure that the tool has the argument that ``path`` begins with.

    Raises:
        ActGuardUsageError: it does not.
    """
    if path.first not in parameters:
        known = ", ".join(sorted(parameters)) or "none"
        raise ActGuardUsageError(
            f"{what} names the argument {path.first!r}, which the tool does not have. Its arguments are: {known}.",
            field=field,
        )


def _items(found: list[Any]) -> list[Any]:
    items: list[Any] = []
    for value in found:
        if value is None or value is ABSENT:
            items.append(ABSENT)
        elif not issubclass(type(value), list | tuple | AbstractSet | deque):
            items.append(UNREADABLE)
        else:
            try:
                items.extend(value if len(value) <= MOST_VALUES else [UNREADABLE])
            except Exception:  # noqa: BLE001  a hostile container is unreadable, whatever it raises
                items.append(UNREADABLE)
        if len(items) > MOST_VALUES:
            return [UNREADABLE]
    return items


def _member(value: Any, name: str) -> Any:
    if value is None or value is ABSENT:
        return ABSENT
    kind = type(value)  # never isinstance: it asks the value for its __class__
    try:
        if issubclass(kind, Mapping):
            return value[name] if name in value else ABSENT  # noqa: SIM401  a hostile get() may not be a mapping's
        if value is UNREADABLE or plain(value) is not STRANGE or issubclass(kind, list | tuple | AbstractSet | deque):
            # A named tuple has names; a text, a number and a list have none.
            return getattr(value, name) if name in getattr(kind, "_fields", ()) else UNREADABLE
        return getattr(value, name)
    except AttributeError:
        # A class that has the name and raises all the same hides something.
        return UNREADABLE if hasattr(kind, name) else ABSENT
    except Exception:  # noqa: BLE001  a getter of the caller's objects may raise anything
        return UNREADABLE


class Unreadable(Exception):
    """A value whose texts cannot all be found, or are too many."""


def texts(value: Any, most_characters: int) -> Iterator[str]:
    """Every text in ``value``, the keys and fields of containers and data classes included; numbers as written.

    Raises:
        Unreadable: there is an object of an unknown class, or more than ``most_characters`` in all.
    """
    room = most_characters
    waiting = [value]
    steps = 0
    while waiting:
        value = waiting.pop()
        steps += 1
        if steps > MOST_VALUES:
            raise Unreadable
        text = _text(value)
        if text is None:
            waiting.extend(_inner_values(value))
            continue
        room -= len(text)
        if room < 0:
            raise Unreadable
        yield text


def _text(value: Any) -> str | None:
    """The text of a scalar; None for what may be a container."""
    exact = plain(value)
    if type(exact) is str:
        return exact
    if exact is None or type(exact) is bool or value is ABSENT:
        return ""
    if type(exact) is bytes:
        return exact.decode("utf-8", "replace")
    if type(exact) is int:
        return str(exact) if exact.bit_length() <= 2048 else hex(exact)
    if type(exact) is float or type(exact) is Decimal:
        return str(exact)
    return None


def _inner_values(value: Any) -> list[Any]:
    kind = type(value)
    inner: list[Any] | None
    try:
        if issubclass(kind, Mapping):
            inner = [*value.keys(), *value.values()]
        elif issubclass(kind, list | tuple | AbstractSet | deque):
            inner = list(value) if len(value) <= MOST_VALUES else None
        elif issubclass(kind, PurePath):
            inner = [PurePath.__str__(value)]
        else:
            fields = fields_of(value)
            inner = None if fields is None else [*fields, *fields.values()]
    except Exception as exc:  # a hostile container, whatever it raises
        raise Unreadable from exc
    if inner is None:
        raise Unreadable
    return inner
