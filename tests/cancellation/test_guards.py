"""A guarded call is cancelled at every point where it can be, and afterwards nothing is held or stuck."""

from __future__ import annotations

import functools
import threading
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from conftest import Runner
from guarding import fresh, hand_clock

from actguard import CumulativeLimit, RequireFact, circuit_breaker, enforce, session, tool, trust
from actguard.client import Client
from actguard.context import current_tool
from actguard.events import ApprovalRequested
from actguard.exceptions import IdempotencyOutcomeUnknown
from actguard.guards.idempotent import _working
from actguard.guards.state import shared
from actguard.guards.tools import name_of
from actguard.rules import values

POINTS = range(14)


async def cancelled_after(point: int, work: Any) -> bool:
    """Run ``work`` as a task and cancel it after so many turns of the loop; whether it was still running."""
    ended = False

    async def run() -> None:
        nonlocal ended
        await work()
        ended = True

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        for _ in range(point):
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    return not ended


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("waits", [False, True], ids=["goes through", "waits its turn"])
def test_a_call_with_every_guard_is_cancelled(point: int, waits: bool, client: Client, on_loop: Runner) -> None:
    dependency = fresh("dependency")
    begun: list[str] = []

    @tool(
        idempotent={"on_in_progress": "wait"},
        max_attempts={"calls": 100},
        policy=lambda call: "ask" if point % 2 else "allow",
        circuit_breaker={"name": dependency, "max_fails": 1},
        rate_limit={"max_calls": 1, "period": 3_600, "on_limit": "wait", "scope": "order"},
        timeout=30,
    )
    @enforce([RequireFact("order", kind="order", consume=True), CumulativeLimit("amount", max=10)])
    async def pay(order: str, amount: int, *, idempotency_key: str) -> str:
        begun.append(idempotency_key)
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        return "paid"

    async def main() -> None:
        begun.clear()
        breaker = circuit_breaker(dependency, max_fails=1)
        with hand_clock() as now, client.run() as run, session(fresh()):
            trust("order", "one", ttl=100_000)
            trust("order", "two", ttl=100_000)
            if waits:
                await pay("one", 5, idempotency_key="first")
                trust("order", "one", ttl=100_000)
            with pytest.raises(ConnectionError), breaker:
                raise ConnectionError
            now.advance(60)  # half open: the call below is the probe
            was_cancelled = await cancelled_after(point, lambda: pay("one", 5, idempotency_key="k"))
            if waits:
                assert was_cancelled

            state: Any = shared.apply(breaker.state_key, lambda state: (state, state))
            assert state.probe == 0
            window = ("rate_limit", name_of(pay), (1, 3_600.0), values.key_of("one"))
            turns: Any = shared.apply(window, lambda state: (state, state))
            assert turns is None or not turns.queue
            key: Any = run.store.apply(("idempotent", name_of(pay), ("text", "k")), lambda state: (state, state))
            assert key is None or key.owner is None
            assert (key is None) is ("k" not in begun)
            assert _working.get() == ()
            assert current_tool.get() is None

            # The next call goes through all of them: nothing of the cancelled one is in its way.
            now.advance(60)
            assert await pay("two", 5, idempotency_key="l") == "paid"
            if was_cancelled and "k" in begun:
                with pytest.raises(IdempotencyOutcomeUnknown):
                    await pay("one", 5, idempotency_key="k")

    client.bus.add_answerer(lambda request: True, ApprovalRequested)
    on_loop(main)


@pytest.mark.parametrize("point", range(6))
def test_one_who_waits_for_a_running_call_gives_up(point: int, client: Client, on_loop: Runner) -> None:
    async def main() -> None:
        go = anyio.Event()

        @tool(idempotent={"on_in_progress": "wait"})
        async def pay(*, idempotency_key: str) -> str:
            await go.wait()
            return "paid"

        async def call() -> None:
            results.append(await pay(idempotency_key="k"))

        results: list[str] = []
        with client.run() as run:
            async with anyio.create_task_group() as group:
                group.start_soon(call)
                await anyio.wait_all_tasks_blocked()
                assert await cancelled_after(point, call)
                group.start_soon(call)
                await anyio.wait_all_tasks_blocked()
                key: Any = run.store.apply(("idempotent", name_of(pay), ("text", "k")), lambda state: (state, state))
                assert len(key.waiting) == 1
                go.set()
        assert results == ["paid", "paid"]

    on_loop(main)


@pytest.mark.parametrize("point", range(8))
def test_an_async_generator_is_cancelled_between_and_within_its_steps(point: int, on_loop: Runner) -> None:
    dependency = fresh("dependency")

    async def main() -> None:
        closed: list[bool] = []
        breaker = circuit_breaker(dependency, max_fails=1)

        @tool(circuit_breaker={"name": dependency, "max_fails": 1}, timeout=30)
        async def numbers() -> Any:
            try:
                for number in range(3):
                    await anyio.lowlevel.checkpoint()
                    yield number
            finally:
                closed.append(True)

        async def consume() -> None:
            stream = numbers()
            try:
                async for _ in stream:
                    await anyio.lowlevel.checkpoint()
            finally:
                await stream.aclose()

        with hand_clock() as now:
            with pytest.raises(ConnectionError), breaker:
                raise ConnectionError
            now.advance(60)
            await cancelled_after(point, consume)
            state: Any = shared.apply(breaker.state_key, lambda state: (state, state))
            assert state.probe == 0
            assert len(closed) <= 1

    on_loop(main)


async def test_a_cancelled_caller_of_a_plain_tool_in_a_thread_leaves_no_worker_stuck() -> None:
    """`asyncio.to_thread` cannot be interrupted: the tool ends by its own deadline, and its worker is used again."""
    release, begun = threading.Event(), threading.Event()

    @tool(timeout=30)
    def slow() -> str:
        begun.set()
        release.wait(30)
        return "done"

    async with anyio.create_task_group() as group:
        group.start_soon(functools.partial(anyio.to_thread.run_sync, slow, abandon_on_cancel=True))
        assert await anyio.to_thread.run_sync(begun.wait, 30)
        group.cancel_scope.cancel()
    release.set()
    assert slow() == "done"
