"""Amounts of USD as texts."""

from __future__ import annotations

from decimal import Decimal


def usd(amount: Decimal) -> str:
    """To a millionth."""
    return f"{amount:.6f}"


def cap(amount: Decimal) -> str:
    """As short as it can be, with cents: ``"0.10"``, ``"0.008"``."""
    dollars, _, rest = f"{amount.normalize():f}".partition(".")
    return f"{dollars}.{rest:0<2}"
