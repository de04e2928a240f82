"""What the guards of one client share. Built and wired by `Client`; guards only use it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from actguard.bus import Bus
from actguard.exceptions import ActGuardUsageError, GuardError, MonitoringDegradedError, quoted
from actguard.money.learned import UsageHistory
from actguard.money.own_prices import Price
from actguard.money.prices import PriceBook
from actguard.money.usage import Usage
from actguard.settings import OnUnpriced
from actguard.turns import Turns


@dataclass(frozen=True)
class Parts:
    """The parts of one client."""

    bus: Bus
    prices: PriceBook
    on_unpriced: OnUnpriced = "warn"
    patch_providers: Callable[[], None] = lambda: None
    """Patches the provider SDKs; called when a budget scope is entered, cheap after the first time."""
    budget_timeout_s: float | None = None
    """The longest that entering or leaving a root waits for a verdict, in seconds."""
    fails_closed: bool = False
    """A root is not opened when the gateway cannot be asked."""
    turns: Turns | None = None
    """With a gateway: runs that begin at once take turns, so that none of them holds up the event loop for long."""
    history: UsageHistory = field(default_factory=UsageHistory)
    """How much the models of this client used to answer."""
    _unpriced: dict[tuple[str, str], Price | None] = field(default_factory=dict)
    """What ``on_unpriced`` said about each model that has no price."""

    def price(
        self, provider: str, model: str, usage: Usage, context: Mapping[str, str], *, requested: str
    ) -> Decimal | None:
        """What a call cost in USD; None, with one warning per model, when nobody knows. Never raises."""
        usd = self.prices.price(provider, model, usage, context=context, requested=requested)
        if usd is None and model != requested:
            usd = self.prices.price(provider, requested, usage, context=context)
        if usd is None:
            own = self._price_of_unpriced(provider, requested)
            usd = None if own is None else own.cost(usage)
        elif usage.web_searches or usage.details:
            for tool in self.prices.unpriced_tools(provider, model, usage, context, requested=requested):
                self._note_unpriced_tool(provider, model, tool)
        return usd

    def refuse_unpriced(self, provider: str, model: str) -> None:
        """Before a call is sent, with ``on_unpriced="raise"``: is there a price for ``model``?

        Raises:
            GuardError: there is none (code ``UNPRICED_MODEL``).
        """
        if self.on_unpriced != "raise" or self.prices.marginal_rates(provider, model) is not None:
            return
        raise GuardError(
            "UNPRICED_MODEL",
            f"No price is known for model {quoted(model)} of {quoted(provider)}, and on_unpriced='raise' refuses calls "
            "that cannot be counted in USD. Give its price: Client(prices={model: Price(…)}).",
            details={"provider": provider, "model": model},
            fix_hint="Use another model.",
        )

    def note_uncounted(self, provider: str, what: str, *, hard: bool) -> None:
        """A call asks for something that has no price, or whose use is never reported: a warning, once for each kind.

        Raises:
            GuardError: (code ``UNPRICED_CALL``) limits are ``hard``, or ``on_unpriced`` is ``"raise"``.
        """
        if hard or self.on_unpriced == "raise":
            setting = "enforcement='hard'" if hard else "on_unpriced='raise'"
            raise GuardError(
                "UNPRICED_CALL",
                f"The cost of {what} of {quoted(provider)} cannot be counted, and {setting} refuses such calls. Make "
                f"them outside the budget scope{', or set allow_unbounded=True' if hard else ''}.",
                details={"provider": provider, "what": what},
                fix_hint="Do without it.",
            )
        self.bus.degraded(
            MonitoringDegradedError(
                subsystem="prices",
                operation=f"count {what} of {quoted(provider)}",
                failure_kind="not_counted",
                summary="Calls go on, and what they cost is not in the budget: charge it with actguard.add_cost(…).",
            )
        )

    def _note_unpriced_tool(self, provider: str, model: str, tool: str) -> None:
        self.bus.degraded(
            MonitoringDegradedError(
                subsystem="prices",
                operation=f"price {tool} of {quoted(provider)} {quoted(model)}",
                failure_kind="unpriced_tool",
                summary="They have no known price, and calls are charged without: add it with actguard.add_cost(…).",
            )
        )

    def _price_of_unpriced(self, provider: str, model: str) -> Price | None:
        key = (provider, model)
        if key not in self._unpriced:
            self._unpriced[key] = self._ask_for_price(provider, model)
        return self._unpriced[key]

    def _ask_for_price(self, provider: str, model: str) -> Price | None:
        problem = "it is counted in tokens, at zero USD. Give its price: Client(prices={model: Price(…)})."
        if callable(self.on_unpriced):
            try:
                price = self.on_unpriced(provider, model)
                if price is not None:
                    return Price.of(price, "on_unpriced")
            except ActGuardUsageError as error:
                problem = f"on_unpriced gave no usable one: {error}"
            except Exception as error:  # noqa: BLE001  a user's function must not break the call it prices
                problem = f"on_unpriced raised {type(error).__name__}; it is counted in tokens, at zero USD."
        self.bus.degraded(
            MonitoringDegradedError(
                subsystem="prices",
                operation=f"price {quoted(provider)} {quoted(model)}",
                failure_kind="unpriced_model",
                summary=f"No price is known for this model: {problem}",
            )
        )
        return None
