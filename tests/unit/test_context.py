"""What is active here, taken along into threads; and the warning for calls that nobody counts."""

from __future__ import annotations

import asyncio
import functools
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest

from actguard import context
from actguard.client import Client
from actguard.context import carry, note_uncounted_call
from actguard.exceptions import ActGuardMonitoringWarning, ActGuardUsageError


def where() -> tuple[Any, Any]:
    return context.active_run(), context.active_budget()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


# --- carry ----------------------------------------------------------------------------------------------------------


def test_a_carried_function_takes_its_run_and_budget_along(client: Client, pool: ThreadPoolExecutor) -> None:
    with client.run() as run, client.budget_guard(usd_limit=1) as budget:
        carried = carry(where)
        assert pool.submit(where).result() == (None, None)
        assert pool.submit(carried).result() == (run, budget)
    assert pool.submit(where).result() == (None, None)


def test_it_carries_what_was_active_when_it_was_made(client: Client) -> None:
    outside = carry(where)
    with client.run() as run, client.budget_guard(usd_limit=1):
        assert outside() == (None, None)
        inside = carry(where)
        with client.budget_guard(usd_limit=1) as nested:
            assert inside()[1] is not nested
            assert where() == (run, nested)


def test_it_keeps_the_signature_and_passes_arguments_results_and_errors(client: Client) -> None:
    def add(one: int, *, two: int = 2) -> int:
        """Adds."""
        if two < 0:
            raise ValueError("two")
        return one + two

    with client.run():
        carried = carry(add)
    assert (carried.__name__, carried.__doc__) == ("add", "Adds.")
    assert carried(1, two=5) == 6
    with pytest.raises(ValueError, match="two"):
        carried(1, two=-1)
    assert where() == (None, None)


async def where_later() -> tuple[Any, Any]:
    await asyncio.sleep(0)
    return where()


class Tool:
    async def __call__(self) -> tuple[Any, Any]:
        return await where_later()

    async def method(self) -> tuple[Any, Any]:
        return await where_later()

    def plain(self) -> tuple[Any, Any]:
        return where()


@pytest.mark.parametrize(
    "function",
    [where_later, functools.partial(where_later), Tool().method, Tool()],
    ids=["function", "partial", "method", "object"],
)
def test_a_carried_coroutine_function_runs_in_what_it_carries(function: Callable[[], Any], client: Client) -> None:
    with client.run() as run:
        carried = carry(function)

    async def main() -> None:
        assert await carried() == (run, None) or run.closed
        assert where() == (None, None)

    with client.run() as run:
        carried = carry(function)
        result: list[Any] = []
        thread = threading.Thread(target=lambda: result.append(asyncio.run(carried())))
        thread.start()
        thread.join()
        assert result == [(run, None)]


def test_a_carried_method_works(client: Client, pool: ThreadPoolExecutor) -> None:
    with client.run() as run:
        assert pool.submit(carry(Tool().plain)).result() == (run, None)


def test_a_carried_coroutine_that_is_dropped_half_way_makes_no_noise(client: Client) -> None:
    """It is closed by whoever drops it, in another context than the one it ran in."""

    async def waits() -> None:
        await asyncio.Event().wait()

    with client.run():
        coroutine = carry(waits)()

    async def start() -> None:
        coroutine.send(None)

    asyncio.run(start())
    coroutine.close()


def test_a_carried_executor_carries_what_is_active_at_each_submit(client: Client, pool: ThreadPoolExecutor) -> None:
    executor = carry(pool)
    assert isinstance(executor, Executor)
    assert executor.submit(where).result() == (None, None)
    with client.run() as run:
        assert executor.submit(where).result() == (run, None)
        assert list(executor.map(lambda _: where(), range(3))) == [(run, None)] * 3
        with client.budget_guard(usd_limit=1) as budget:
            assert executor.submit(where).result() == (run, budget)

        async def main() -> Any:
            return await asyncio.get_running_loop().run_in_executor(executor, where)

        assert asyncio.run(main()) == (run, None)


def test_a_carried_executor_shuts_down_the_one_inside() -> None:
    inner = ThreadPoolExecutor(1)
    with carry(inner) as executor:
        assert executor.submit(int).result() == 0
    with pytest.raises(RuntimeError, match="shutdown"):
        inner.submit(int)


@pytest.mark.parametrize("value", [None, 1, "x"])
def test_what_cannot_be_called_cannot_be_carried(value: Any) -> None:
    with pytest.raises(ActGuardUsageError) as caught:
        carry(value)
    assert caught.value.field == "fn"


# --- adopted threads ------------------------------------------------------------------------------------------------


def in_thread(work: Callable[[], Any]) -> Any:
    result: list[Any] = []
    thread = threading.Thread(target=lambda: result.append(work()))
    thread.start()
    thread.join()
    return result[0]


def test_adopted_threads_are_charged_to_the_root(client: Client) -> None:
    with client.run(adopt_threads=True):
        assert in_thread(context.active_budget) is None
        with client.budget_guard(usd_limit=1) as root:
            with client.budget_guard(usd_limit=1):
                assert in_thread(context.active_budget) is root
            assert in_thread(context.active_budget) is root
        assert in_thread(context.active_budget) is None


# --- calls that nobody counts ---------------------------------------------------------------------------------------


def test_an_uncounted_call_is_reported_once_per_open_root(client: Client) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        note_uncounted_call("openai")
    for _ in range(2):
        with client.run(), client.budget_guard(usd_limit=1):
            with pytest.warns(ActGuardMonitoringWarning, match="actguard.carry") as caught:
                in_thread(lambda: note_uncounted_call("openai"))
            assert len(caught) == 1
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                note_uncounted_call("openai")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        note_uncounted_call("openai")


@pytest.mark.filterwarnings("error")
def test_the_report_never_reaches_the_call(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with client.run(), client.budget_guard(usd_limit=1):
        note_uncounted_call("openai")
    assert "not counted" in caplog.text


def test_many_threads_report_one_uncounted_call(client: Client) -> None:
    start = threading.Barrier(8)

    def call() -> None:
        start.wait()
        note_uncounted_call("openai")

    with client.run(), client.budget_guard(usd_limit=1), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        threads = [threading.Thread(target=call) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(caught) == 1


def test_a_process_pool_cannot_be_carried_into() -> None:
    with ProcessPoolExecutor(1) as pool, pytest.raises(ActGuardUsageError, match="process pool"):
        carry(pool)
