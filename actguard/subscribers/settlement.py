"""Settling: accounts to the gateway for a root that was left.

A settlement is put into the outbox first (and so into the spool, where there is one) and then sent. The one who asked
waits for it at most ``budget_timeout_s``; what could not be delivered by then is sent again in the background, under
the same Idempotency-Key, until the gateway takes or refuses it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from actguard.bus import Bus
from actguard.events import BudgetSettled, ReserveRequested, SettleRequested
from actguard.exceptions import ActGuardError
from actguard.gateway.delivery import UNREADABLE_PAUSE_S, Delivery
from actguard.gateway.failures import GatewayFailure, timed_out
from actguard.gateway.http import Call, Transport
from actguard.gateway.letters import Letter
from actguard.gateway.outbox import Outbox
from actguard.gateway.wire import SETTLE_PATH, raise_if_refused, settle_request
from actguard.settings import Settings
from actguard.subscribers.tasks import Tasks, ends_within

AT_ONCE = 16
"""Settlements that are sent again together."""
IN_BACKGROUND = "The settlement is sent again in the background."
NOT_AGAIN = "The settlement is not sent again."


class Settlement(Delivery):
    """Delivers settlements; lives on the hub."""

    def __init__(
        self,
        settings: Settings,
        transport: Transport,
        outbox: Outbox,
        bus: Bus,
    ) -> None:
        super().__init__(outbox)
        self._transport = transport
        self._bus = bus
        self._degraded = bus.degraded
        self._timeout_s = settings.budget_timeout_s
        self._answer_s = settings.answer_within_s
        self._retries = settings.budget_max_retries
        self._in_hand: set[str] = set()
        self._tasks = Tasks()
        self._work = asyncio.Event()
        self._failures_in_a_row = 0
        self._retry_after = 0.0

    async def settle(self, request: SettleRequested) -> None:
        """Deliver what a root used; returns when that is done, or goes on in the background.

        Raises:
            ActGuardPaymentRequired, BudgetExceededError: the gateway says so.
        """
        until = request.asked_at + self._answer_s
        delivering = self._tasks.spawn(self._deliver(_letter(request), until, request))
        if await ends_within(delivering, until):
            delivering.result()
        else:
            delivering.add_done_callback(self._say_what_nobody_heard)
            self._degraded(timed_out(SETTLE_PATH).degraded("settle", IN_BACKGROUND, subsystem="budget"))

    def settle_unheard(self, request: SettleRequested) -> None:
        """The same when the one who asked is not waiting any more."""
        self._in_background(_letter(request), request)

    def settle_with_zero(self, request: ReserveRequested, reserve_id: str) -> None:
        """Give a reservation back that nobody used."""
        self._in_background(Letter(f"{request.id}-unused", settle_request(reserve_id, ()).to_json()))

    def _in_background(self, letter: Letter, request: SettleRequested | None = None) -> None:
        until = asyncio.get_running_loop().time() + self._timeout_s
        delivering = self._tasks.spawn(self._deliver(letter, until, request))
        delivering.add_done_callback(self._say_what_nobody_heard)

    async def _deliver(self, letter: Letter, until: float, request: SettleRequested | None) -> None:
        """Put ``letter`` into the outbox, and try to deliver it. What fails for now is left to `live`."""
        with self._holding(letter):
            self.outbox.put(letter)
            await self.outbox.written()
            call = Call(SETTLE_PATH, letter.body, key=letter.key)
            try:
                await self._transport.call(call, deadline=until, retries=self._retries, linger_s=self._timeout_s)
            except GatewayFailure as error:
                failure = error
            else:
                await self._done(letter)
                self._announce(request)
                return
            if not failure.retryable:
                await self._done(letter)
                raise_if_refused(
                    failure,
                    user_id=None if request is None else request.user_id,
                    scope_id=None if request is None else request.scope_id,
                )
                self._degraded(failure.degraded("settle", NOT_AGAIN, subsystem="budget"))
                return
        self._degraded(failure.degraded("settle", IN_BACKGROUND, subsystem="budget"))
        self._failures_in_a_row = max(self._failures_in_a_row, 1)
        self._retry_after = failure.retry_after or 0.0
        self.tried(failed=True)
        self._work.set()

    @contextmanager
    def _holding(self, letter: Letter) -> Iterator[None]:
        """While ``letter`` is being sent, nobody else sends it."""
        self._in_hand.add(letter.key)
        try:
            yield
        finally:
            self._in_hand.discard(letter.key)

    async def _done(self, letter: Letter) -> None:
        """The gateway has taken or refused it: either way it is not sent again."""
        await self.outbox.remove([letter])
        self.tried(failed=False)

    def _announce(self, request: SettleRequested | None) -> None:
        if request is not None and request.reserve_id is not None and self._bus.wants(BudgetSettled):
            self._bus.publish(
                BudgetSettled(
                    run_id=request.run_id,
                    user_id=request.user_id,
                    scope_id=request.scope_id,
                    root_scope_id=request.scope_id,
                    scope_kind="root",
                    reserve_id=request.reserve_id,
                )
            )

    def _say_what_nobody_heard(self, delivering: asyncio.Task[Any]) -> None:
        """The gateway's refusal came when nobody waited for it any more."""
        error = None if delivering.cancelled() else delivering.exception()
        if isinstance(error, ActGuardError):
            self._bus.unheard("settle", error)

    # --- in the background --------------------------------------------------------------------------------------

    def look(self) -> None:
        """Look at the outbox: letters may have come."""
        self._work.set()

    async def live(self) -> None:
        """Deliver what could not be delivered at once, until cancelled."""
        while True:
            await self._work.wait()
            if self._failures_in_a_row:
                await self.pause(self._transport.backoff.pause(self._failures_in_a_row - 1, self._retry_after))
            letters = await self.outbox.first(AT_ONCE, skip=frozenset(self._in_hand))
            if letters:
                failed = [failure for failure in await asyncio.gather(*map(self._redeliver, letters)) if failure]
                self._failures_in_a_row = self._failures_in_a_row + 1 if len(failed) == len(letters) else 0
                self._retry_after = max((failure.retry_after or 0.0 for failure in failed), default=0.0)
            elif self.outbox.waiting > len(self._in_hand):
                await self.pause(UNREADABLE_PAUSE_S)
                await self.outbox.recount()
            else:
                self._work.clear()
                self.tried(failed=False)

    async def _redeliver(self, letter: Letter) -> GatewayFailure | None:
        """One more try; the failure, when the letter has to stay."""
        with self._holding(letter):
            try:
                await self._transport.attempt(Call(SETTLE_PATH, letter.body, key=letter.key), self._timeout_s)
            except GatewayFailure as error:
                # A yes whose text is unusable is a yes: it would be unusable the next time, too.
                failure = None if error.accepted else error
            else:
                failure = None
            if failure is not None and failure.retryable:
                self.tried(failed=True)
                return failure
            await self._done(letter)
        if failure is not None:
            self._degraded(failure.degraded("settle", NOT_AGAIN, subsystem="budget"))
        return None


def _letter(request: SettleRequested) -> Letter:
    assert request.reserve_id is not None
    return Letter(request.id, settle_request(request.reserve_id, request.entries).to_json())
