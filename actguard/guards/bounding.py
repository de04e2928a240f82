"""Hard limits: what a call can cost at the most, and how much output the budget affords."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from typing import NamedTuple

from actguard.money.units import TokenRates
from actguard.rules.ledger import EXACT, ZERO, Hold, Limits, times

UNLIMITED = 2**31
"""More output than any model puts out."""


@dataclass(frozen=True, slots=True)
class Bound:
    """What a request says about its cost at the most, before it is sent."""

    input_tokens: int
    """It cannot have more input than this: text by its bytes, media by the largest figure of the provider's rules."""
    output_tokens: int | None = None
    """The most output of one answer where no limit can be set in the request: an embedding has none, a picture some.
    None: a limit can be set."""
    least_output: int = 1
    """The lowest output limit with which the request is valid."""
    attempts: int = 1
    """How many times the SDK may send it so that each is billed."""
    unbounded: str | None = None
    """Why it can cost more than it shows (a stored prompt, a server-side tool loop …); None: it cannot."""


@dataclass(frozen=True, slots=True)
class Tariff:
    """What the call costs at the most: per token, per request, and in cost units."""

    rates: TokenRates
    fee: Decimal
    cost_units: Callable[[int, int, Decimal], int]
    """(input tokens, output tokens, usd) of one attempt, in cost units."""


class Ceiling(NamedTuple):
    """The most that one call can cost, as it depends on the output limit of each of its answers."""

    bound: Bound
    outputs: int
    tariff: Tariff

    def hold(self, output_tokens: int) -> Hold:
        """The most that all its attempts can cost when each answer is limited to ``output_tokens``."""
        return times(self.attempt(output_tokens), self.bound.attempts)

    def attempt(self, output_tokens: int) -> Hold:
        """The most that one attempt can cost."""
        bound, tariff, output = self.bound, self.tariff, self.outputs * output_tokens
        by_input = EXACT.multiply(tariff.rates.input, Decimal(bound.input_tokens))
        by_output = EXACT.multiply(tariff.rates.output, Decimal(output))
        usd = EXACT.add(EXACT.add(tariff.fee, by_input), by_output)
        return Hold(usd, bound.input_tokens + output, tariff.cost_units(bound.input_tokens, output, usd))

    def affordable(self, room: Limits, wanted: int) -> int:
        """The highest output limit, up to ``wanted``, with which the call fits; negative when it fits with none.

        Example: with 0.001 USD left, 10 USD per million output tokens and no input, 100.
        """
        most, free, each = wanted, self.hold(0), self.outputs * self.bound.attempts
        if room.usd is not None:
            left = EXACT.subtract(room.usd, free.usd)
            rate = EXACT.multiply(self.tariff.rates.output, Decimal(each))
            if left < ZERO:
                return -1
            if rate > ZERO:
                most = min(most, int(EXACT.divide(left, rate).to_integral_value(rounding=ROUND_FLOOR)))
        if room.tokens is not None:
            most = min(most, (room.tokens - free.tokens) // each)
        if most < 0:
            return -1
        if fits(self.hold(most), room):
            return most
        # Cost units are rounded up per part, which has no closed form: the largest that fits, by halving.
        low, high = -1, most
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(self.hold(middle), room) else (low, middle)
        return low


def fits(hold: Hold, room: Limits) -> bool:
    """True when ``hold`` is within what is left."""
    return (
        (room.usd is None or hold.usd <= room.usd)
        and (room.tokens is None or hold.tokens <= room.tokens)
        and (room.cost is None or hold.cost <= room.cost)
    )
