"""Many runs that enter budgets at once, against a gateway that takes 200 ms: how long it takes, what the loop feels.

Times are given in answer times of the gateway. The floor is aiohttp alone, in the same process and at the same moment,
sending as many requests to the same gateway. A stall is how much later than a millisecond a task comes back that
wants to run every millisecond; what an idle loop shows is for comparison, since a busy machine shows there. Garbage
collections are put off: their pauses stall any loop, by the size of the program.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import multiprocessing
import random
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import actguard
from actguard.testing.gateway import LoopbackGateway
from benchmarks.figures import Figure

RUNS = 500
ANSWER_S = 0.2
IDLE_S = 1.0


def main(quick: bool) -> Iterator[Figure]:
    rounds = 3 if quick else 9
    places = ((True, "gateway in the same process"), (False, "gateway in its own"))
    for together, where in places[:1] if quick else places:
        here, there = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=measure, args=(there, rounds, together))
        process.start()
        there.close()
        taken = here.recv()
        process.join()
        yield from _figures(taken, where, judged=together)


def _figures(taken: list[Round], where: str, *, judged: bool) -> Iterator[Figure]:
    limits = (2.5, 20.0) if judged else (None, None)
    first, *later = taken
    yield _figure(f"{RUNS} runs enter, {where}", [each.entered for each in later], "", limits[0])
    yield _figure("  with new connections", [first.entered], "")
    yield _figure("  aiohttp alone, the same requests", [each.alone for each in later], "")
    yield _figure("  with new connections", [first.alone], "")
    yield _figure("  longest stall of the caller's loop, entering", [each.stall_in for each in taken], "ms", limits[1])
    yield _figure("  longest stall of the caller's loop, leaving", [each.stall_out for each in taken], "ms", limits[1])
    yield _figure("  longest stall of a loop that only sends, with aiohttp", [each.stall_alone for each in taken], "ms")
    yield _figure("  longest stall of an idle loop", [each.stall_idle for each in taken], "ms")


def _figure(name: str, values: list[float], unit: str, target: float | None = None) -> Figure:
    return Figure(name, median(values), unit, min(values), max(values), target)


# --- in a process of its own ------------------------------------------------------------------------------------------


@dataclass
class Round:
    """Answer times and, in milliseconds, stalls of one round."""

    entered: float = 0.0
    alone: float = 0.0
    stall_in: float = 0.0
    stall_out: float = 0.0
    stall_alone: float = 0.0
    stall_idle: float = 0.0


def measure(pipe: Connection, rounds: int, together: bool) -> None:
    """Send the rounds, the first of which makes its connections."""
    with _gateway(together) as url:
        client = actguard.Client(gateway_url=url, api_key="loopback-key", event_mode="off", budget_timeout_s=10)
        try:
            pipe.send(asyncio.run(_rounds(client, url, rounds)))
        finally:
            client.close()


@contextlib.contextmanager
def _gateway(together: bool) -> Iterator[str]:
    if together:
        with LoopbackGateway(delay_s=ANSWER_S) as gateway:
            yield gateway.url
        return
    here, there = multiprocessing.Pipe()
    multiprocessing.get_context("spawn").Process(target=_serve, args=(there,), daemon=True).start()
    yield here.recv()
    here.send(None)


def _serve(pipe: Connection) -> None:
    with LoopbackGateway(delay_s=ANSWER_S) as gateway:
        pipe.send(gateway.url)
        pipe.recv()


async def _rounds(client: actguard.Client, url: str, rounds: int) -> list[Round]:
    import aiohttp  # the package is imported without it; here it is the floor

    async with client.run(), client.budget_guard(usd_limit=1) as budget:
        await budget.await_ready()  # the imports of a first run are not what is measured
    gc.collect()
    gc.disable()
    taken = []
    connector = aiohttp.TCPConnector(limit=RUNS)
    async with aiohttp.ClientSession(connector=connector, headers={"Authorization": "Bearer loopback-key"}) as session:
        for number in range(rounds):
            taken.append(await _round(client, session, url, number))
            gc.collect()
    return taken


async def _round(client: actguard.Client, session: Any, url: str, number: int) -> Round:
    taken = Round()
    async with Heartbeat.beating() as heart:
        await asyncio.sleep(IDLE_S)
    taken.stall_idle = heart.longest_ms

    async def post(each: int) -> None:
        body, headers = json.dumps({"run_id": f"{number}-{each}"}), {"Idempotency-Key": f"{number}-{each}"}
        async with session.post(f"{url}/api/v1/reserve", data=body, headers=headers) as response:
            json.loads(await response.read())

    async with Heartbeat.beating() as heart:
        taken.alone = await _timed(asyncio.gather(*(post(each) for each in range(RUNS)))) / ANSWER_S
    taken.stall_alone = heart.longest_ms

    inside = Crowd()
    async with Heartbeat.beating() as heart:
        started = time.perf_counter()
        tasks = [asyncio.create_task(_one(client, inside)) for _ in range(RUNS)]
        await inside.complete.wait()
        taken.entered = (time.perf_counter() - started) / ANSWER_S
    taken.stall_in = heart.longest_ms
    async with Heartbeat.beating() as heart:
        inside.leave.set()
        await asyncio.gather(*tasks)
    taken.stall_out = heart.longest_ms
    return taken


@dataclass
class Crowd:
    """Those who are inside."""

    count: int = 0
    complete: asyncio.Event = field(default_factory=asyncio.Event)
    leave: asyncio.Event = field(default_factory=asyncio.Event)


async def _one(client: actguard.Client, crowd: Crowd) -> None:
    async with client.run(), client.budget_guard(usd_limit=1):
        crowd.count += 1
        if crowd.count == RUNS:
            crowd.complete.set()
        await crowd.leave.wait()
        await asyncio.sleep(random.uniform(0, ANSWER_S))  # the work of each takes its own time


async def _timed(work: Coroutine[Any, Any, Any] | asyncio.Future[Any]) -> float:
    started = time.perf_counter()
    await work
    return time.perf_counter() - started


class Heartbeat:
    """Notices when the loop does not get round."""

    def __init__(self) -> None:
        self.longest_ms = 0.0

    @classmethod
    @contextlib.asynccontextmanager
    async def beating(cls) -> AsyncIterator[Heartbeat]:
        heart = cls()
        task = asyncio.create_task(heart._beat())
        await asyncio.sleep(0.01)
        heart.longest_ms = 0.0
        yield heart
        task.cancel()

    async def _beat(self) -> None:
        before = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            self.longest_ms = max(self.longest_ms, (now - before - 0.001) * 1000)
            before = now
