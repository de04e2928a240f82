"""Prices that users bring along: for models no price list knows, for negotiated rates, for their own deployments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Any

from actguard.exceptions import ActGuardUsageError, quoted
from actguard.money.amounts import MONEY, ZERO, Amount, as_written
from actguard.money.names import listed_names
from actguard.money.units import TokenRates
from actguard.money.usage import Usage

MEMORY_SIZE = 1024
"""Names whose answer is remembered; a full memory starts over."""


@dataclass(frozen=True, slots=True, init=False)
class Price:
    """What a model costs: USD per million tokens, and USD per request.

    Amounts are read as written (``0.15`` is fifteen cents exactly). ``cached_input_per_mtok`` and
    ``cache_write_per_mtok`` default to the input price, ``cache_write_1h_per_mtok`` to ``cache_write_per_mtok``.
    Audio, image and reasoning tokens cost what other tokens of their direction cost; searches are free of charge.

    Raises:
        ActGuardUsageError: an amount is negative, not finite, a bool or no number; ``.field`` names it.

    Example::

        Client(prices={"azure:my-deployment": Price(input_per_mtok="0.15", output_per_mtok="0.60")})
    """

    input_per_mtok: Decimal
    output_per_mtok: Decimal
    cached_input_per_mtok: Decimal
    cache_write_per_mtok: Decimal
    cache_write_1h_per_mtok: Decimal
    per_request: Decimal

    def __init__(
        self,
        *,
        input_per_mtok: Amount,
        output_per_mtok: Amount,
        cached_input_per_mtok: Amount | None = None,
        cache_write_per_mtok: Amount | None = None,
        cache_write_1h_per_mtok: Amount | None = None,
        per_request: Amount = 0,
    ) -> None:
        if cache_write_per_mtok is None:
            cache_write_per_mtok = input_per_mtok
        given = {
            "input_per_mtok": input_per_mtok,
            "output_per_mtok": output_per_mtok,
            "cached_input_per_mtok": input_per_mtok if cached_input_per_mtok is None else cached_input_per_mtok,
            "cache_write_per_mtok": cache_write_per_mtok,
            "cache_write_1h_per_mtok": (
                cache_write_per_mtok if cache_write_1h_per_mtok is None else cache_write_1h_per_mtok
            ),
            "per_request": per_request,
        }
        for name, value in given.items():
            object.__setattr__(self, name, _amount(name, value))

    @classmethod
    def of(cls, value: Price | Mapping[str, Any], field: str = "prices") -> Price:
        """``value`` itself, or a price from a mapping of its parameters, as a configuration file has it.

        Raises:
            ActGuardUsageError: neither of the two, an unknown or missing parameter, or a wrong amount.
        """
        if isinstance(value, Price):
            return value
        if not isinstance(value, Mapping):
            raise ActGuardUsageError(f"{field} must be a Price, not {type(value).__name__}", field=field)
        known = [each.name for each in fields(cls)]
        if unknown := sorted(str(key) for key in value if key not in known):
            raise ActGuardUsageError(f"{field}: {quoted(unknown[0])} is not one of {', '.join(known)}", field=field)
        if missing := [name for name in known[:2] if name not in value]:
            raise ActGuardUsageError(f"{field}: {missing[0]} is missing", field=field)
        try:
            return cls(**value)
        except ActGuardUsageError as exc:
            problem = str(exc)
        raise ActGuardUsageError(f"{field}: {problem.removeprefix('Price: ')}", field=field)

    def cost(self, usage: Usage) -> Decimal:
        """What ``usage`` costs in USD."""
        per_million = ZERO
        for tokens, rate in (
            (usage.uncached_input_tokens, self.input_per_mtok),
            (usage.cache_read_tokens, self.cached_input_per_mtok),
            (usage.cache_write_5m_tokens, self.cache_write_per_mtok),
            (usage.cache_write_1h_tokens, self.cache_write_1h_per_mtok),
            (usage.output_tokens, self.output_per_mtok),
        ):
            if tokens > 0:
                per_million = MONEY.add(per_million, MONEY.multiply(rate, Decimal(tokens)))
        return MONEY.add(self.per_request, per_million.scaleb(-6, MONEY))

    @property
    def rates(self) -> TokenRates:
        """USD per uncached input token and per output token."""
        return TokenRates(self.input_per_mtok.scaleb(-6, MONEY), self.output_per_mtok.scaleb(-6, MONEY))

    @property
    def ceiling(self) -> TokenRates:
        """The most that one input token, cached or not, and one output token can cost, in USD."""
        dearest = max(
            self.input_per_mtok, self.cached_input_per_mtok, self.cache_write_per_mtok, self.cache_write_1h_per_mtok
        )
        return TokenRates(dearest.scaleb(-6, MONEY), self.output_per_mtok.scaleb(-6, MONEY))


def _amount(name: str, value: object) -> Decimal:
    try:
        return as_written(value)
    except ValueError as exc:
        problem = str(exc)
    # Raised outside the except block: the message says it all, a chained ValueError would only repeat it.
    raise ActGuardUsageError(f"Price: {name} {problem}", field=name)


class OwnPrices:
    """Users' prices by name: ``"model"``, ``"provider:model"``, or either with ``*`` and ``?`` in it.

    Case does not matter. An exact name is preferred to a pattern, a long pattern to a short one, and of two names
    that are equally good the one with the provider.
    """

    def __init__(self, prices: Mapping[Any, Any]) -> None:
        if not isinstance(prices, Mapping):
            raise ActGuardUsageError(
                f"prices must be a mapping of model names to Price, not {type(prices).__name__}", field="prices"
            )
        self._exact: dict[str, Price] = {}
        patterns: dict[str, Price] = {}
        for key, value in prices.items():
            if not isinstance(key, str) or not key.strip():
                raise ActGuardUsageError(f"prices: {quoted(key)} is not a model name", field="prices")
            name = key.strip().lower()
            if name in self._exact or name in patterns:
                raise ActGuardUsageError(f"prices: {quoted(key)} is given twice", field="prices")
            price = Price.of(value, field=f"prices[{quoted(key)}]")
            if any(char in name for char in "*?["):
                patterns[name] = price
            else:
                self._exact[name] = price
        self._patterns = sorted(patterns.items(), key=lambda item: -len(item[0]))
        self._any = bool(self._exact or self._patterns)
        self._found: dict[tuple[str, str, str | None], Price | None] = {}

    def __bool__(self) -> bool:
        return self._any

    def find(self, provider: str, model: str, requested: str | None = None) -> Price | None:
        """The price of ``model``, which the caller asked for as ``requested``; None when the user gave none."""
        if not self._any:
            return None
        asked = (provider, model, requested)
        try:
            return self._found[asked]
        except KeyError:
            found = self._search(*asked)
        if len(self._found) >= MEMORY_SIZE:
            self._found.clear()
        self._found[asked] = found
        return found

    def _search(self, provider: str, model: str, requested: str | None) -> Price | None:
        models = [model, *listed_names(provider, model)]
        if requested is not None:
            models += [requested, *listed_names(provider, requested)]
        names = [name.lower() for each in models for name in (f"{provider}:{each}", each)]
        for name in names:
            if name in self._exact:
                return self._exact[name]
        for pattern, price in self._patterns:
            if any(fnmatchcase(name, pattern) for name in names):
                return price
        return None
