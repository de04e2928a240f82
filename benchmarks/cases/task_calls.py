"""Guarded calls in many tasks at once."""

from __future__ import annotations

import asyncio
import gc
import time

from timed import LOOP, Block

import actguard

CLIENT = actguard.Client()


@actguard.tool(circuit_breaker={"name": "bench-tasks"}, rate_limit={"max_calls": 10**9, "period": 0.05}, timeout=30)
async def tool() -> int:
    await asyncio.sleep(0)
    return 1


def concurrent(tasks: int) -> Block:
    """So many tasks make calls in turns, each of them inside a guard while the others run; per call, CPU time."""

    async def calls(count: int) -> None:
        for _ in range(count):
            await tool()

    async def block(count: int) -> float:
        async with CLIENT.run():
            each = max(1, count // tasks)
            many = [asyncio.create_task(calls(each)) for _ in range(tasks)]
            started = time.process_time()
            await asyncio.gather(*many)
            took = time.process_time() - started
        return took * count / (each * tasks)

    def collected(count: int) -> float:
        gc.collect()
        return LOOP.run_until_complete(block(count))

    return collected
