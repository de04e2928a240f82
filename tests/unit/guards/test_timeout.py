"""Timeouts of every kind of function, on asyncio, on trio and in plain threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
from conftest import Runner
from guarding import KINDS, hand_clock, of_kind, outcome, published

from actguard import clock, timeout, tool
from actguard.client import Client
from actguard.context import current_tool
from actguard.events import GuardIntervention, ToolFailure
from actguard.exceptions import TimeoutUsageError, ToolTimeoutError
from actguard.guards.tools import name_of

note: ContextVar[str] = ContextVar("note", default="none")


async def forever() -> None:
    await anyio.sleep_forever()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_in_time_is_left_alone(kind: str, on_loop: Runner) -> None:
    async def main() -> None:
        assert await outcome(timeout(30)(of_kind(kind, lambda: "done"))()) == "done"

    on_loop(main)


def test_a_coroutine_is_cancelled(on_loop: Runner, client: Client) -> None:
    cleaned: list[bool] = []

    @timeout(0.01)
    async def slow() -> None:
        try:
            await forever()
        finally:
            cleaned.append(True)

    async def main() -> None:
        with (
            client.run() as run,
            published(client, GuardIntervention, ToolFailure) as events,
            pytest.raises(ToolTimeoutError) as caught,
        ):
            await slow()
        error = caught.value
        assert (error.tool_name, error.timeout_s, error.run_id) == (name_of(slow), 0.01, run.run_id)
        assert cleaned == [True]
        (event,) = events
        assert (event.guard_name, event.figures, event.outcome) == ("timeout", {"timeout_s": 0.01}, "intervened")
        await anyio.sleep(0)  # no cancellation is left over

    on_loop(main)


@pytest.mark.parametrize("kind", KINDS)
def test_a_timeout_error_of_the_body_is_its_own(kind: str, on_loop: Runner) -> None:
    error = TimeoutError("mine")

    def fail() -> None:
        raise error

    async def main() -> None:
        with pytest.raises(TimeoutError, match="mine") as caught:
            await outcome(timeout(30)(of_kind(kind, fail))())
        assert caught.value is error

    on_loop(main)


def test_a_cancellation_from_outside_stays_one(on_loop: Runner) -> None:
    async def main() -> None:
        with anyio.move_on_after(0.01) as scope:
            await timeout(30)(forever)()
        assert scope.cancelled_caught

    on_loop(main)


async def test_a_cancellation_at_the_very_time_of_the_deadline_wins() -> None:
    started = asyncio.Event()

    @timeout(0.01)
    async def stubborn() -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            task.cancel()  # someone else cancels, too
            raise

    task = asyncio.ensure_future(stubborn())
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_result_that_came_all_the_same_is_delivered(on_loop: Runner) -> None:
    @timeout(0.01)
    async def stubborn() -> str:
        try:
            await forever()
        except anyio.get_cancelled_exc_class():
            return "saved"  # trio does not like it, and that is the body's affair
        return ""

    async def main() -> None:
        assert await stubborn() == "saved"

    on_loop(main)


def test_nested_deadlines_the_shorter_wins(on_loop: Runner) -> None:
    async def main() -> None:
        for outer, inner in ((0.01, 30), (30, 0.01)):
            with pytest.raises(ToolTimeoutError) as caught:
                await timeout(outer)(timeout(inner)(forever))()
            assert caught.value.timeout_s == 0.01

    on_loop(main)


# --- plain functions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("outer", "inner"), [(0.02, 30), (30, 0.02)])
def test_a_plain_function_is_left_behind(outer: float, inner: float, client: Client) -> None:
    release, ended = threading.Event(), threading.Event()

    def slow() -> None:
        release.wait(30)
        ended.set()

    with (
        client.run() as run,
        published(client, GuardIntervention, ToolFailure) as events,
        pytest.raises(ToolTimeoutError) as caught,
    ):
        timeout(outer)(timeout(inner)(slow))()
    assert (caught.value.timeout_s, caught.value.run_id) == (0.02, run.run_id)
    assert [event.figures for event in events] == [{"timeout_s": 0.02}]
    assert not ended.is_set()
    release.set()
    assert ended.wait(30)


def test_a_plain_function_has_the_callers_context_in_another_thread() -> None:
    @timeout(30)
    def look() -> tuple[str, str | None, bool]:
        return note.get(), current_tool.get(), threading.current_thread() is threading.main_thread()

    note.set("mine")
    assert look() == ("mine", name_of(look), False)


def test_it_works_inside_a_running_loop_and_the_body_may_run_one(on_loop: Runner) -> None:
    @timeout(30)
    def runs_a_loop() -> int:
        async def seven() -> int:
            return 7

        return anyio.run(seven)

    async def main() -> None:
        assert runs_a_loop() == 7

    on_loop(main)


def test_an_executor_of_the_user() -> None:
    with ThreadPoolExecutor(1, thread_name_prefix="mine") as executor:
        name = timeout(30, executor=executor)(lambda: threading.current_thread().name)()
        assert name.startswith("mine")
        release = threading.Event()
        with pytest.raises(ToolTimeoutError):
            timeout(0.01, executor)(lambda: release.wait(30))()
        release.set()


def test_what_waits_in_a_full_executor_never_begins() -> None:
    begun: list[bool] = []
    with ThreadPoolExecutor(1) as executor:
        release = threading.Event()
        executor.submit(release.wait, 30)
        with pytest.raises(ToolTimeoutError):
            timeout(0.01, executor)(lambda: begun.append(True))()
        release.set()
    assert not begun


# --- generators -----------------------------------------------------------------------------------------------------


def test_the_deadline_of_a_generator_spans_the_iteration() -> None:
    closed: list[bool] = []

    @timeout(5)
    def numbers() -> Iterator[int]:
        try:
            while True:
                note.set(f"{note.get()}+")  # what a step sets the next one sees
                yield len(note.get())
        finally:
            closed.append(True)

    with hand_clock() as now:
        note.set("")
        generator = numbers()
        assert next(generator) == 1
        now.advance(4.9)
        assert next(generator) == 2
        now.advance(0.2)
        with pytest.raises(ToolTimeoutError):
            next(generator)
        assert closed == [True]


def test_a_step_of_a_generator_that_hangs_is_left_behind() -> None:
    release = threading.Event()

    @timeout(0.02)
    def numbers() -> Iterator[int]:
        yield 1
        release.wait(30)

    generator = numbers()
    assert next(generator) == 1
    with pytest.raises(ToolTimeoutError):
        next(generator)
    release.set()


def test_the_deadline_of_an_async_generator_spans_the_iteration(on_loop: Runner) -> None:
    closed: list[str] = []

    @timeout(0.02)
    async def numbers(hangs: bool) -> AsyncIterator[int]:
        try:
            yield 1
            if hangs:
                await forever()
            yield 2
        finally:
            closed.append("closed")

    async def main() -> None:
        closed.clear()
        generator = numbers(hangs=True)
        assert await anext(generator) == 1
        with pytest.raises(ToolTimeoutError):
            await anext(generator)
        slow_consumer = numbers(hangs=False)
        assert await anext(slow_consumer) == 1
        end = clock.monotonic() + 0.03
        while clock.monotonic() < end:  # the consumer is not cancelled
            await anyio.sleep(0.005)
        with pytest.raises(ToolTimeoutError):
            await anext(slow_consumer)
        assert closed == ["closed", "closed"]

    on_loop(main)


# --- direct use and settings ----------------------------------------------------------------------------------------


def test_direct_use_is_async_only(on_loop: Runner) -> None:
    async def main() -> None:
        deadline = timeout(30)
        async with deadline, deadline:  # re-entrant
            pass
        with pytest.raises(ToolTimeoutError, match=r"^this block did not finish within 0\.01 s"):
            async with timeout(0.01):
                await forever()
        with pytest.raises(TimeoutUsageError, match="async with"), timeout(30):
            pass

    on_loop(main)
    with pytest.raises(TimeoutUsageError, match="async with"), timeout(30):
        pass


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"seconds": 0}, "seconds"),
        ({"seconds": -1}, "seconds"),
        ({"seconds": True}, "seconds"),
        ({"seconds": "5"}, "seconds"),
        ({"seconds": float("inf")}, "seconds"),
        ({"seconds": 1, "executor": "mine"}, "executor"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(TimeoutUsageError) as refused:
        timeout(**settings)
    assert refused.value.field == field


def test_an_executor_that_could_not_be_used_is_refused() -> None:
    with ProcessPoolExecutor() as processes, pytest.raises(TimeoutUsageError, match="threads"):
        timeout(1, processes)
    with ThreadPoolExecutor(1) as executor, pytest.raises(TimeoutUsageError, match="plain functions"):
        timeout(1, executor)(forever)


def test_workers_are_used_again() -> None:
    threads = {timeout(30)(threading.get_ident)() for _ in range(20)}
    assert len(threads) == 1


def test_bare_tool_has_no_deadline() -> None:
    assert tool(threading.get_ident)() == threading.get_ident()


def test_calls_of_one_tool_have_their_own_deadlines_on_each_loop() -> None:
    @timeout(0.02)
    async def tool(ends: bool) -> str:
        await asyncio.Event().wait() if not ends else None
        return "done"

    async def main() -> None:
        for _ in range(2):  # once more when the timer of the loop has run down
            ends = await asyncio.gather(*map(tool, (False, True, False)), return_exceptions=True)
            assert [type(end) for end in ends] == [ToolTimeoutError, str, ToolTimeoutError]
        assert await asyncio.gather(*map(tool, (True, True))) == ["done", "done"]
        with pytest.raises(ToolTimeoutError):
            await tool(False)

    for _ in range(2):
        asyncio.run(main())
