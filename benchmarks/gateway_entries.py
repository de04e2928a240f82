"""Entering budgets against a slow gateway: how long 500 concurrent runs take, and what the caller's loop feels of it.

    python benchmarks/gateway_entries.py [--runs 500] [--answer-ms 200]

The gateway runs in a process of its own and answers every request after 200 ms. Printed: the time until all runs are
inside their budgets, in answer times, and the longest that the caller's event loop did nothing else, both while
entering and while leaving. A stall is measured by a task that wants to run once a millisecond. Full garbage
collections are left out (`gc.freeze`, as servers do): they stall any loop, by the size of the program.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import multiprocessing
import random
import time
from multiprocessing.connection import Connection

import actguard
from actguard.testing.gateway import LoopbackGateway


def serve(pipe: Connection, answer_s: float) -> None:
    with LoopbackGateway(delay_s=answer_s) as gateway:
        pipe.send(gateway.url)
        pipe.recv()
        pipe.send((len(gateway.reservations), sum(len(each.settlements) for each in gateway.reservations)))


class Heartbeat:
    """Notices when the loop does not get round."""

    def __init__(self) -> None:
        self.longest_s = 0.0

    def restart(self) -> float:
        """The longest stall so far, in seconds; counts from zero again."""
        longest, self.longest_s = self.longest_s, 0.0
        return longest

    async def beat(self) -> None:
        before = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            self.longest_s = max(self.longest_s, now - before - 0.001)
            before = now


async def measure(client: actguard.Client, runs: int, answer_s: float) -> None:
    heart = Heartbeat()
    beating = asyncio.create_task(heart.beat())
    inside, leave = 0, asyncio.Event()
    all_inside = asyncio.Event()

    async def one() -> None:
        nonlocal inside
        async with client.run(), client.budget_guard(usd_limit=1):
            inside += 1
            if inside == runs:
                all_inside.set()
            await leave.wait()
            await asyncio.sleep(random.uniform(0, answer_s))  # the work of each takes its own time

    await asyncio.sleep(0.05)
    heart.restart()
    started = time.perf_counter()
    tasks = [asyncio.create_task(one()) for _ in range(runs)]
    await all_inside.wait()
    entered, stall = time.perf_counter() - started, heart.restart()
    print(f"  entered in {entered:.3f} s = {entered / answer_s:.2f} answer times; longest stall {stall * 1000:.1f} ms")
    started = time.perf_counter()
    leave.set()
    await asyncio.gather(*tasks)
    left, stall = time.perf_counter() - started, heart.restart()
    print(f"  left    in {left:.3f} s, work of up to {answer_s:g} s included; longest stall {stall * 1000:.1f} ms")
    beating.cancel()


async def warm_up(client: actguard.Client) -> None:
    """The imports of a first run are not what is measured."""
    async with client.run(), client.budget_guard(usd_limit=1) as budget:
        await budget.await_ready()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--runs", type=int, default=500)
    arguments.add_argument("--answer-ms", type=float, default=200)
    options = arguments.parse_args()
    here, there = multiprocessing.Pipe()
    answer_s = options.answer_ms / 1000
    multiprocessing.get_context("spawn").Process(target=serve, args=(there, answer_s), daemon=True).start()
    client = actguard.Client(gateway_url=here.recv(), api_key="loopback-key", event_mode="off", budget_timeout_s=10)
    try:
        asyncio.run(warm_up(client))
        gc.disable()
        for name in ("first, with new connections", "again, with kept connections"):
            print(f"{options.runs} runs, {name}:")
            asyncio.run(measure(client, options.runs, answer_s))
    finally:
        client.close()
        here.send(None)
        print("at the gateway: {} reservations, {} settlements".format(*here.recv()))


if __name__ == "__main__":
    main()
