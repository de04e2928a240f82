"""genai-prices: the one place that imports it, and that knows its types.

The import takes about half a second and a hundred megabytes, so it happens once per process, when a price is first
needed or, better, in a background thread before that. Three things can go wrong while a thread is in the middle of it:

- The interpreter exits: a daemon thread that is stopped inside a compiled extension can bring the process down. So
  the exit waits.
- The process forks: the child would wait forever for import locks whose owner it does not have. So the fork waits.
- The loading thread itself comes back for a price (garbage collection runs finalizers in any thread). It cannot wait
  for itself, and gets no price.
"""

from __future__ import annotations

import atexit
import logging  # noqa: F401  has fork handlers as well: they must not be registered while a fork waits for the import
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING, NamedTuple

from actguard.money.amounts import MONEY
from actguard.money.names import is_fine_tune, listed_names
from actguard.money.rate_card import Ask, RateCard
from actguard.money.units import Counts, Rate, Unit

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo, ModelPrice, PriceCalculation, StartDateConstraint, TimeOfDateConstraint

PATIENCE_S = 10.0
"""How long the exit of the interpreter and a fork wait for an import that is under way."""


class Loader:
    """Imports genai-prices once per process, in whichever thread gets there first."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # reentrant: a finalizer may come between taking it and noting the owner
        self._owner: int | None = None
        self._started = False
        self._held_for_fork = False
        self.source: Source | None = None

    def preload(self) -> None:
        """Starts loading in a daemon thread; returns at once, and does nothing after the first time."""
        if self._started or self.source is not None:
            return
        self._started = True
        thread = threading.Thread(target=self._load_quietly, name="actguard-prices", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no threads any more (or none left): the first price will load
            self._started = False

    def load(self) -> Source | None:
        """The loaded source; waits while it is being loaded. None when called from inside the load itself.

        Raises:
            ImportError: genai-prices is not there or does not work.
        """
        source = self.source
        if source is not None:
            return source
        if self._owner == threading.get_ident():
            return None
        with self._lock:
            self._owner = threading.get_ident()
            try:
                source = self.source = self.source or Source()
            finally:
                self._owner = None
        return source

    def _load_quietly(self) -> None:
        try:
            self.load()
        except Exception:  # noqa: BLE001  the first price meets the same error, in the thread that wants to know
            self._started = False

    def wait(self) -> None:
        """Waits until no import is under way, ten seconds at most."""
        if self._owner != threading.get_ident() and self._lock.acquire(timeout=PATIENCE_S):
            self._lock.release()

    def before_fork(self) -> None:
        self._held_for_fork = self._owner != threading.get_ident() and self._lock.acquire(timeout=PATIENCE_S)

    def after_fork_in_parent(self) -> None:
        if self._held_for_fork:
            self._held_for_fork = False
            self._lock.release()

    def after_fork_in_child(self) -> None:
        self._lock = threading.RLock()
        self._owner = None
        self._started = self._held_for_fork = False


LOADER = Loader()
"""One per process, like the import that it guards."""

atexit.register(LOADER.wait)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=LOADER.before_fork,
        after_in_parent=LOADER.after_fork_in_parent,
        after_in_child=LOADER.after_fork_in_child,
    )


@dataclass(frozen=True, slots=True)
class Request:
    """What a rate card is asked for: a model, the context of its prices, and the time."""

    provider: str
    model: str
    context: tuple[tuple[str, str], ...]
    at: datetime


class Source:
    """genai-prices, imported. Everything it says is turned into our own types here."""

    def __init__(self) -> None:
        from genai_prices import Usage, data_snapshot, data_units, types

        self._usage = Usage
        self._types = types
        self._get_snapshot = data_snapshot.get_snapshot
        self._get_snapshot()
        self._units = {
            key: Unit(key, Decimal(raw["per"]), frozenset(raw["dimensions"].items()))
            for key, raw in data_units.unit_data.items()
        }
        self._unit_of_price = {raw.get("price_key", key): self._units[key] for key, raw in data_units.unit_data.items()}

    @property
    def snapshot(self) -> DataSnapshot:
        """The prices in force: replaced as a whole when the program lets genai-prices update itself."""
        return self._get_snapshot()

    def newest_change(self, until: date) -> date | None:
        """The latest day up to ``until`` on which some price of the list changed: the list is not older than that."""
        days = (
            each.constraint.start_date
            for provider in self.snapshot.providers
            for model in provider.models
            for each in _conditional(model)
            if isinstance(each.constraint, self._types.StartDateConstraint)
        )
        return max((day for day in days if day <= until), default=None)

    def provider_for_url(self, url: str) -> str | None:
        """The provider whose API lives at ``url``; None when it is nobody's."""
        try:
            return self.snapshot.find_provider(None, None, url).id
        except LookupError:
            return None

    def rate_card(self, request: Request) -> RateCard | None:
        """The prices of a model; None when the list has none that is surely meant."""
        context = dict(request.context)
        for name in listed_names(request.provider, request.model):
            try:
                found = self._calculate({}, name, request, context)
            except LookupError:
                continue
            if is_fine_tune(name) and not is_fine_tune(found.model.id):
                continue  # its organisation or suffix happens to contain another model's name
            ask = self._ask(name, request, context)
            others = self._other_rates(found, request.at, context)
            fixed = not any(self._moves_within_a_day(each.constraint) for each in _conditional(found.model))
            return RateCard(self._rates(found.model_price), self._units, ask, others=others, fixed=fixed)
        return None

    def _calculate(self, counts: Counts, name: str, request: Request, context: Mapping[str, str]) -> PriceCalculation:
        usage = self._usage(**counts)
        return self.snapshot.calc(usage, name, request.provider, None, request.at, context or None)

    def _ask(self, name: str, request: Request, context: Mapping[str, str]) -> Ask:
        def ask(counts: Counts) -> Decimal | None:
            try:
                with localcontext(MONEY):
                    return self._calculate(counts, name, request, context).total_price
            except ValueError:
                return None

        return ask

    def _rates(self, prices: ModelPrice) -> list[Rate]:
        rates: list[Rate] = []
        for price_key, price in vars(prices).items():
            unit = self._unit_of_price.get(price_key)
            if unit is None or price is None:
                continue
            if isinstance(price, self._types.TieredPrices):
                tiers = tuple((tier.start, tier.price) for tier in price.tiers)
                rates.append(Rate(unit, price.base, tiers))
            else:
                rates.append(Rate(unit, price))
        return rates

    def _other_rates(self, found: PriceCalculation, at: datetime, context: Mapping[str, str]) -> list[Rate]:
        """Rates that the same call may meet in another hour, or, where no context is given, in any context."""
        is_own = any(found.model is model for model in found.provider.models)  # others' variants are not applied
        rates: list[Rate] = []
        for prices, constraint, when in _conditional(found.model):
            comes_and_goes = self._moves_within_a_day(constraint)
            if when is None:
                applies = comes_and_goes
            elif is_own and (not context or when.items() <= context.items()):
                applies = constraint is None or comes_and_goes or constraint.active(at)
            else:
                applies = False
            if applies:
                rates += self._rates(prices)
        return rates

    def _moves_within_a_day(self, constraint: object) -> bool:
        return constraint is not None and not isinstance(constraint, self._types.StartDateConstraint)


class _Conditional(NamedTuple):
    """Prices that hold at times, or, as variants, in a context."""

    prices: ModelPrice
    constraint: StartDateConstraint | TimeOfDateConstraint | None
    when: Mapping[str, str] | None


def _conditional(model: ModelInfo) -> list[_Conditional]:
    by_time = model.prices if isinstance(model.prices, list) else []
    return [
        *(_Conditional(each.prices, each.constraint, None) for each in by_time),
        *(_Conditional(each.prices, each.constraint, each.when) for each in model.price_variants or ()),
    ]
