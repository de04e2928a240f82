"""Hard limits: what a call can cost at the most, and how much output the budget affords."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from typing import NamedTuple

from actguard.guards.tree import Tree
from actguard.money.units import TokenRates
from actguard.money.usage import Usage
from actguard.rules.ledger import EXACT, ZERO, Hold, Limits, times, total

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
    parts: tuple[Usage, ...] = ()
    """What each of its requests can use at the most, when each is billed by itself: fees and rounding add up."""

    @classmethod
    def of_parts(cls, parts: Sequence[Usage], attempts: int) -> Bound:
        """The bound of a call that is billed in ``parts``, such as a batch."""
        return cls(
            sum(part.input_tokens for part in parts),
            output_tokens=sum(part.output_tokens for part in parts),
            attempts=attempts,
            parts=tuple(parts),
        )


@dataclass(frozen=True, slots=True)
class Tariff:
    """What the call costs at the most: per token, per request, and in cost units."""

    rates: TokenRates
    fee: Decimal
    cost_units: Callable[[int, int, Decimal], int]
    """(input tokens, output tokens, usd) of one attempt, in cost units."""

    def of(self, input_tokens: int, output_tokens: int) -> Hold:
        """The most that one request costs which uses so much."""
        by_input = EXACT.multiply(self.rates.input, Decimal(input_tokens))
        by_output = EXACT.multiply(self.rates.output, Decimal(output_tokens))
        usd = EXACT.add(EXACT.add(self.fee, by_input), by_output)
        return Hold(usd, input_tokens + output_tokens, self.cost_units(input_tokens, output_tokens, usd))


def tariff_of(tree: Tree, provider: str, model: str) -> Tariff:
    """What calls of ``model`` cost at the most in ``tree``; a model without a price costs nothing but tokens."""
    prices = tree.parts.prices

    def cost_units(input_tokens: int, output_tokens: int, usd: Decimal) -> int:
        usage = Usage(uncached_input_tokens=input_tokens, output_tokens=output_tokens)
        return tree.cost(provider, model, usage, usd)

    rates = prices.ceiling_rates(provider, model) or TokenRates(ZERO, ZERO)
    return Tariff(rates, prices.request_fee(provider, model) or ZERO, cost_units)


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
        bound, tariff = self.bound, self.tariff
        if bound.parts:
            return total(tariff.of(part.input_tokens, part.output_tokens) for part in bound.parts)
        return tariff.of(bound.input_tokens, self.outputs * output_tokens)

    def affordable(self, room: Limits, wanted: int) -> int:
        """The highest output limit, up to ``wanted``, with which the call fits; negative when it fits with none.

        Example: with 0.001 USD left, 10 USD per million output tokens and no input, 100.
        """
        if self.bound.output_tokens is not None:  # it cannot be lowered
            return wanted if fits(self.hold(wanted), room) else -1
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
