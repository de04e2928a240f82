"""Taking turns: when hundreds begin something at the same moment, the event loop still gets round in between."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections import deque
from collections.abc import Callable

import anyio
from anyio.lowlevel import current_token

from actguard.scope import CallSoon, call_soon_here, on_asyncio

PER_ROUND = 16
"""How many may begin in one round of an event loop: one to two milliseconds' worth."""


class _Loop:
    """Those who begin on one event loop."""

    def __init__(self, call_soon: CallSoon) -> None:
        self._call_soon = call_soon
        self._begun = 0
        self._waiting: deque[Callable[[], object]] = deque()

    def may_begin(self) -> bool:
        """True for the first few in a round of the loop."""
        if not self._begun:
            self._call_soon(self._next_round)
        self._begun += 1
        return self._begun <= PER_ROUND

    async def wait(self) -> None:
        """Wait for a later round."""
        if on_asyncio():
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(functools.partial(_end_wait, turn))
            await turn
        else:
            event = anyio.Event()
            self._waiting.append(event.set)
            await event.wait()

    def _next_round(self) -> None:
        self._begun = min(len(self._waiting), PER_ROUND)
        if self._begun:
            self._call_soon(self._next_round)
        for _ in range(self._begun):
            self._waiting.popleft()()


def _end_wait(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)


class _Here(threading.local):
    native: object = None
    """The event loop that was last seen in this thread."""
    loop: _Loop


class Turns:
    """Spreads what begins at once over several rounds of the event loop. One that comes alone does not wait."""

    def __init__(self) -> None:
        self._here = _Here()

    async def take(self) -> None:
        """Return at once if few have begun in this round of the loop, else in one of the next rounds."""
        here, native = self._here, current_token().native_token
        if here.native is not native:
            here.native, here.loop = native, _Loop(call_soon_here())
        if not here.loop.may_begin():
            await here.loop.wait()
