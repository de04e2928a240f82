"""Reserving: asks the gateway for a budget when a root is opened.

The one who asked gets an answer before ``budget_timeout_s`` is over, whatever the gateway does: a grant, a refusal,
or "go on with local limits" (an error instead with ``on_gateway_failure="closed"``). What the gateway granted is
settled in any case: with zero when the asker has gone, and with what the run used when the grant came too late for
its entry.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Set

from actguard.bus import Bus
from actguard.events import BudgetReserved, Reserved, ReserveRequested, SettleRequested
from actguard.exceptions import MonitoringDegradedError
from actguard.gateway.failures import MALFORMED, GatewayFailure, timed_out
from actguard.gateway.http import Call, Transport
from actguard.gateway.tariff_source import TariffSource
from actguard.gateway.wire import RESERVE_PATH, ReserveAnswer, granted, raise_if_refused, reserve_request
from actguard.settings import Settings
from actguard.subscribers.settlement import Settlement
from actguard.subscribers.tasks import Tasks, ends_within

_FORKED = MonitoringDegradedError(
    subsystem="budget",
    operation="settle",
    failure_kind="forked",
    summary=(
        "A forked process has left a budget scope that its parent had entered. The parent settles it; what was spent "
        "in the forked process is counted there only. Open a budget scope of its own after the fork."
    ),
)


class Reservations:
    """Answers `ReserveRequested` on the hub."""

    def __init__(
        self,
        settings: Settings,
        transport: Transport,
        tariff: TariffSource,
        settlement: Settlement,
        bus: Bus,
        parents: Set[str] = frozenset(),
    ) -> None:
        self._transport = transport
        self._tariff = tariff
        self._settlement = settlement
        self._bus = bus
        self._timeout_s = settings.budget_timeout_s
        self._answer_s = settings.answer_within_s
        self._retries = settings.budget_max_retries
        self._fails_closed = settings.on_gateway_failure == "closed"
        self._late: dict[str, asyncio.Task[ReserveAnswer]] = {}
        self._granted: set[str] = set()
        self._parents = parents
        """Scopes that the process which this one was forked from had reserved, and settles."""
        self._tasks = Tasks()

    @property
    def unsettled(self) -> Set[str]:
        """The ids of the scopes that have a reservation, of this process or of the one that it was forked from."""
        return self._granted | self._parents

    async def reserve(self, request: ReserveRequested) -> Reserved:
        """The verdict on the opening of a root.

        Raises:
            ActGuardPaymentRequired, BudgetExceededError: the gateway refuses.
            BudgetTransportError: it could not be asked, and the client fails closed.
        """
        until = request.asked_at + self._answer_s
        asking = self._tasks.spawn(self._ask(request, until))
        if request.cost_limit is not None:
            self._tariff.start()
        if not await ends_within(asking, until):
            self._late[request.scope_id] = asking
            asking.add_done_callback(functools.partial(self._came_late, request.scope_id))
            return self._without_gateway(request, timed_out(RESERVE_PATH))
        try:
            grant = asking.result()
        except GatewayFailure as error:
            failure = error
        else:
            return await self._reserved(request, grant, until)
        # Outside the except block, so that the failure does not hang on to the error as its context.
        raise_if_refused(
            failure,
            user_id=request.user_id,
            usd_limit=None if request.usd_limit is None else float(request.usd_limit),
            cost_limit=request.cost_limit,
            scope_id=request.scope_id,
        )
        return self._without_gateway(request, failure)

    def undo(self, request: ReserveRequested, answer: Reserved) -> None:
        """The one who asked has gone: settle with zero what was, or will be, reserved for it."""
        self._granted.discard(request.scope_id)
        if answer.reserve_id is not None:
            self._settlement.settle_with_zero(request, answer.reserve_id)
        elif (asking := self._late.pop(request.scope_id, None)) is not None:
            self._tasks.spawn(self._undo_late(request, asking))

    async def settle(self, request: SettleRequested) -> None:
        """Pass a settlement on, under the name of the reservation if that came too late for the entry.

        Raises:
            ActGuardPaymentRequired, BudgetExceededError: the gateway says so.
        """
        late = self._late.pop(request.scope_id, None)
        if request.reserve_id is not None:
            if request.scope_id in self._parents:
                self._bus.degraded(_FORKED)
            else:
                self._granted.discard(request.scope_id)
                await self._settlement.settle(request)
        elif late is not None:
            self._tasks.spawn(self._settle_late(request, late))

    async def _ask(self, request: ReserveRequested, until: float) -> ReserveAnswer:
        call = Call(RESERVE_PATH, reserve_request(request).to_json(), key=request.id)
        # A try that is under way when time is up may still succeed at the gateway: its answer is waited for.
        answer = await self._transport.call(call, deadline=until, retries=self._retries, linger_s=self._timeout_s)
        return granted(answer)

    async def _reserved(self, request: ReserveRequested, grant: ReserveAnswer, until: float) -> Reserved:
        tariff = None
        if request.cost_limit is not None or grant.cost_limit is not None:
            tariff = await self._tariff.get(until - asyncio.get_running_loop().time())
        if self._bus.wants(BudgetReserved):
            self._bus.publish(
                BudgetReserved(
                    run_id=request.run_id,
                    user_id=request.user_id,
                    scope_id=request.scope_id,
                    root_scope_id=request.scope_id,
                    scope_kind="root",
                    plan_key=request.plan_key,
                    reserve_id=grant.reserve_id,
                )
            )
        self._granted.add(request.scope_id)
        return Reserved(
            reserve_id=grant.reserve_id,
            usd_limit=grant.usd_limit,
            cost_limit=grant.cost_limit,
            cost_of=None if tariff is None else tariff.cost,
            cu_per_usd=None if tariff is None else tariff.cu_per_usd,
        )

    def _without_gateway(self, request: ReserveRequested, failure: GatewayFailure) -> Reserved:
        """Go on with local limits, or refuse where that is wanted."""
        answer = Reserved(reserve_id=_kept(failure))
        if self._fails_closed:
            self.undo(request, answer)
            raise failure.as_transport_error("reserve")
        self._bus.degraded(failure.degraded("reserve", subsystem="budget"))
        if answer.reserve_id is not None:
            self._granted.add(request.scope_id)
        return answer

    def _came_late(self, scope_id: str, asking: asyncio.Task[ReserveAnswer]) -> None:
        """A reservation that nobody waited for any more has ended: one that failed needs no settlement."""
        if asking.cancelled() or asking.exception() is not None:
            self._late.pop(scope_id, None)

    async def _undo_late(self, request: ReserveRequested, asking: asyncio.Task[ReserveAnswer]) -> None:
        reserve_id = await _eventually(asking)
        if reserve_id is not None:
            self._settlement.settle_with_zero(request, reserve_id)

    async def _settle_late(self, request: SettleRequested, asking: asyncio.Task[ReserveAnswer]) -> None:
        reserve_id = await _eventually(asking)
        if reserve_id is not None:
            self._settlement.settle_unheard(request.model_copy(update={"reserve_id": reserve_id}))


async def _eventually(asking: asyncio.Task[ReserveAnswer]) -> str | None:
    """What a late reservation is called; None when it came to nothing."""
    try:
        return (await asking).reserve_id
    except GatewayFailure as failure:
        return _kept(failure)


def _kept(failure: GatewayFailure) -> str | None:
    """The name of a reservation whose answer was otherwise unusable: it has to be settled all the same."""
    kept: str | None = failure.payload if failure.kind == MALFORMED else None
    return kept
