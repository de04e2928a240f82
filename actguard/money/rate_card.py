"""The prices of one model, and the arithmetic that turns a usage into USD.

A price list names units: input tokens, cache reads (a part of the input tokens), audio input (another part), audio
cache reads (a part of both) … Each token is billed once, under the most specific unit that has a price. So the count
billed under a unit is what was used of it minus what more specific units bill already. For a given set of reported
counts that is one fixed linear formula, which is worked out once and then only evaluated: a few microseconds instead
of a few hundred.

A formula is trusted only after it agreed with the price list's own calculation, on the usage at hand and on the
smallest usage of the same shape. Where it does not agree (a minimum charge, say), the price list is asked every time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from itertools import combinations
from typing import NamedTuple

from actguard.money.amounts import MONEY, ZERO
from actguard.money.dearest import dearest
from actguard.money.units import INPUT, OUTPUT, Count, Counts, Rate, TokenRates, Unit
from actguard.money.usage import Usage

MAX_FORMULAS = 256
"""Formulas kept per rate card; a full store starts over."""

BUCKETS = frozenset(
    {
        "input_tokens",
        "cache_read_tokens",
        "cache_write_tokens",
        "cache_write_5m_tokens",
        "cache_write_1h_tokens",
        "output_tokens",
        "output_reasoning_tokens",
        "web_searches",
    }
)
"""Units that the fields of a `Usage` stand for."""

TOOLS: Mapping[str, str] = {
    "web_searches": "web searches",
    "storage_searches": "file searches",
    "code_executions": "code interpreter containers",
}
"""Units of providers' own tools, billed by the piece, and what they are called."""
_ONCE = "requests"
_LINE_KEYS = (
    _ONCE,
    "input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
    "output_reasoning_tokens",
    "web_searches",
)
"""The counts that the numbers of a `Line` are for, in its order."""

Leaf = tuple[Decimal, Decimal | None, tuple[tuple[str, int], ...]]
"""Price, per how many (None: per one), and the signed counts that add up to what is billed at it."""

Formula = tuple[Leaf, ...]
Kind = tuple[tuple[str, ...], tuple[str, ...], int]
"""The keys that were counted, those of them that are zero, and the tier."""
Shape = tuple[int, tuple[bool, ...]]
"""The tier, and which fields of a `Usage` are empty: what decides the kind where it has no details."""

Ask = Callable[[Counts], Decimal | None]
"""The price list's own calculation in USD; None when it finds the counts inconsistent."""


class Line(NamedTuple):
    """A formula for the buckets of a `Usage`, in whole numbers.

    The same sum as `evaluate` makes, to the last digit and with as many places, in a fifth of the time.
    """

    each: tuple[int, ...]
    """For each count of `_LINE_KEYS`, in ``unit``."""
    unit: Decimal
    """USD: the last decimal place that the prices have."""


class RateCard:
    """Prices usages of one model, for one context and day.

    ``units`` are all units the price list knows, ``rates`` the priced ones in its order, ``others`` further rates that
    may apply to the same model in another context or at another hour. ``fixed=False`` asks the list for each price.
    """

    def __init__(
        self,
        rates: Iterable[Rate],
        units: Mapping[str, Unit],
        ask: Ask,
        *,
        others: Iterable[Rate] = (),
        fixed: bool = True,
    ) -> None:
        self.fixed = fixed
        self._rates = tuple(rates)
        self._others = tuple(others)
        self._units = units
        self._ask = ask
        self._starts = sorted({start for rate in self._rates for start, _ in rate.tiers})
        self._formulas: dict[Kind, Formula | None] = {}
        self._marginal: dict[int, TokenRates] = {}
        self._lines: dict[Shape, Line] = {}
        """What `_formulas` has for usages that consist of consistent buckets: nearly all."""

    def price(self, usage: Usage) -> Decimal:
        """What ``usage`` costs in USD.

        Counts that contradict each other (more audio than input) or leave out one that matters have no exact price:
        they are charged at an upper bound, see `actguard.money.dearest`.
        """
        uncached, read, five, hour, output, reasoning, searches, details = usage
        reasoning = reasoning or 0
        if uncached < 0 or read < 0 or five < 0 or hour < 0 or searches < 0 or not 0 <= reasoning <= output:
            return self._price_by_formula(usage)[0]
        # Spelled out, this takes 2 µs. Loops over the fields take 4.
        whole, written = uncached + read + five + hour, five + hour
        empty = (not uncached, not read, not five, not hour, not output, not reasoning, not searches, not details)
        shape = (bisect_left(self._starts, whole), empty)
        line = self._lines.get(shape)
        if line is None:
            return self._price_of_new_shape(usage, shape)
        (once, of_whole, of_read, of_written, of_five, of_hour, of_output, of_reasoning, of_searches), unit = line
        total = once + of_whole * whole + of_output * output
        if read or written:
            total += of_read * read + of_written * written + of_five * five + of_hour * hour
        if reasoning or searches:
            total += of_reasoning * reasoning + of_searches * searches
        return MONEY.multiply(unit, total)

    def _price_of_new_shape(self, usage: Usage, shape: Shape) -> Decimal:
        usd, formula = self._price_by_formula(usage)
        if formula is not None and not usage.details and (line := line_of(formula)) is not None:
            self._lines[shape] = line
        return usd

    def _price_by_formula(self, usage: Usage) -> tuple[Decimal, Formula | None]:
        """The price, and by which formula; None where the price list was asked."""
        counts = self._counts(usage)
        zeros = tuple([key for key, count in counts.items() if not count]) if usage.details else ()
        kind = (tuple(counts), zeros, bisect_left(self._starts, counts.get("input_tokens", 0)))
        try:
            formula = self._formulas[kind]
        except KeyError:
            formula = self._remember(kind, counts)
        total = evaluate(formula, counts) if formula is not None else self._ask(counts)
        return (dearest(self._rates, self._units, counts) if total is None else total), formula

    @property
    def request_fee(self) -> Decimal:
        """USD charged for each call, whatever it used."""
        return next((rate.each(0) for rate in self._rates if rate.unit.key == "requests"), ZERO)

    def rates(self, input_tokens: int = 0) -> TokenRates:
        """USD per uncached input token and per output token in a call with so many input tokens; zero if unpriced."""
        tier = bisect_left(self._starts, input_tokens)
        found = self._marginal.get(tier)  # streams ask every few dozen chunks
        if found is None:
            by_key = {rate.unit.key: rate.each(input_tokens) for rate in self._rates}
            found = TokenRates(by_key.get("input_tokens", ZERO), by_key.get("output_tokens", ZERO))
            self._marginal[tier] = found
        return found

    def unpriced_tools(self, usage: Usage) -> tuple[str, ...]:
        """What the tools in ``usage`` are called that this model has no price for: they are not in `price`."""
        used = [key for key in TOOLS if usage.details.get(key)] if usage.details else []
        if usage.web_searches:
            used.append("web_searches")
        priced = {rate.unit.key for rate in self._rates} if used else ()
        return tuple(TOOLS[key] for key in used if key not in priced)

    @property
    def ceiling(self) -> TokenRates:
        """The most that one input and one output token can cost in USD: any tier, modality and cache write."""
        priced = (*self._rates, *self._others)
        highest = [
            max((rate.highest for rate in priced if whole <= rate.unit.dimensions), default=ZERO)
            for whole in (INPUT, OUTPUT)
        ]
        return TokenRates(*highest)

    def _counts(self, usage: Usage) -> dict[str, Count]:
        """``usage`` under the price list's keys, where parts are included in their whole."""
        counts: dict[str, Count] = {}
        if (tokens := usage.input_tokens) > 0:
            counts["input_tokens"] = tokens
        if (tokens := usage.cache_read_tokens) > 0:
            counts["cache_read_tokens"] = tokens
        if (tokens := usage.cache_write_tokens) > 0:
            counts["cache_write_tokens"] = tokens
            if (tokens := usage.cache_write_5m_tokens) > 0:
                counts["cache_write_5m_tokens"] = tokens
            if (tokens := usage.cache_write_1h_tokens) > 0:
                counts["cache_write_1h_tokens"] = tokens
        if (tokens := usage.output_tokens) > 0:
            counts["output_tokens"] = tokens
        if usage.reasoning_tokens is not None and usage.reasoning_tokens > 0:
            counts["output_reasoning_tokens"] = usage.reasoning_tokens
        if usage.web_searches > 0:
            counts["web_searches"] = usage.web_searches
        for key, value in usage.details.items():
            # A zero is kept: "no audio among the cache reads" is a fact that the price can depend on.
            if key in self._units and key not in BUCKETS and (count := _count(value)) is not None:
                counts[key] = count
        return counts

    def _remember(self, kind: Kind, counts: Counts) -> Formula | None:
        """The formula for this kind of counts if it can be trusted, else None."""
        formula = self._formula(counts) if self.fixed else None
        if formula is not None:
            smallest = self._smallest(counts)
            agrees = evaluate(formula, counts) == self._ask(counts) and (
                evaluate(self._formula(smallest), smallest) == self._ask(smallest)
            )
            formula = formula if agrees else None
        if len(self._formulas) >= MAX_FORMULAS:
            self._formulas.clear()
        self._formulas[kind] = formula
        return formula

    def _formula(self, counts: Counts) -> Formula | None:
        """What is billed at each rate, as sums of counts; None when a count that is needed is not known."""
        input_tokens = counts.get("input_tokens", 0)
        bills: dict[str, dict[str, int]] = {}
        by_specificity = sorted(self._rates, key=lambda rate: -len(rate.unit.dimensions))
        for rate in by_specificity:
            unit = rate.unit
            if unit.key not in counts and self._is_unknown(unit, counts):
                return None
            bill = {unit.key: 1} if unit.key in counts else {}
            for other in by_specificity:
                if unit.dimensions < other.unit.dimensions:
                    for key, sign in bills[other.unit.key].items():
                        bill[key] = bill.get(key, 0) - sign
            bills[unit.key] = {key: sign for key, sign in bill.items() if sign}
        leaves: list[Leaf] = []
        for rate in self._rates:  # in the list's own order, so that a division that rounds adds up alike
            if rate.unit.key == "requests":
                leaves.append((*_price_of_one(rate, input_tokens), ()))
            elif bill := bills[rate.unit.key]:
                leaves.append((*_price_of_one(rate, input_tokens), tuple(bill.items())))
        return tuple(leaves)

    def _is_unknown(self, unit: Unit, counts: Counts) -> bool:
        """True when a missing count cannot be taken as zero: parts of it, or two wholes it is shared by, were used."""
        used = [self._units[key].dimensions for key, value in counts.items() if value]
        if any(unit.dimensions < dimensions for dimensions in used):
            return True
        return any(
            one | two == unit.dimensions and not (one <= two or two <= one) for one, two in combinations(used, 2)
        )

    def _smallest(self, counts: Counts) -> dict[str, Count]:
        """The smallest consistent counts of the same shape: one of each kind beyond what its parts need."""
        dimensions = {key: self._units[key].dimensions for key, value in counts.items() if value}
        return {
            key: sum(dimensions[key] <= other for other in dimensions.values()) if value else 0
            for key, value in counts.items()
        }


def evaluate(formula: Formula | None, counts: Counts) -> Decimal | None:
    """The sum of ``formula`` in USD; None without a formula, and when a part exceeds its whole."""
    if formula is None:
        return None
    total = ZERO
    for price, per, terms in formula:
        billed: Count = 0 if terms else 1  # no terms: once per request
        for key, sign in terms:
            count = counts[key]
            billed = billed + sign * count if type(count) is int else MONEY.fma(count, sign, billed)
        if billed < 0:
            return None
        if per is None:
            total = MONEY.fma(price, billed, total)
        else:
            total = MONEY.add(total, MONEY.divide(MONEY.multiply(price, billed), per))
    return total


def line_of(formula: Formula) -> Line | None:
    """``formula`` in whole numbers; None where a price is no exact decimal, or a count is none of a bucket."""
    if any(per is not None for _, per, _ in formula):
        return None
    places = min((_exponent(price) for price, _, _ in formula), default=0)
    by_key = dict.fromkeys(_LINE_KEYS, 0)
    for price, _, terms in formula:
        each = int(price.scaleb(-places, MONEY))
        for key, sign in terms or ((_ONCE, 1),):
            if key not in by_key:
                return None
            by_key[key] += sign * each
    return Line(tuple(by_key.values()), Decimal((0, (1,), places)))


def _exponent(price: Decimal) -> int:
    """The exponent of a price, as a sum that begins with 0 has it."""
    exponent = price.as_tuple().exponent
    assert isinstance(exponent, int)
    return min(exponent, 0)


def _price_of_one(rate: Rate, input_tokens: Count) -> tuple[Decimal, Decimal | None]:
    """The price per single unit where that is an exact decimal (a millionth is, a 3600th is not), else per many."""
    price, each = rate.at(input_tokens), rate.each(input_tokens)
    return (each, None) if MONEY.multiply(each, rate.unit.per) == price else (price, rate.unit.per)


def _count(value: object) -> Count | None:
    """A count from a usage's details; None for what is no finite, non-negative number."""
    if type(value) is int:
        return value if value >= 0 else None
    if isinstance(value, float):
        value = Decimal(repr(float(value)))
    if isinstance(value, Decimal) and value.is_finite() and value >= 0:
        return value
    return None
