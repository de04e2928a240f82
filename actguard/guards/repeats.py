"""What makes a call the repeat of another: its key, its arguments, and a result that can be given again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

from actguard.exceptions import InvalidIdempotentToolError, MissingIdempotencyKeyError
from actguard.rules import keys

PARAMETER = "idempotency_key"
_SHORT = 256
_SMALL = 2**53
_LEAST = -_SMALL


def is_used_up(result: object) -> bool:
    """Whether ``result`` can be consumed once only, and the first caller has done so."""
    return isinstance(result, Iterator | AsyncIterator | Coroutine)


def fingerprint(arguments: dict[str, Any]) -> Any:
    """What tells calls with other arguments apart. Short texts and numbers are compared as they are: a tenth of the
    cost of a digest."""
    arguments.pop(PARAMETER, None)
    flags = False
    for value in arguments.values():
        kind = type(value)
        if kind is str:
            if len(value) > _SHORT:
                return keys.fingerprint(arguments)
        elif kind is bool:
            flags = True
        elif value is not None and (kind is not int or not _LEAST < value < _SMALL):
            return keys.fingerprint(arguments)
    if flags:  # True is not 1
        return {name: (value,) if type(value) is bool else value for name, value in arguments.items()}
    return arguments


def check_key(key: object) -> str:
    """``key``, if it is one.

    Raises:
        MissingIdempotencyKeyError: it is None, empty or no str.
    """
    if isinstance(key, str) and key:
        return key
    what = "an empty str" if isinstance(key, str) else "None" if key is None else f"a {type(key).__name__}"
    raise MissingIdempotencyKeyError(f"idempotent: {PARAMETER} must be a non-empty str, not {what}", field=PARAMETER)


def exception_classes(given: Any) -> tuple[type[BaseException], ...]:
    classes = given if isinstance(given, tuple | list | set | frozenset) else (given,)
    if not all(isinstance(each, type) and issubclass(each, BaseException) for each in classes):
        raise InvalidIdempotentToolError(
            "idempotent: safe_exceptions must be exception classes", field="safe_exceptions"
        )
    return tuple(classes)
