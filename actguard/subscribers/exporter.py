"""The exporter: sends events to the gateway in batches, in order, each at least once.

An event is put into its envelope when it arrives and keeps its id for ever, so that the gateway can tell a repetition.
One batch is on its way at a time; while it is, the next ones wait in the outbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Sequence

from actguard.events import (
    BudgetBlocked,
    CustomEvent,
    Event,
    GuardBlocked,
    GuardIntervention,
    LlmUsage,
    RunEnd,
    RunStart,
    ToolFailure,
    ToolInvoke,
    utc_now,
)
from actguard.exceptions import MonitoringDegradedError
from actguard.gateway.delivery import UNREADABLE_PAUSE_S, Delivery
from actguard.gateway.envelope import envelope
from actguard.gateway.failures import GatewayFailure
from actguard.gateway.http import Call, Transport
from actguard.gateway.json_safe import utc_text
from actguard.gateway.letters import Letter
from actguard.gateway.outbox import Outbox
from actguard.gateway.wire import EVENTS_PATH
from actguard.settings import EventMode, Settings
from actguard.subscribers.tool_runs import exports_tool_runs

EXPORTED = frozenset(
    {
        "run.start",
        "run.end",
        "llm.usage",
        "guard.blocked",
        "guard.intervention",
        "budget.limit_exceeded",
        "budget.blocked",
        "tool.invoke",
        "tool.failure",
    }
)
"""What operators want to know. Users' own events come on top in mode "verbose"."""

_SIGNIFICANT: tuple[type[Event], ...] = (
    RunStart,
    RunEnd,
    LlmUsage,
    GuardBlocked,
    GuardIntervention,
    BudgetBlocked,
    ToolInvoke,
    ToolFailure,
)
_NEVER = frozenset({"budget.reserved", "budget.settled"})
_OPENING, _CLOSING = b'{"events":[', b"]}"


def exported_kinds(mode: EventMode) -> tuple[type[Event], ...]:
    """The event classes that are exported in ``mode``; none when it is "off"."""
    return () if mode == "off" else (*_SIGNIFICANT, CustomEvent)


def is_exported(event: Event, mode: EventMode, tool_runs: Callable[[], bool] = exports_tool_runs) -> bool:
    """Whether ``event`` goes to the gateway: by its identity, whoever published it."""
    if mode == "off" or type(event).lifecycle:
        return False
    kind = event.kind
    if kind in EXPORTED:
        return kind != "tool.invoke" or tool_runs()
    return mode == "verbose" and kind not in _NEVER


class Exporter(Delivery):
    """Takes events on the hub and delivers them."""

    def __init__(
        self,
        settings: Settings,
        transport: Transport,
        outbox: Outbox,
        degraded: Callable[[MonitoringDegradedError], None],
    ) -> None:
        super().__init__(outbox)
        self._transport = transport
        self._degraded = degraded
        self._most_events = settings.max_batch_events
        self._most_bytes = settings.max_batch_bytes - len(_OPENING) - len(_CLOSING)
        self._interval_s = settings.flush_interval_ms / 1000
        self._timeout_s = settings.event_timeout_s
        self._retries = settings.event_max_retries
        self._arrived = asyncio.Event()
        self._due = asyncio.Event()
        self._flushes = 0
        self._refused = 0
        self.exported = 0
        """Events that the gateway has accepted."""

    @property
    def dropped(self) -> int:
        """Events that will not be exported: too large, refused, given up, or without room to wait in."""
        return self._refused + self.outbox.lost

    def take(self, events: Sequence[Event]) -> None:
        """Put ``events`` into the outbox. Never waits."""
        taken_at = utc_text(utc_now())
        for event in events:
            try:
                body = envelope(event, taken_at)
            except Exception as error:  # noqa: BLE001  one event that cannot be told must not cost the others
                self._refused += 1
                self._report("export", type(error).__name__, "An event cannot be written as JSON; it is dropped.")
                continue
            if len(body) > self._most_bytes:
                self._refused += 1
                summary = f"An event is larger than max_batch_bytes ({len(body)} bytes); it is dropped."
                self._report("export", "too_large", summary)
            elif not self.outbox.put(Letter(event.id, body)):
                self._report(
                    "publish",  # as the bus says it, so that it is said once
                    "queue_full",
                    "The gateway does not keep up, or cannot be reached; max_queue_events wait already and new ones "
                    "are dropped (counted in client.stats()).",
                )
        self.look()

    def look(self) -> None:
        """Look at the outbox: letters may have come."""
        if self.outbox.waiting:
            self._arrived.set()
        if self.outbox.waiting >= self._most_events or self.outbox.size >= self._most_bytes:
            self._due.set()

    async def live(self) -> None:
        """Deliver what comes, until cancelled."""
        while True:
            await self._until_due()
            batch = await self.outbox.first(self._most_events, self._most_bytes)
            # A comma stands between two events.
            while len(batch) > 1 and sum(len(letter.body) + 1 for letter in batch) - 1 > self._most_bytes:
                batch.pop()
            if batch:
                await self._deliver(batch)
            elif self.outbox.waiting:
                await self.pause(UNREADABLE_PAUSE_S)
                await self.outbox.recount()

    async def flush(self, *, leave_durable: bool = False) -> None:
        """Deliver all that was taken, without waiting for batches to fill."""
        self._flushes += 1
        self._due.set()
        try:
            await super().flush(leave_durable=leave_durable)
        finally:
            self._flushes -= 1

    async def _until_due(self) -> None:
        """Wait until there is a full batch, or something that has waited long enough."""
        if not self.outbox.waiting:
            self.tried(failed=False)
            self._arrived.clear()
            await self._arrived.wait()
        self._due.clear()
        self.look()
        if not self._flushes:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._due.wait()

    async def _deliver(self, batch: list[Letter]) -> None:
        """Send one batch until it is accepted or given up."""
        names = hashlib.sha256("\n".join(letter.key for letter in batch).encode())
        body = _OPENING + b",".join(letter.body for letter in batch) + _CLOSING
        call = Call(EVENTS_PATH, body, key=names.hexdigest()[:32], reads_answer=False)
        tries = 0
        while True:
            try:
                await self._transport.attempt(call, self._timeout_s)
            except GatewayFailure as error:
                failure = error
            else:
                await self.outbox.remove(batch)
                self.exported += len(batch)
                self.tried(failed=False)
                return
            if not _may_pass(failure):
                await self._give_up(batch, failure)
                return
            if tries >= self._retries:
                if not self.outbox.durable:
                    await self._give_up(batch, failure)
                    return
                self._warn(failure, "Events stay in the spool and are sent later.")
            self.tried(failed=True)
            await self.pause(self._transport.backoff.pause(tries, failure.retry_after))
            tries += 1

    async def _give_up(self, batch: list[Letter], failure: GatewayFailure) -> None:
        self._warn(failure, "Events are dropped (counted in client.stats()).")
        self._refused += len(batch)
        await self.outbox.remove(batch)
        self.tried(failed=False)

    def _warn(self, failure: GatewayFailure, consequence: str) -> None:
        self._degraded(failure.degraded("export", consequence, subsystem="events"))

    def _report(self, operation: str, kind: str, summary: str) -> None:
        self._degraded(
            MonitoringDegradedError(subsystem="events", operation=operation, failure_kind=kind, summary=summary)
        )


def _may_pass(failure: GatewayFailure) -> bool:
    """Whether a batch is tried again: other than a reservation, it is not to blame for the state of an account."""
    return failure.retryable or failure.status in (402, 409)
