"""A price for counts that contradict each other: more audio than input, or a part without its whole.

Providers and proxies do send such counts. They have no exact price, and the call is paid all the same, so it is
charged at an upper bound: a budget may then stop too early, but never too late.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal, localcontext

from actguard.money.amounts import MONEY, ZERO
from actguard.money.units import INPUT, OUTPUT, Count, Counts, Dimensions, Rate, Unit


def dearest(rates: Sequence[Rate], units: Mapping[str, Unit], counts: Counts) -> Decimal:
    """The most that ``counts`` can cost, in USD.

    Each token is charged at the highest rate that the reported kinds of tokens can give its bucket; parts that exceed
    their whole are charged on top. The buckets themselves are taken as they are.
    """
    used = {units[key].dimensions: Decimal(value) for key, value in counts.items() if value}
    input_tokens = max((value for kind, value in used.items() if kind >= INPUT), default=ZERO)
    with localcontext(MONEY):
        total = ZERO
        for whole in (INPUT, OUTPUT):
            parts = {dimensions: value for dimensions, value in used.items() if whole <= dimensions}
            highest = ZERO
            for tokens, bucket in _disjoint(whole, parts):
                price = max(_price_of(kind, rates, input_tokens) for kind in _kinds(bucket, parts))
                total += price * tokens
                highest = max(highest, price)
            total += highest * _excess(whole, parts)
        for rate in rates:
            if not rate.unit.is_tokens:
                count = 1 if rate.unit.key == "requests" else Decimal(counts.get(rate.unit.key, 0))
                total += rate.each(input_tokens) * count
        return total


def _price_of(kind: Dimensions, rates: Iterable[Rate], input_tokens: Count) -> Decimal:
    """USD per token of this kind: the price of the most specific unit it belongs to."""
    fitting = [(len(rate.unit.dimensions), rate.each(input_tokens)) for rate in rates if rate.unit.dimensions <= kind]
    return max(fitting, default=(0, ZERO))[1]


def _disjoint(whole: Dimensions, parts: Mapping[Dimensions, Decimal]) -> Iterator[tuple[Decimal, Dimensions]]:
    """The tokens of one direction in buckets that do not overlap: those of the cache, and the rest."""
    read = whole | {("token_type", "cache_read")}
    write = whole | {("token_type", "cache_write")}
    one_hour = write | {("cache_ttl", "1h")}
    cached = {
        read: parts.get(read, ZERO),
        one_hour: parts.get(one_hour, ZERO),
        write: max(parts.get(write, ZERO) - parts.get(one_hour, ZERO), ZERO),
    }
    yield max(parts.get(whole, ZERO) - sum(cached.values()), ZERO), whole
    for bucket, tokens in cached.items():
        if tokens:
            yield tokens, bucket


def _kinds(bucket: Dimensions, parts: Iterable[Dimensions]) -> set[Dimensions]:
    """What a token of ``bucket`` may be: of any modality and, where the bucket names none, of any type reported."""
    reported = {item for kind in parts for item in kind}
    modalities = [{item} for item in reported if item[0] == "modality"]
    types = [{(name, value)} for name, value in reported if name == "token_type" and not value.startswith("cache_")]
    if any(name == "token_type" for name, _ in bucket):
        types = []
    return {bucket | modality | token_type for modality in [set(), *modalities] for token_type in [set(), *types]}


def _excess(whole: Dimensions, parts: Mapping[Dimensions, Decimal]) -> Decimal:
    """By how many tokens the reported parts exceed the whole."""
    by_modality: dict[str, Decimal] = {}
    for dimensions, tokens in parts.items():
        if modality := dict(dimensions).get("modality"):
            by_modality[modality] = max(by_modality.get(modality, ZERO), tokens)
    known = max(sum(by_modality.values(), ZERO), *parts.values(), ZERO)
    return max(known - parts.get(whole, ZERO), ZERO)
