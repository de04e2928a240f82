"""Guards in many threads at once, and in threads with and without a context."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from guarding import fresh, hand_clock

import actguard
from actguard import (
    CumulativeLimit,
    GuardError,
    RequireFact,
    circuit_breaker,
    enforce,
    idempotent,
    max_attempts,
    rate_limit,
    session,
    timeout,
    tool,
    trust,
)
from actguard.client import Client
from actguard.exceptions import (
    CircuitOpenError,
    IdempotencyInProgress,
    MaxAttemptsExceeded,
    MissingRuntimeContextError,
    RateLimitExceeded,
)

THREADS = 32


def at_once(work: Callable[[], Any], count: int = THREADS) -> list[Any]:
    """What ``work`` returns or raises in so many threads that begin together, with the context of here."""
    barrier = threading.Barrier(count)
    carried = actguard.carry(work)

    def begin() -> Any:
        barrier.wait(30)
        try:
            return carried()
        except Exception as error:
            return type(error)

    with ThreadPoolExecutor(count) as executor:
        return [future.result(60) for future in [executor.submit(begin) for _ in range(count)]]


def test_a_rate_limit_admits_no_more_than_it_says() -> None:
    guarded = rate_limit(max_calls=10, period=3_600)(lambda: "ran")
    ends = at_once(guarded)
    assert ends.count("ran") == 10
    assert ends.count(RateLimitExceeded) == THREADS - 10


def test_threads_that_wait_go_on_one_after_the_other() -> None:
    guarded = rate_limit(max_calls=4, period=0.02, on_limit="wait")(lambda: "ran")
    assert at_once(guarded, 16) == ["ran"] * 16


def test_attempts_are_counted_exactly(client: Client) -> None:
    guarded = max_attempts(10)(lambda: "ran")
    with client.run():
        ends = at_once(guarded)
    assert ends.count("ran") == 10
    assert ends.count(MaxAttemptsExceeded) == THREADS - 10


def test_a_half_open_breaker_lets_one_probe_through() -> None:
    name, go = fresh("crm"), threading.Event()

    @circuit_breaker(name, max_fails=1)
    def call() -> str:
        go.wait(30)
        return "ran"

    def probe() -> Any:
        try:
            return call()
        except CircuitOpenError:
            refused.release()
            raise

    refused = threading.Semaphore(0)

    def open_the_gate() -> None:
        for _ in range(THREADS - 1):
            refused.acquire(timeout=30)
        go.set()

    with hand_clock() as now:
        with pytest.raises(ConnectionError), circuit_breaker(name, max_fails=1):
            raise ConnectionError
        now.advance(60)
        gate = threading.Thread(target=open_the_gate)
        gate.start()
        ends = at_once(probe)
        gate.join()
    assert (ends.count("ran"), ends.count(CircuitOpenError)) == (1, THREADS - 1)


@pytest.mark.parametrize("waits", [True, False])
def test_an_idempotent_call_takes_effect_once(waits: bool, client: Client) -> None:
    calls: list[int] = []

    @idempotent(on_in_progress="wait" if waits else "raise")
    @timeout(30)
    def pay(*, idempotency_key: str) -> object:
        calls.append(1)
        return calls

    with client.run():
        ends = at_once(lambda: pay(idempotency_key="k"))
    assert calls == [1]
    assert set(map(str, ends)) <= ({"[1]"} if waits else {"[1]", str(IdempotencyInProgress)})


def test_a_single_use_fact_and_a_sum_are_shared_out_once() -> None:
    @enforce([RequireFact("order", kind="order", consume=True)])
    def once(order: str) -> str:
        return "done"

    @enforce([CumulativeLimit("amount", max=10)])
    def spend(amount: int) -> str:
        return "done"

    with session(fresh()):
        trust("order", "A1")
        ends = at_once(lambda: once("A1"))
        assert (ends.count("done"), ends.count(GuardError)) == (1, THREADS - 1)
        ends = at_once(lambda: spend(3))
        assert ends.count("done") == 3


def test_plain_tools_with_deadlines_run_side_by_side() -> None:
    barrier = threading.Barrier(THREADS)
    assert sorted(at_once(lambda: timeout(30)(barrier.wait)())) == list(range(THREADS))


async def test_asyncio_to_thread_takes_the_context_along(client: Client) -> None:
    @tool(max_attempts={"calls": 1}, timeout=30)
    def plain() -> str | None:
        return actguard.context.current_tool.get()

    with client.run():
        assert await asyncio.to_thread(plain) == f"{plain.__module__}:{plain.__qualname__}"
        with pytest.raises(MaxAttemptsExceeded):
            await asyncio.to_thread(plain)


def test_a_thread_without_a_context_has_no_run_unless_it_is_adopted(client: Client) -> None:
    guarded = max_attempts(1)(lambda: "ran")
    with ThreadPoolExecutor(1) as executor:
        with client.run(), pytest.raises(MissingRuntimeContextError, match="carry"):
            executor.submit(guarded).result(30)
        with client.run(adopt_threads=True):
            assert executor.submit(guarded).result(30) == "ran"
            with pytest.raises(MaxAttemptsExceeded):
                guarded()
