"""Amounts of money, read as people wrote them: ``0.1`` means one tenth, not its binary neighbour.

Prices and charges are computed with `MONEY`, one decimal context for all threads, so that a program that changes its
own decimal context does not change what a call costs.
"""

from __future__ import annotations

from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, ROUND_HALF_EVEN, Context, Decimal, InvalidOperation

Amount = Decimal | float | int | str
"""What users may write for an amount."""

MONEY = Context(prec=28, rounding=ROUND_HALF_EVEN)
"""28 digits, half to even: the arithmetic genai-prices uses, so that prices agree to the last digit."""

ZERO = Decimal(0)
_EXACTLY = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN)
"""Reads any number to its last digit. A context of our own: asking for the one of the task would make it one, which
stays as long as the task (230 bytes)."""
LARGEST = Decimal(10) ** 12
"""Amounts from here on are refused: a slip of the hand, and room for sums to stay exact."""


def as_written(value: object) -> Decimal:
    """``value`` as an exact decimal: ``Decimal(str(value))``.

    Raises:
        ValueError: not a number, a bool, negative, NaN, infinite or a trillion and more; the message says which, as
            the end of a sentence that begins with the name of the parameter.

    Example: ``as_written(0.1) == Decimal("0.1")``.
    """
    if isinstance(value, bool) or not isinstance(value, Decimal | float | int | str):
        raise ValueError(f"must be a number, not {type(value).__name__}")  # noqa: TRY004  one exception for all
    try:
        amount = _EXACTLY.create_decimal(str(value))
    except (InvalidOperation, ValueError):  # ValueError: an int too long to print
        raise ValueError("must be a number, such as 0.15 or '0.15'") from None
    if not amount.is_finite():
        raise ValueError("must be finite")
    if amount and amount.is_signed():
        raise ValueError("must not be negative")
    if amount and amount.adjusted() >= LARGEST.adjusted():
        raise ValueError("must be less than a trillion")
    return amount
