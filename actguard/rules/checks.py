"""Checks of a rule's own settings, made once, when the rule is made."""

from __future__ import annotations

import math

from actguard.exceptions import ActGuardUsageError, quoted

UsageError = type[ActGuardUsageError]


def whole_number(value: object, field: str, what: str, error: UsageError = ActGuardUsageError) -> int:
    """``value`` if it is an int of at least 1.

    Raises:
        ActGuardUsageError: (or the subclass ``error``) anything else, bool included; it names ``field``.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise error(f"{what}: {field} must be a whole number of at least 1, not {quoted(value, 40)}", field=field)


def duration(value: object, field: str, what: str, error: UsageError = ActGuardUsageError) -> float:
    """``value`` in seconds if it is a finite number above 0.

    Raises:
        ActGuardUsageError: (or the subclass ``error``) anything else, bool included; it names ``field``.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if 0 < number < math.inf:
            return number
    raise error(f"{what}: {field} must be a number of seconds above 0, not {quoted(value, 40)}", field=field)


def name(value: object, field: str, what: str, error: UsageError = ActGuardUsageError) -> str:
    """``value`` if it is a str that is more than white space.

    Raises:
        ActGuardUsageError: (or the subclass ``error``) anything else; it names ``field``.
    """
    if isinstance(value, str) and value.strip():
        return value
    raise error(f"{what}: {field} must be a non-empty str, not {quoted(value, 40)}", field=field)
