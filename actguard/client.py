"""The client: the one place where the parts are constructed and wired."""

from __future__ import annotations

import os
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from anyio import to_thread

from actguard import settings as configuration
from actguard.budget_calls import BudgetCalls
from actguard.bus import Bus
from actguard.exceptions import ActGuardUsageError
from actguard.guards.arguments import flag, time_span
from actguard.guards.budget import BudgetGuard
from actguard.guards.parts import Parts
from actguard.guards.run import Run
from actguard.hub import Hub
from actguard.integrations import patch
from actguard.lifetime import Lifetime
from actguard.locks import when_safe
from actguard.money.own_prices import Price
from actguard.money.prices import PriceBook
from actguard.scope import step
from actguard.settings import EventMode, OnGatewayFailure, OnUnpriced, Settings
from actguard.subscribers.link import GatewayLink
from actguard.turns import Turns

CONFIG_VARIABLE = "ACTGUARD_CONFIG"


class Client(BudgetCalls):
    """Keeps agents inside the money and the actions that their owners allow.

    Without ``gateway_url`` or ``api_key`` everything works locally and nothing is sent. Times are in seconds (``_s``)
    or milliseconds (``_ms``).

    Args:
        api_key: the key for the gateway; never shown in a repr, log, error or event.
        gateway_url: base address of the gateway, https unless it is this machine or ``allow_insecure_gateway``.
        allow_insecure_gateway: send the key over plain http to another machine.
        debug: log requests and answers of the gateway, secrets redacted.
        event_mode: which events are exported: "off", "significant" or "verbose".
        flush_interval_ms: the longest that an event waits for its batch.
        max_batch_events: the most events in one request.
        max_batch_bytes: the largest body of one request.
        max_queue_events: how many events may wait for a slow subscriber or gateway; then the newest are dropped.
        timeout_s: fills ``budget_timeout_s`` and ``event_timeout_s`` where they are omitted.
        max_retries: fills ``budget_max_retries`` and ``event_max_retries`` where they are omitted.
        budget_timeout_s: the longest that entering or leaving a root budget waits for the gateway (3).
        budget_max_retries: how often a reserve or settle is tried again within that time (1).
        event_timeout_s: the longest that one request with events takes (5).
        event_max_retries: how often a batch is sent again before it is dropped (8).
        backoff_base_ms: the first pause between two tries.
        backoff_max_ms: the longest pause.
        on_gateway_failure: what opening a root budget does when the gateway cannot be asked: "open" goes on with local
            limits and one warning, "closed" raises `BudgetTransportError`.
        spool: path of a file that keeps settlements and events which could not be delivered, for later and for the
            next process; several processes may share it. Without one they are kept in memory.
        spool_max_bytes: how large that file may grow.
        prices: own prices by model, "provider:model" or pattern; they come before the price list (genai-prices).
        on_unpriced: what to do with a model that has no price: "warn" (count tokens, zero USD), "raise" (refuse it
            before it is sent) or a function ``(provider, model) -> Price | None``.

    Raises:
        ActGuardUsageError: a setting is of a wrong type or out of range; ``.field`` names it.

    Example::

        client = actguard.Client()
        with client.run(user_id="alice"), client.budget_guard(usd_limit=0.05) as budget:
            my_agent()
        print(budget.usd_used)
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        gateway_url: str | None = None,
        allow_insecure_gateway: bool = False,
        debug: bool = False,
        event_mode: EventMode = "verbose",
        flush_interval_ms: int = 1000,
        max_batch_events: int = 100,
        max_batch_bytes: int = 256_000,
        max_queue_events: int = 10_000,
        timeout_s: float | None = None,
        max_retries: int | None = None,
        budget_timeout_s: float | None = None,
        budget_max_retries: int | None = None,
        event_timeout_s: float | None = None,
        event_max_retries: int | None = None,
        backoff_base_ms: int = 200,
        backoff_max_ms: int = 10_000,
        on_gateway_failure: OnGatewayFailure = "open",
        spool: str | Path | None = None,
        spool_max_bytes: int | None = None,
        prices: Mapping[str, Price | Mapping[str, Any]] | None = None,
        on_unpriced: OnUnpriced = "warn",
    ) -> None:
        given = {name: value for name, value in locals().items() if name in Settings.model_fields}
        self._wire(configuration.validate(given))

    @classmethod
    def from_file(cls, path: str | Path) -> Client:
        """A client configured by a file: a JSON object with the constructor's fields.

        Raises:
            ActGuardUsageError: the file cannot be read, or a field is unknown or wrong.
        """
        return cls._configured(configuration.read_file(path), "Client.from_file")

    @classmethod
    def from_env(cls) -> Client:
        """A client configured by ``ACTGUARD_CONFIG``: base64 of a JSON object with the constructor's fields, or the
        path of a file with such an object. Unset or empty means ``Client()``.

        Raises:
            ActGuardUsageError: it is neither (the value is not shown), or a field is unknown or wrong.
        """
        value = os.environ.get(CONFIG_VARIABLE)
        return cls() if not value else cls._configured(configuration.read_env_value(value), CONFIG_VARIABLE)

    @classmethod
    def _configured(cls, values: Mapping[str, Any], source: str) -> Client:
        client = cls.__new__(cls)
        client._wire(configuration.validate(values, source=source))
        return client

    def _wire(self, settings: Settings) -> None:
        self._settings = settings
        self._hub = Hub()
        self.bus = Bus(self._hub, queue_size=settings.max_queue_events)
        """Where events are published: subscribe to it for your own telemetry."""
        self._parts = Parts(
            bus=self.bus,
            prices=PriceBook(settings.prices),
            on_unpriced=settings.on_unpriced,
            patch_providers=patch,
            budget_timeout_s=settings.budget_timeout_s,
            fails_closed=settings.has_gateway and settings.on_gateway_failure == "closed",
            turns=Turns() if settings.has_gateway else None,
        )
        self._link = GatewayLink(settings, self.bus, self._hub) if settings.has_gateway else None
        self._closed = False
        self._lifetime = Lifetime(self._hub, self.bus, self._link, self._closing_time)

    def __repr__(self) -> str:
        where = self._settings.gateway_url if self._settings.has_gateway else "local only"
        return f"<Client {where}{' (closed)' if self._closed else ''}>"

    def run(self, user_id: str | None = None, run_id: str | None = None, *, adopt_threads: bool = False) -> Run:
        """The scope around everything an agent does for one task; enter it with ``async with`` or ``with``.

        ``run_id`` defaults to a fresh id. With ``adopt_threads`` threads that carry no context join this run and
        charge its root budget; one such run per process at a time.

        Raises:
            ActGuardUsageError: an argument is wrong, or (on entry) another run adopts threads already.
            NestedRuntimeContextError: (on entry) a run is active here.

        Example:
            ``async with client.run(user_id="alice") as run: …``
        """
        self._check_open("run")
        flag(adopt_threads, "adopt_threads", "run")
        return Run(self._parts, user_id=user_id, run_id=run_id, adopt_threads=adopt_threads, client=self)

    def budget_guard(
        self,
        *,
        user_id: str | None = None,
        name: str | None = None,
        usd_limit: float | str | Decimal | None = None,
        token_limit: int | None = None,
        cost_limit: int | None = None,
        run_id: str | None = None,
        plan_key: str | None = None,
        on_crossing: Literal["raise", "return"] = "raise",
        enforcement: Literal["soft", "hard"] = "soft",
        min_output_tokens: int = 16,
        allow_unbounded: bool = False,
        on_full: Literal["raise", "wait"] = "raise",
        share: float | str | Decimal | None = None,
    ) -> BudgetGuard:
        """A budget around everything that happens inside; enter it with ``async with`` or ``with``, inside a run.

        The first scope of a run is its root, scopes inside it are nested and charge it too. Whichever limit is
        reached first (used >= limit) stops the spending: the call that crosses it is recorded and raises
        `BudgetExceededError` with the paid answer as ``.response``; the next one is refused before it is sent.

        Args:
            user_id: whom it acts for; the run's user when omitted.
            name: what the scope is called in events, errors and breakdowns.
            usd_limit: the most to spend, in USD, read as it is written (``0.1`` is ten cents exactly).
            token_limit: the most tokens, input plus output.
            cost_limit: the most cost units (CU): a call's USD × 1,000, rounded up, or by the gateway's tariff.
            run_id: the run it must be in; a check, nothing more.
            plan_key: the plan at the gateway to reserve from.
            on_crossing: "return" hands the crossing answer back instead of raising, and refuses the next call. A stream
                that reaches a limit is closed and just ends.
            enforcement: "soft" lets each call overshoot by its own cost; "hard" holds the most that each call can cost
                before it is sent and lowers its output limit until that fits, so that no limit is ever exceeded.
            min_output_tokens: a hard scope refuses a call that could not have this much output.
            allow_unbounded: a hard scope admits calls whose cost has no bound (stored prompts, server-side tools,
                unpriced models) like a soft one, instead of refusing them.
            on_full: "wait" waits while only the holds of other calls are in the way, instead of refusing.
            share: for a nested scope: its limits are this part of what the scopes around it have left at entry.

        Raises:
            ActGuardUsageError: an argument is wrong (code ``usage.budget_guard_configuration``); on entry see
                `BudgetGuard.__aenter__`.

        Example:
            ``async with client.budget_guard(usd_limit=0.05) as budget: …``
        """
        self._check_open("budget_guard")
        return BudgetGuard(
            self._parts,
            user_id=user_id,
            name=name,
            usd_limit=usd_limit,
            token_limit=token_limit,
            cost_limit=cost_limit,
            run_id=run_id,
            plan_key=plan_key,
            on_crossing=on_crossing,
            enforcement=enforcement,
            min_output_tokens=min_output_tokens,
            allow_unbounded=allow_unbounded,
            on_full=on_full,
            share=share,
        )

    def stats(self) -> dict[str, int | bool]:
        """Figures about the client itself: events dropped, exported and waiting, settlements waiting, subscriptions,
        handlers, whether its thread runs.
        """
        subscriptions, handlers = self.bus.counts()
        link = self._link
        events_waiting, settlements_waiting = (0, 0) if link is None else link.waiting
        return {
            "events_dropped": self.bus.dropped() + (0 if link is None else link.dropped),
            "events_exported": 0 if link is None else link.exported,
            "events_waiting": events_waiting,
            "settlements_waiting": settlements_waiting,
            "subscriptions": subscriptions,
            "handlers": handlers,
            "hub_running": self._hub.running,
        }

    async def aflush(self, timeout: float | None = None) -> bool:
        """Wait until everything published so far is handled and exported, and what could not be settled is settled;
        False when ``timeout`` seconds (``event_timeout_s + budget_timeout_s`` when omitted) passed before that.

        Raises:
            ActGuardUsageError: ``timeout`` is no number of seconds.
        """
        return await self._lifetime.flush(
            self._closing_time if timeout is None else time_span(timeout, "timeout", "flush")
        )

    def flush(self, timeout: float | None = None) -> bool:
        """The same as `aflush`, blocking this thread."""
        return step(self.aflush(timeout))

    async def aclose(self) -> None:
        """Deliver what is queued, end all subscriptions and stop the background thread.

        Takes at most ``event_timeout_s + budget_timeout_s`` seconds. Closing twice does nothing.
        """
        if self._hub.running:
            await to_thread.run_sync(self.close)
        else:
            self.close()

    def close(self) -> None:
        """The same as `aclose`, blocking this thread."""
        if not self._closed:
            self._closed = True
            step(self._lifetime.end())

    async def __aenter__(self) -> Client:
        self._check_open("Client")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __enter__(self) -> Client:
        self._check_open("Client")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # Dropped without close(): deliver what is queued and end the thread, without waiting for it here.
        lifetime = getattr(self, "_lifetime", None)
        if lifetime is not None and not self._closed:
            when_safe(lifetime.end_soon)

    @property
    def _closing_time(self) -> float:
        return self._settings.event_timeout_s + self._settings.budget_timeout_s

    def _check_open(self, what: str) -> None:
        if self._closed:
            raise ActGuardUsageError(f"{what}: this client is closed; make a new Client.", field="client")
