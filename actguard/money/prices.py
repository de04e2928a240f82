"""What a call costs: users' own prices first, then genai-prices, cached per model, context and day."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from actguard.money.catalog import LOADER, Loader, Request
from actguard.money.own_prices import MEMORY_SIZE, OwnPrices, Price
from actguard.money.rate_card import RateCard
from actguard.money.units import TokenRates
from actguard.money.usage import Usage

__all__ = ["Price", "PriceBook", "PriceContext", "TokenRates"]

PriceContext = Mapping[str, str] | tuple[tuple[str, str], ...]
"""What besides the model decides the price: ``service_tier`` (default, flex, priority, fast), ``processing`` (batch),
``speed`` (fast). A tuple of pairs is a little faster to look up than a mapping."""

CardKey = tuple[str, str, tuple[tuple[str, str], ...], int]
"""Provider, model, context and day."""

_PUBLIC_HOSTS = {
    "api.openai.com": "openai",
    "api.anthropic.com": "anthropic",
    "generativelanguage.googleapis.com": "google",
    "aiplatform.googleapis.com": "google",
}
"""The usual hosts, known without loading the price list: the provider's name is wanted before a call is sent."""


def utc_now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


class PriceBook:
    """Answers what calls cost, in exact USD. One per client; safe to use from any thread.

    ``own`` are the user's prices, which come before the price list (see `OwnPrices` for the keys). ``now`` is the
    clock: prices change by date, some by the hour.

    Raises:
        ActGuardUsageError: ``own`` is not a mapping of names to prices; ``.field`` is ``"prices"``.

    Example::

        book = PriceBook({"my-model": Price(input_per_mtok=1, output_per_mtok=2)})
        book.price("openai", "gpt-4o", Usage(uncached_input_tokens=1000, output_tokens=100))  # Decimal("0.0035")
    """

    def __init__(
        self,
        own: Mapping[str, Price | Mapping[str, Any]] | None = None,
        *,
        now: Callable[[], datetime] = utc_now,
        loader: Loader = LOADER,
    ) -> None:
        self._own = OwnPrices({} if own is None else own)
        self._now = now
        self._loader = loader
        self._cards: tuple[object, dict[CardKey, RateCard | None]] = (None, {})
        self._providers: dict[str, str | None] = {}

    @property
    def loaded(self) -> bool:
        """True when the price list is in memory, so that nothing here waits."""
        return self._loader.source is not None

    def preload(self) -> None:
        """Starts loading the price list in the background; for the first budget scope. Returns at once."""
        self._loader.preload()

    def load(self) -> None:
        """Loads the price list, or waits for a load that is under way. May be called from any thread, and again.

        Raises:
            ImportError: genai-prices cannot be imported.
        """
        self._loader.load()

    def price(
        self,
        provider: str,
        model: str,
        usage: Usage,
        *,
        context: PriceContext | None = None,
        requested: str | None = None,
    ) -> Decimal | None:
        """What ``usage`` of ``model`` costs in USD; None when no price is known.

        ``provider`` is genai-prices' name ("openai", "anthropic", "google", "azure", "aws", …), ``model`` the name in
        the answer, ``requested`` the name in the request where it is another (an alias, a deployment): own prices are
        found under both. Prices from the list are genai-prices' own, to the last digit. Usage that contradicts itself
        is charged at an upper bound, never at less than it cost.

        Takes a few microseconds after the first call of a kind. Waits while the price list is being loaded.
        """
        own = self._own.find(provider, model, requested)
        if own is not None:
            return own.cost(usage)
        card = self._card(provider, model, context)
        return None if card is None else card.price(usage)

    def marginal_rates(
        self,
        provider: str,
        model: str,
        context: PriceContext | None = None,
        *,
        requested: str | None = None,
        input_tokens: int = 0,
    ) -> TokenRates | None:
        """USD per uncached input token and per output token, in a call with ``input_tokens``; None when unpriced.

        Zero where a model is not priced by such tokens (speech by the minute, say).
        """
        own = self._own.find(provider, model, requested)
        if own is not None:
            return own.rates
        card = self._card(provider, model, context)
        return None if card is None else card.rates(input_tokens)

    def ceiling_rates(
        self, provider: str, model: str, context: PriceContext | None = None, *, requested: str | None = None
    ) -> TokenRates | None:
        """The most that one input token and one output token of ``model`` can cost, in USD; None when unpriced.

        The highest over all tiers, modalities, cache reads and writes, hours of the day and, when ``context`` is not
        given, service tiers. What is not billed by the token (searches, seconds, `request_fee`) comes on top.
        """
        own = self._own.find(provider, model, requested)
        if own is not None:
            return own.ceiling
        card = self._card(provider, model, context)
        return None if card is None else card.ceiling

    def request_fee(
        self, provider: str, model: str, context: PriceContext | None = None, *, requested: str | None = None
    ) -> Decimal | None:
        """USD charged for each call of ``model`` whatever it uses, mostly zero; None when unpriced."""
        own = self._own.find(provider, model, requested)
        if own is not None:
            return own.per_request
        card = self._card(provider, model, context)
        return None if card is None else card.request_fee

    def unpriced_tools(
        self,
        provider: str,
        model: str,
        usage: Usage,
        context: PriceContext | None = None,
        *,
        requested: str | None = None,
    ) -> tuple[str, ...]:
        """Which of the provider's own tools ``usage`` names without their having a price: `price` leaves them out.

        Example: ``("web searches",)``. Users' own prices have searches included.
        """
        if self._own.find(provider, model, requested) is not None:
            return ()
        card = self._card(provider, model, context)
        return () if card is None else card.unpriced_tools(usage)

    def provider_for_url(self, url: str | None, default: str) -> str:
        """Who answers at ``url``, a client's base URL; ``default`` for local and unknown addresses.

        Waits for the price list only for hosts that are neither local nor one of the three big providers'.
        """
        if not url:
            return default
        try:
            return self._providers[url] or default
        except KeyError:
            found = self._provider(url)
        if len(self._providers) >= MEMORY_SIZE:
            self._providers.clear()
        self._providers[url] = found
        return found or default

    def _provider(self, url: str) -> str | None:
        try:
            host = urlsplit(url).hostname or ""
        except ValueError:
            return None
        if "." not in host or host.endswith(".localhost") or _is_address(host):
            return None
        if host in _PUBLIC_HOSTS:
            return _PUBLIC_HOSTS[host]
        source = self._loader.load()
        return None if source is None else source.provider_for_url(url)

    def _card(self, provider: str, model: str, context: PriceContext | None) -> RateCard | None:
        source = self._loader.source or self._loader.load()
        if source is None:
            return None
        snapshot, cards = self._cards
        if snapshot is not source.snapshot:  # genai-prices has updated its prices
            snapshot, cards = self._cards = (source.snapshot, {})
        at = self._now()
        if at.tzinfo is not UTC:
            at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
        pairs: tuple[tuple[str, str], ...] = ()
        if context:
            pairs = context if isinstance(context, tuple) else tuple(sorted(context.items()))
        key = (provider, model, pairs, at.toordinal())
        try:
            return cards[key]
        except KeyError:
            card = source.rate_card(Request(provider, model, pairs, at))
        if card is None or card.fixed:
            if len(cards) >= MEMORY_SIZE:
                cards.clear()
            cards[key] = card
        return card


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
