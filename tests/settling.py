"""A gateway in the same process: answers reserve and settle requests as the test wants it, and keeps the books."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from anyio import to_thread
from conftest import until

from actguard.client import Client
from actguard.events import Request, Reserved, ReserveRequested, SettleRequested


class Books:
    """Reserves and settles on a client's bus. ``open`` has the reservations that nobody settled yet.

    With ``waits``, an answer comes when `let_answer` is called, once for each, or after `answer_freely`.
    """

    def __init__(self, client: Client, *, waits: bool = False, **granted: Any) -> None:
        self.waits = waits
        self._hub = client._hub
        self._waiting = 0
        self.asked, self._go = threading.Event(), threading.Event()
        self.granted = granted
        self.refuse_reserve: BaseException | None = None
        self.refuse_settle: BaseException | None = None
        self.requests: list[Any] = []
        self.reserved: list[str] = []
        self.settled: Counter[str] = Counter()
        self.entries: dict[str, tuple[Any, ...]] = {}
        client.bus.add_answerer(self._counted(self.reserve), ReserveRequested, undo=self.undo)
        client.bus.add_answerer(self._counted(self.settle), SettleRequested)

    def _counted(self, answer: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
        async def counted(request: Any) -> Any:
            self.requests.append(request)
            self.asked.set()
            if self.waits:
                self._waiting += 1
                await to_thread.run_sync(self._go.wait, 10, abandon_on_cancel=True)
                self._waiting -= 1
                if self.waits:
                    self._go.clear()
            return await answer(request)

        return counted

    def answer_freely(self) -> None:
        """From now on answers come at once."""
        self.waits = False
        self._go.set()

    def let_answer(self) -> None:
        """Let the answer come that is being waited for, if there is one."""
        self._let_the_hub_come_round()
        if self._waiting:
            self._go.set()

    def finish(self) -> None:
        """Answer everything that was asked so far, and wait until it is done; then wait for `let_answer` again."""
        waits = self.waits
        self.answer_freely()
        self.quiesce()
        self.waits = waits
        self._go.clear()

    def quiesce(self) -> None:
        """Wait until the hub has nothing to do."""
        idle = 0
        while idle < 2:  # a task that ends may leave another behind (undoing an answer), which is none yet
            self._let_the_hub_come_round()
            idle = 0 if self._hub._tasks else idle + 1
            until(lambda: not self._hub._tasks)

    def _let_the_hub_come_round(self) -> None:
        for _ in range(2):  # what was sent becomes a task, and the task begins
            came_round = threading.Event()
            if self._hub.running:
                self._hub.call_soon(came_round.set)
                came_round.wait(10)

    @property
    def open(self) -> set[str]:
        return set(self.reserved) - set(self.settled)

    async def reserve(self, request: ReserveRequested) -> Reserved:
        if self.refuse_reserve is not None:
            raise self.refuse_reserve
        reserve_id = f"reservation {len(self.reserved)}"
        self.reserved.append(reserve_id)
        return Reserved(reserve_id=reserve_id, **self.granted)

    async def undo(self, request: Request, answer: Reserved) -> None:
        """Settled with zero: nobody came to use it."""
        assert answer.reserve_id is not None
        self.settled[answer.reserve_id] += 1
        self.entries[answer.reserve_id] = ()

    async def settle(self, request: SettleRequested) -> None:
        if request.reserve_id is None:  # nobody waited long enough for the reservation
            return
        self.settled[request.reserve_id] += 1
        self.entries[request.reserve_id] = request.entries
        if self.refuse_settle is not None:
            raise self.refuse_settle
