"""Publishing events: the caller's side only, in CPU time of the caller's thread."""

from __future__ import annotations

import gc
import time
from typing import Any

from timed import LOOP, Block

import actguard
from actguard.context import current_run
from actguard.events import ToolFailure, ToolInvoke
from actguard.guards.protocol import publish
from actguard.guards.tools import Tool

BATCH = 500
"""Events between two readings of the queues, which hold 10,000."""


def tool() -> None:
    """Stands for a guarded tool."""


TOOL = Tool(tool)


def publishing(where: str, subscribers: int = 1) -> Block:
    """``where``: "nobody" wants it, somebody on the "loop" that publishes, or a handler on the "hub"."""
    client = actguard.Client()

    async def block(count: int) -> float:
        if where == "hub":
            for handler in [client.bus.add_handler(_take, ToolInvoke) for _ in range(subscribers)]:
                handlers.append(handler)
        subscriptions = [client.bus.subscribe(ToolInvoke) for _ in range(subscribers)] if where == "loop" else []
        async with client.run():
            for each in subscriptions:
                await each.__aenter__()
            took = 0.0
            gc.collect()
            for start in range(0, count, BATCH):
                many = [None] * min(BATCH, count - start)
                began = time.thread_time()
                for _ in many:
                    publish(ToolInvoke, TOOL, duration_s=0.1)
                took += time.thread_time() - began
                for each in subscriptions:
                    each.pending()
                if handlers:
                    await client.aflush()
            for each in subscriptions:
                await each.__aexit__(None, None, None)
        while handlers:
            handlers.pop().remove()
        dropped = client.bus.dropped()
        if dropped:
            raise RuntimeError(f"{dropped} events were lost")
        return took

    handlers: list[Any] = []
    return lambda count: LOOP.run_until_complete(block(count))


async def _take(event: Any) -> None:
    """A handler that does nothing."""


def empty_guard() -> Block:
    """The loop around it, and a call of a function with the same arguments."""

    def nothing(kind: Any, tool: Any, **facts: Any) -> None:
        assert current_run is not None

    def block(count: int) -> float:
        each = [None] * count
        began = time.thread_time()
        for _ in each:
            nothing(ToolFailure, TOOL, duration_s=0.1)
        return time.thread_time() - began

    return block
