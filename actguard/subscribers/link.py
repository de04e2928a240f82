"""The link between one client and its gateway: a resident of the hub that builds and runs everything that talks to it.

The parts are made anew each time the hub starts, so a forked child begins with none of its parent's connections,
letters and locks.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Coroutine, Sequence, Set
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from actguard.bus import Bus
from actguard.events import Event, Reserved, ReserveRequested, SettleRequested
from actguard.exceptions import ActGuardError, BudgetTransportError, MonitoringDegradedError
from actguard.gateway.failures import GatewayFailure
from actguard.gateway.http import Answer, Call, Transport, load
from actguard.gateway.outbox import Outbox, Spool
from actguard.gateway.tariff_source import INSTEAD, TariffSource
from actguard.hub import Hub
from actguard.scope import Reply
from actguard.settings import Settings
from actguard.subscribers.exporter import Exporter, exported_kinds, is_exported
from actguard.subscribers.reservation import Reservations
from actguard.subscribers.settlement import Settlement
from actguard.subscription import Flush, Handler

if TYPE_CHECKING:
    from actguard.gateway.spool import SpoolFile

T = TypeVar("T")

ADOPT_EVERY_S = 30.0
"""How often a client looks for letters that a dead process left in the shared spool."""
SPOOL_PATIENCE_S = 2.0
"""How long one access to the spool waits for another process."""
REST_AFTER_BUG_S = 1.0
MARGIN_S = 0.1
CLOSING_S = 1.0
"""How long closing connections and the spool may take."""


_parents_lives: list[object] = []
"""What belongs to the parent, kept in a forked child: freeing a connection there would disturb the parent's."""


class _Life:
    """Everything that exists between a start of the hub and its stop."""

    def __init__(self, settings: Settings, bus: Bus, parents: Set[str]) -> None:
        assert settings.gateway_url is not None
        assert settings.api_key is not None
        self.process = os.getpid()
        self.ready = asyncio.Event()
        """Set when what waits is known."""
        self.transport = Transport(settings)
        self.spool: Spool | None = None
        if settings.spool is not None:
            spool = import_module("actguard.gateway.spool")  # with SQLite, which most programs do without
            file: SpoolFile = spool.SpoolFile(
                settings.spool,
                gateway=spool.addressee(settings.gateway_url, settings.api_key.get_secret_value()),
                max_bytes=settings.spool_max_bytes,
                patience_s=min(SPOOL_PATIENCE_S, settings.budget_timeout_s / 2),
            )
            self.spool = Spool(file, bus.degraded)
        tariff = TariffSource(
            self.transport,
            timeout_s=settings.budget_timeout_s,
            retries=settings.budget_max_retries,
            failed=lambda failure: bus.degraded(failure.degraded("tariff", INSTEAD, subsystem="budget")),
        )
        self.settlement = Settlement(settings, self.transport, Outbox("settlement", spool=self.spool), bus)
        self.reservations = Reservations(settings, self.transport, tariff, self.settlement, bus, parents)
        events = Outbox("event", spool=self.spool, room=settings.max_queue_events)
        self.exporter = Exporter(settings, self.transport, events, bus.degraded)

    async def adopt(self) -> None:
        """Find out what is in the spool, and deliver it."""
        for delivery in (self.settlement, self.exporter):
            await delivery.outbox.recount()
            delivery.look()

    async def flush(self, *, leave_durable: bool) -> None:
        """Deliver all that waits."""
        await self.ready.wait()
        await asyncio.gather(
            self.settlement.flush(leave_durable=leave_durable), self.exporter.flush(leave_durable=leave_durable)
        )

    async def close(self) -> None:
        """Close connections and let go of what is in the spool."""
        try:
            await self.transport.close()
        finally:
            if self.spool is not None:
                await self.spool.close()


class GatewayLink:
    """Wires the gateway to the bus of one client.

    Raises:
        RuntimeError: no thread can be started.
    """

    def __init__(self, settings: Settings, bus: Bus, hub: Hub) -> None:
        self._settings = settings
        self._bus = bus
        self._hub = hub
        self._life: _Life | None = None
        mode = settings.event_mode
        load()
        if settings.spool is not None:
            import_module("actguard.gateway.spool")  # here, for the reason that `load` gives
        hub.add(self)
        bus.add_answerer(self._reserve, ReserveRequested, undo=self._undo)
        bus.add_answerer(self._settle, SettleRequested)
        self._handlers: list[Handler] = []
        if kinds := exported_kinds(mode):
            handler = bus.add_handler(self._take, *kinds, when=lambda event: is_exported(event, mode), together=True)
            self._handlers.append(handler)

    # --- what the hub asks of a resident ------------------------------------------------------------------------

    def bind(self, hub: Hub) -> None:
        """The hub starts: begin a new life."""
        parents: Set[str] = frozenset()
        if self._life is not None and self._life.process != os.getpid():
            _parents_lives.append(self._life)
            parents = self._life.reservations.unsettled
        self._life = _Life(self._settings, self._bus, parents)

    async def live(self) -> None:
        """Deliver until the hub stops."""
        life = self._here
        try:
            # The file first: what is put into the outboxes meanwhile is written after it is open.
            if life.spool is not None:
                await life.spool.open()
                await life.adopt()
            life.ready.set()
            with contextlib.suppress(GatewayFailure):
                await life.transport.open()
            await asyncio.gather(
                self._for_ever(life.settlement.live),
                self._for_ever(life.exporter.live),
                self._for_ever(self._look_for_orphans),
            )
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSING_S):
                    await life.close()

    def unbind(self) -> None:
        """The hub has stopped; figures can still be read."""

    # --- what the bus hands over --------------------------------------------------------------------------------

    async def _reserve(self, request: ReserveRequested) -> Reserved:
        try:
            return await self._here.reservations.reserve(request)
        except ActGuardError:
            raise
        except Exception as error:  # noqa: BLE001  a fault of ours must not end the run
            self._bus.degraded(_fault("reserve", error))
        if self._settings.on_gateway_failure == "closed":
            raise BudgetTransportError("A fault of ActGuard kept it from reserving a budget; please report it.")
        return Reserved()

    async def _settle(self, request: SettleRequested) -> None:
        try:
            await self._here.reservations.settle(request)
        except ActGuardError:
            raise
        except Exception as error:  # noqa: BLE001  a fault of ours must not end the run
            self._bus.degraded(_fault("settle", error))

    async def _undo(self, request: ReserveRequested, answer: Reserved) -> None:
        self._here.reservations.undo(request, answer)

    async def _take(self, events: Sequence[Event]) -> None:
        self._here.exporter.take(events)

    # --- what the client asks -----------------------------------------------------------------------------------

    async def send(self, call: Call) -> Answer:
        """Send one budget request for the client's own helpers, with the retries of reserve and settle.

        Raises:
            GatewayFailure: it did not end well.
        """
        return await self.on_hub(lambda: self._send(call)).wait()

    async def flush(self, timeout: float | None, *, leave_durable: bool = False) -> bool:
        """Deliver all that waits; False when ``timeout`` seconds passed, or what is left stays in the spool."""
        if not self._hub.running:
            return True
        # The hub stops trying a little before the caller stops waiting.
        trying = None if timeout is None else timeout - min(MARGIN_S, timeout / 10)
        flushing = self.on_hub(lambda: self._flush(trying, leave_durable))
        with contextlib.suppress(TimeoutError):
            await flushing.wait(timeout)
        return not any(self.waiting)

    def on_hub(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Reply[T]:
        """Run ``work()`` on the hub; the reply is its result."""
        reply: Reply[T] = Reply()

        async def answer() -> None:
            try:
                reply.answer(await work())
            except BaseException as error:
                reply.fail(error)
                if not isinstance(error, Exception):
                    raise

        self._hub.spawn(answer)
        return reply

    @property
    def waiting(self) -> tuple[int, int]:
        """How many events and settlements wait to be delivered."""
        life = self._life
        return (0, 0) if life is None else (life.exporter.outbox.waiting, life.settlement.outbox.waiting)

    @property
    def exported(self) -> int:
        """Events that the gateway has accepted."""
        return 0 if self._life is None else self._life.exporter.exported

    @property
    def dropped(self) -> int:
        """Events that will not be exported."""
        return 0 if self._life is None else self._life.exporter.dropped

    def report_undelivered(self) -> None:
        """The client closes: say what is lost, if anything is."""
        life = self._life
        if life is None:
            return
        lost = [
            f"{delivery.outbox.unsaved} {what}"
            for delivery, what in ((life.exporter, "event(s)"), (life.settlement, "settlement(s)"))
            if delivery.outbox.unsaved
        ]
        if lost:
            self._bus.degraded(
                MonitoringDegradedError(
                    subsystem="gateway",
                    operation="close",
                    failure_kind="undelivered",
                    summary=(
                        f"{' and '.join(lost)} could not be delivered before the client closed, and are lost. "
                        "Client(spool='path.db') keeps them for the next process."
                    ),
                )
            )

    @property
    def _here(self) -> _Life:
        assert self._life is not None, "the hub binds its residents before anything is sent to them"
        return self._life

    async def _flush(self, timeout: float | None, leave_durable: bool) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await Flush(self._handlers).reply.wait()  # what was published is taken
                await self._here.flush(leave_durable=leave_durable)

    async def _send(self, call: Call) -> Answer:
        settings, now = self._settings, asyncio.get_running_loop().time
        return await self._here.transport.call(
            call, deadline=now() + settings.budget_timeout_s, retries=settings.budget_max_retries
        )

    async def _look_for_orphans(self) -> None:
        life = self._here
        while life.spool is not None:
            await asyncio.sleep(ADOPT_EVERY_S)
            if await life.spool.adopt():
                await life.adopt()

    async def _for_ever(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run ``work``, and again if it fails for a reason that nobody has thought of: deliveries must not end."""
        while True:
            try:
                await work()
                return
            except Exception as error:  # noqa: BLE001  one bad letter must not stop the others
                self._bus.degraded(_fault("deliver", error))
                await asyncio.sleep(REST_AFTER_BUG_S)


def _fault(operation: str, error: Exception) -> MonitoringDegradedError:
    return MonitoringDegradedError(
        subsystem="gateway",
        operation=operation,
        failure_kind=type(error).__name__,
        summary="This is a fault of ActGuard, and the program goes on. Please report it.",
    )
