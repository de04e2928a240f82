"""Checks of the arguments that users give to scopes: a clear error that names the field, before anything happens."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

from actguard.exceptions import ActGuardUsageError
from actguard.money.amounts import as_written

BUDGET_CODE = "usage.budget_guard_configuration"


def text_or_none(value: Any, field: str, what: str, code: str | None = None) -> str | None:
    """``value`` if it is None or a non-empty str.

    Raises:
        ActGuardUsageError: anything else.
    """
    if value is None or (isinstance(value, str) and value.strip()):
        return value
    raise ActGuardUsageError(f"{what}: {field} must be a non-empty text or None", field=field, code=code)


def flag(value: Any, field: str, what: str, code: str | None = None) -> bool:
    """``value`` if it is a bool.

    Raises:
        ActGuardUsageError: anything else.
    """
    if isinstance(value, bool):
        return value
    raise ActGuardUsageError(f"{what}: {field} must be True or False", field=field, code=code)


def choice(
    value: Any,
    allowed: tuple[str, ...],
    field: str,
    what: str,
    code: str | None = None,
    error: type[ActGuardUsageError] = ActGuardUsageError,
) -> str:
    """``value`` if it is one of ``allowed``.

    Raises:
        ActGuardUsageError: (or the subclass ``error``) anything else.
    """
    if isinstance(value, str) and value in allowed:
        return value
    names = " or ".join(repr(name) for name in allowed)
    raise error(f"{what}: {field} must be {names}", field=field, code=code)


def usd_limit(value: Any, field: str = "usd_limit") -> Decimal | None:
    """A limit in USD, or None.

    Raises:
        ActGuardUsageError: it is not a positive, finite amount.
    """
    if value is None:
        return None
    try:
        amount = as_written(value)
        problem = "" if amount else "must be more than zero"
    except ValueError as error:
        problem = str(error)
    if problem:
        raise ActGuardUsageError(f"budget_guard: {field} {problem}", field=field, code=BUDGET_CODE)
    return amount


def count_limit(value: Any, field: str, unit: str) -> int | None:
    """A limit in whole ``unit``, or None.

    Raises:
        ActGuardUsageError: it is not a positive int.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ActGuardUsageError(
            f"budget_guard: {field} must be a positive whole number of {unit} or None", field=field, code=BUDGET_CODE
        )
    return value


def part(value: Any, field: str) -> Decimal | None:
    """A share, above 0 and up to 1, or None.

    Raises:
        ActGuardUsageError: anything else.
    """
    if value is None:
        return None
    try:
        share = as_written(value)
    except ValueError:
        share = Decimal(0)
    if not 0 < share <= 1:
        raise ActGuardUsageError(
            f"budget_guard: {field} must be a number above 0 and up to 1, or None", field=field, code=BUDGET_CODE
        )
    return share


def time_span(value: Any, field: str, what: str) -> float:
    """``value`` in seconds.

    Raises:
        ActGuardUsageError: it is not a finite number of zero or more.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            seconds = float(value)
        except OverflowError:
            seconds = math.inf
        if 0 <= seconds < math.inf:
            return seconds
    raise ActGuardUsageError(f"{what}: {field} must be a number of seconds, zero or more", field=field)
