"""Blocks of calls, timed.

Calls that only compute are timed in CPU time of the process: what other programs take from the machine meanwhile is
not counted. Calls that wait for another thread are timed by the wall clock.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine
from typing import Any

Block = Callable[[int], float]
LOOP = asyncio.new_event_loop()


def sync_block(
    call: Callable[[], object], *, wall: bool = False, around: Callable[[Block], Block] | None = None
) -> Block:
    """A block of ``call()``. ``around`` wraps each block, outside of the time."""
    clock = time.perf_counter if wall else time.process_time

    def block(count: int) -> float:
        each = [None] * count
        gc.collect()
        started = clock()
        for _ in each:
            call()
        return clock() - started

    return block if around is None else around(block)


def async_block(call: Callable[[], Coroutine[Any, Any, object]], *, wall: bool = False, around: Any = None) -> Block:
    """A block of ``await call()``, one after the other, in one task of one loop. ``around`` is an async wrapper."""
    clock = time.perf_counter if wall else time.process_time

    async def calls(count: int) -> float:
        each = [None] * count
        started = clock()
        for _ in each:
            await call()
        return clock() - started

    inside = calls if around is None else around(calls)

    def block(count: int) -> float:
        gc.collect()
        return LOOP.run_until_complete(inside(count))

    return block
