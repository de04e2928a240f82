"""What price lists count and charge for: units, and the rate of each.

A unit is described by its dimensions, ``{("family", "tokens"), ("direction", "input"), ("modality", "audio")}``: a unit
whose dimensions contain another's is a part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from actguard.money.amounts import MONEY, ZERO

Count = int | Decimal
Counts = Mapping[str, Count]
"""Counts by unit key; parts are included in their whole."""
Dimensions = frozenset[tuple[str, str]]

INPUT: Dimensions = frozenset({("family", "tokens"), ("direction", "input")})
OUTPUT: Dimensions = frozenset({("family", "tokens"), ("direction", "output")})


class TokenRates(NamedTuple):
    """What one token costs, in USD."""

    input: Decimal
    """USD per input token."""
    output: Decimal
    """USD per output token."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Something that is counted."""

    key: str
    per: Decimal
    """Prices are for so many of them."""
    dimensions: Dimensions

    @property
    def is_tokens(self) -> bool:
        """True for tokens of any kind, false for searches, seconds, pages and the like."""
        return ("family", "tokens") in self.dimensions


@dataclass(frozen=True, slots=True)
class Rate:
    """The price of a unit, in USD per ``unit.per``."""

    unit: Unit
    base: Decimal
    tiers: tuple[tuple[int, Decimal], ...] = ()
    """(start, price), ascending. The last that starts below the call's input tokens replaces ``base`` for all of it."""

    def at(self, input_tokens: Count) -> Decimal:
        """USD per ``unit.per`` in a call with so many input tokens."""
        price = self.base
        for start, tier_price in self.tiers:
            if input_tokens > start:
                price = tier_price
        return price

    def each(self, input_tokens: Count) -> Decimal:
        """USD per single unit in a call with so many input tokens."""
        return MONEY.divide(self.at(input_tokens), self.unit.per)

    @property
    def highest(self) -> Decimal:
        """USD per single unit in the dearest tier."""
        return MONEY.divide(max(self.base, *(price for _, price in self.tiers), ZERO), self.unit.per)
