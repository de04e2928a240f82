"""Runs: how they begin and end, what they publish, and who is inside."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from conftest import Runner

from actguard import context
from actguard.client import Client
from actguard.events import RunEnd, RunStart
from actguard.exceptions import (
    ActGuardError,
    ActGuardPaymentRequired,
    ActGuardUsageError,
    BudgetExceededError,
    GuardError,
    NestedRunContextError,
    NestedRuntimeContextError,
    ToolTimeoutError,
)
from actguard.guards.run import Run


def active() -> Any:
    return context.active_run()


def ends(client: Client, error: BaseException) -> RunEnd:
    """The end of a run that ``error`` ends."""
    with client.bus.subscribe(RunEnd) as events, contextlib.suppress(type(error)), client.run():
        raise error
    [end] = events.pending()
    return end


def test_a_run_is_active_inside_and_only_there(client: Client, on_loop: Runner) -> None:
    async def main() -> None:
        async with client.run(user_id="alice", run_id="r1") as run:
            assert (run.run_id, run.user_id) == ("r1", "alice")
            assert active() is run
        assert active() is None

    on_loop(main)
    with client.run(user_id="bob") as run:
        assert active() is run
        assert run.user_id == "bob"
    assert active() is None


def test_run_ids_are_fresh(client: Client) -> None:
    assert len({client.run().run_id for _ in range(100)}) == 100


@pytest.mark.parametrize("field", ["user_id", "run_id"])
@pytest.mark.parametrize("value", ["", "  ", 1, b"x", True, ["a"]])
def test_a_wrong_name_is_refused(field: str, value: Any, client: Client) -> None:
    with pytest.raises(ActGuardUsageError) as caught:
        client.run(**{field: value})
    assert caught.value.field == field


@pytest.mark.parametrize("value", [1, 0, None, "yes"])
def test_adopt_threads_is_true_or_false(value: Any, client: Client) -> None:
    with pytest.raises(ActGuardUsageError) as caught:
        client.run(adopt_threads=value)
    assert caught.value.field == "adopt_threads"


# --- events ---------------------------------------------------------------------------------------------------------


def test_start_and_end_are_published(client: Client, on_loop: Runner) -> None:
    async def main() -> None:
        with client.bus.subscribe() as events:
            async with client.run(user_id="alice", run_id="r1"):
                pass
        start, end = events.pending()
        assert isinstance(start, RunStart)
        assert isinstance(end, RunEnd)
        for event in (start, end):
            assert (event.run_id, event.user_id, event.category) == ("r1", "alice", "run")
        assert (end.outcome, end.severity, end.error_type) == ("success", "info", None)
        assert end.duration_s is not None
        assert end.duration_s >= 0
        assert start.ts <= end.ts

    on_loop(main)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (BudgetExceededError(), "blocked"),
        (GuardError("NO", "no"), "blocked"),
        (ActGuardPaymentRequired(path="/x"), "blocked"),
        (ToolTimeoutError(tool_name="t", timeout_s=1), "failed"),
        (ActGuardError("x"), "failed"),
        (ValueError("x"), "failed"),
        (KeyboardInterrupt(), "failed"),
        (SystemExit(1), "failed"),
        (GeneratorExit(), "failed"),
        (asyncio.CancelledError(), "failed"),
        (BaseExceptionGroup("tasks", [GuardError("NO", "no"), BudgetExceededError()]), "blocked"),
        (ExceptionGroup("tasks", [ExceptionGroup("inner", [GuardError("NO", "no")])]), "blocked"),
        (ExceptionGroup("tasks", [GuardError("NO", "no"), ValueError("x")]), "failed"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else value,
)
def test_what_ended_the_run_is_told(error: BaseException, outcome: str, client: Client) -> None:
    end = ends(client, error)
    assert (end.outcome, end.severity, end.error_type) == (outcome, "error", type(error).__name__)


def test_a_cancelled_run_failed(client: Client, on_loop: Runner) -> None:
    async def main() -> None:
        with client.bus.subscribe(RunEnd) as events:
            with anyio.CancelScope() as scope:
                async with client.run():
                    scope.cancel()
                    await anyio.lowlevel.checkpoint()
            [end] = events.pending()
        assert (end.outcome, bool(end.error_type)) == ("failed", True)
        assert active() is None

    on_loop(main)


# --- nesting --------------------------------------------------------------------------------------------------------


def test_a_run_inside_a_run_is_refused_and_the_outer_one_goes_on(client: Client, on_loop: Runner) -> None:
    assert NestedRunContextError is NestedRuntimeContextError

    async def main() -> None:
        async with client.run() as outer:
            with client.bus.subscribe() as events:
                for other in (client, Client()):
                    with pytest.raises(NestedRuntimeContextError, match=outer.run_id):
                        await other.run().__aenter__()
                with pytest.raises(NestedRuntimeContextError), client.run():
                    pass
                with pytest.raises(NestedRuntimeContextError):
                    await outer.__aenter__()
            assert events.pending() == []
            assert active() is outer
            assert not outer.closed

    on_loop(main)


def test_a_refused_run_adopts_nobody(client: Client) -> None:
    with client.run():
        with pytest.raises(NestedRuntimeContextError), client.run(adopt_threads=True):
            pass
        with pytest.raises(NestedRuntimeContextError), client.run(adopt_threads=True):
            pass
    with client.run(adopt_threads=True):
        pass


def test_a_run_object_is_one_run(client: Client) -> None:
    run = client.run()
    with run:
        pass
    with pytest.raises(NestedRuntimeContextError, match="over"), run:
        pass


def test_leaving_twice_is_leaving_once(client: Client) -> None:
    with client.bus.subscribe(RunEnd) as events:
        run = client.run()
        run.__exit__(None, None, None)
        with run:
            pass
        run.__exit__(None, None, None)
    assert len(events.pending()) == 1


def test_tasks_have_their_own_runs(client: Client) -> None:
    async def main() -> None:
        async def agent(name: str) -> None:
            async with client.run(run_id=name) as run:
                await asyncio.sleep(0)
                assert active() is run

        await asyncio.gather(*(agent(str(number)) for number in range(20)))

    asyncio.run(main())


def test_a_run_can_be_left_in_another_context(client: Client) -> None:
    """As when a framework enters in one task and leaves in another."""
    run = client.run()
    there = contextvars.copy_context()
    there.run(run.__enter__)
    assert active() is None
    run.__exit__(None, None, None)
    assert run.closed
    assert there.run(active) is None
    with client.run() as next_run:
        assert active() is next_run
    there.run(enter_and_leave, client.run())


def enter_and_leave(run: Run) -> None:
    with run:
        assert active() is run


def test_a_task_that_outlives_its_run_has_none(client: Client) -> None:
    async def main() -> None:
        over = asyncio.Event()

        async def straggler() -> Any:
            await over.wait()
            return active()

        async with client.run():
            task = asyncio.create_task(straggler())
            await asyncio.sleep(0)
        over.set()
        assert await task is None

    asyncio.run(main())


# --- threads --------------------------------------------------------------------------------------------------------


def in_thread(work: Callable[[], Any]) -> Any:
    """What ``work`` returns in a thread without any context."""
    result: list[Any] = []
    thread = threading.Thread(target=lambda: result.append(work()))
    thread.start()
    thread.join()
    return result[0]


def test_a_thread_without_context_has_no_run(client: Client) -> None:
    with client.run() as run:
        assert in_thread(active) is None
        assert asyncio.run(asyncio.to_thread(active)) is run


def test_a_run_may_adopt_threads(client: Client) -> None:
    with client.run(adopt_threads=True) as run:
        assert in_thread(active) is run
        assert in_thread(lambda: enter_and_leave(client.run())) is None
    assert in_thread(active) is None


def test_the_thread_that_opened_the_run_is_not_adopted(client: Client) -> None:
    elsewhere = contextvars.Context()
    with client.run(adopt_threads=True):
        assert elsewhere.run(active) is None


def test_a_thread_whose_own_run_is_over_is_not_adopted(client: Client) -> None:
    with client.run() as mine:
        carried = contextvars.copy_context()
    with client.run(adopt_threads=True):
        assert mine.closed
        assert in_thread(lambda: carried.run(active)) is None


def test_one_run_of_the_process_adopts_at_a_time(client: Client) -> None:
    def second() -> str | None:
        try:
            with Client().run(adopt_threads=True):
                return None
        except ActGuardUsageError as error:
            return error.field

    with client.run(adopt_threads=True) as run:
        assert in_thread(second) == "adopt_threads"
        assert in_thread(active) is run
    assert in_thread(second) is None
    with client.run(adopt_threads=True):
        pass


def test_a_run_that_may_not_adopt_is_not_entered(client: Client) -> None:
    def second() -> Any:
        run = client.run(adopt_threads=True)
        with pytest.raises(ActGuardUsageError), run:
            pass
        return active(), run

    with client.bus.subscribe() as events, client.run(adopt_threads=True) as first:
        seen, refused = in_thread(second)
        assert seen is first
        assert not refused.closed
    assert [event.run_id for event in events.pending()] == [first.run_id] * 2


def test_a_run_that_is_cancelled_adopts_nobody_afterwards(client: Client, on_loop: Runner) -> None:
    async def main() -> None:
        with anyio.CancelScope() as scope:
            async with client.run(adopt_threads=True):
                scope.cancel()
                await anyio.lowlevel.checkpoint()

    on_loop(main)
    assert in_thread(active) is None


def test_attempts_are_counted_per_tool(client: Client) -> None:
    with client.run() as run:
        assert run.get_attempt_count("module:tool") == 0
    assert run.get_attempt_count("module:tool") == 0
