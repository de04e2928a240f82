"""A gateway in the same process: answers reserve and settle requests as the test wants it, and keeps the books."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from actguard.client import Client
from actguard.events import Request, Reserved, ReserveRequested, SettleRequested


class Books:
    """Reserves and settles on a client's bus. ``open`` has the reservations that nobody settled yet.

    ``turns`` is how often each answer goes round the hub's loop before it comes.
    """

    def __init__(self, client: Client, *, turns: int = 0, **granted: Any) -> None:
        self.turns = turns
        self.granted = granted
        self.refuse_reserve: BaseException | None = None
        self.refuse_settle: BaseException | None = None
        self.requests: list[Any] = []
        self.reserved: list[str] = []
        self.settled: Counter[str] = Counter()
        self.entries: dict[str, tuple[Any, ...]] = {}
        client.bus.add_answerer(self.reserve, ReserveRequested, undo=self.undo)
        client.bus.add_answerer(self.settle, SettleRequested)

    @property
    def open(self) -> set[str]:
        return set(self.reserved) - set(self.settled)

    async def reserve(self, request: ReserveRequested) -> Reserved:
        self.requests.append(request)
        for _ in range(self.turns):
            await asyncio.sleep(0)
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
        self.requests.append(request)
        for _ in range(self.turns):
            await asyncio.sleep(0)
        if request.reserve_id is None:  # nobody waited long enough for the reservation
            return
        self.settled[request.reserve_id] += 1
        self.entries[request.reserve_id] = request.entries
        if self.refuse_settle is not None:
            raise self.refuse_settle
