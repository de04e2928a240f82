"""Sync by stepping, and replies that are awaited on any loop or blocked on in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Any

import anyio
import anyio.to_thread
import pytest
from conftest import Runner, until

from actguard.locks import when_safe
from actguard.scope import Reply, Scope, step

number: ContextVar[int] = ContextVar("number", default=0)


class Plain(Scope[str]):
    """Sets a ContextVar, and may wait for a reply on its way in and out."""

    def __init__(self, reply: Reply[str] | None = None) -> None:
        self.reply = reply
        self.log: list[str] = []

    async def __aenter__(self) -> str:
        number.set(number.get() + 1)
        self.log.append("in")
        return await self.reply.wait(5) if self.reply else "nothing"

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        number.set(number.get() - 1)
        self.log.append(f"out {kind.__name__ if kind else None}")
        return kind is KeyError


def in_thread(work: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def answer_when_awaited(reply: Reply[Any], value: Any) -> None:
    def work() -> None:
        until(lambda: reply._wake)
        reply.answer(value)

    in_thread(work)


# --- the sync twin --------------------------------------------------------------------------------------------------


def test_with_runs_in_the_callers_context() -> None:
    scope = Plain()
    with scope as value:
        assert (value, number.get()) == ("nothing", 1)
    assert (number.get(), scope.log) == (0, ["in", "out None"])


def test_with_passes_exceptions_and_what_exit_says_to_them() -> None:
    scope = Plain()
    with pytest.raises(ValueError, match=r"^body$"), scope:
        raise ValueError("body")
    with scope:
        raise KeyError("swallowed")
    assert scope.log == ["in", "out ValueError", "in", "out KeyError"]


def test_with_works_inside_a_running_loop(on_loop: Runner) -> None:
    async def main() -> None:
        reply: Reply[str] = Reply()
        in_thread(lambda: reply.answer("here"))
        with Plain(reply) as value:
            assert (value, number.get()) == ("here", 1)

    on_loop(main)


def test_async_with_waits_without_blocking(on_loop: Runner) -> None:
    async def main() -> None:
        reply: Reply[str] = Reply()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(enter, reply)
            await anyio.wait_all_tasks_blocked()
            reply.answer("later")

    async def enter(reply: Reply[str]) -> None:
        async with Plain(reply) as value:
            assert (value, number.get()) == ("later", 1)

    on_loop(main)


class Sleeping(Plain):
    async def __aenter__(self) -> str:
        try:
            await asyncio.sleep(0)
        finally:
            self.log.append("cleaned up")
        return "never"


class Stubborn(Plain):
    """Waits for a reply even while it is being closed."""

    async def __aenter__(self) -> str:
        try:
            await asyncio.sleep(0)
        finally:
            assert self.reply is not None
            self.log.append(await self.reply.wait(5))
        return "never"


def test_waiting_for_a_loop_in_a_plain_with_is_a_clear_error() -> None:
    scope = Sleeping()
    asyncio_only = pytest.raises(RuntimeError, match=r"__aenter__ .* use `async with`")
    with asyncio_only, Sleeping():
        raise AssertionError("not entered")

    async def main() -> None:
        with asyncio_only, scope:
            raise AssertionError("not entered")

    asyncio.run(main())
    assert scope.log == ["cleaned up"]


def test_cleaning_up_after_that_error_may_wait_for_a_reply() -> None:
    reply: Reply[str] = Reply()
    reply.answer("answered")
    waiting: Reply[str] = Reply()
    answer_when_awaited(waiting, "answered too")
    for each in (reply, waiting):
        scope = Stubborn(each)
        with pytest.raises(RuntimeError, match="use `async with`"), scope:
            raise AssertionError("not entered")
        assert scope.log[0].startswith("answered")


def test_step_returns_raises_and_nests() -> None:
    async def inner() -> int:
        return 1

    async def outer() -> int:
        assert Reply.blocks_here()
        one = step(inner())
        assert Reply.blocks_here()
        return one + 1

    async def failing() -> None:
        raise LookupError("x")

    assert step(outer()) == 2
    with pytest.raises(LookupError):
        step(failing())
    assert not Reply.blocks_here()


# --- replies --------------------------------------------------------------------------------------------------------


def blocking(reply: Reply[Any], timeout: float | None = 5) -> Any:
    return step(reply.wait(timeout))


def test_an_answer_comes_from_any_thread_to_all_who_wait(on_loop: Runner) -> None:
    async def main() -> None:
        reply: Reply[int] = Reply()
        got: list[int] = []

        async def wait() -> None:
            got.append(await reply.wait(5))

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(wait)
            waiting = in_thread(lambda: got.append(blocking(reply)))
            await anyio.wait_all_tasks_blocked()
            await anyio.to_thread.run_sync(lambda: reply.answer(7))
        await anyio.to_thread.run_sync(waiting.join)
        assert got == [7, 7, 7, 7]
        assert await reply.wait() == 7

    on_loop(main)


def test_an_error_is_raised_where_the_answer_is_awaited(on_loop: Runner) -> None:
    reply: Reply[int] = Reply()
    reply.fail(LookupError("no"))
    with pytest.raises(LookupError):
        blocking(reply)
    with pytest.raises(LookupError):
        on_loop(reply.wait)


def test_only_the_first_answer_counts() -> None:
    reply: Reply[int] = Reply()
    undone: list[str] = []
    reply.answer(1, lambda: undone.append("first"))
    reply.answer(2, lambda: undone.append("second"))
    reply.fail(LookupError("late"))
    assert blocking(reply) == 1
    assert undone == []
    reply.abandon()
    assert undone == ["first"]


@pytest.mark.parametrize("timeout", [0, -1, 0.001])
def test_waiting_ends_after_the_timeout(timeout: float, on_loop: Runner) -> None:
    reply: Reply[int] = Reply()
    with pytest.raises(TimeoutError):
        blocking(reply, timeout)
    with pytest.raises(TimeoutError):
        on_loop(lambda: reply.wait(timeout))
    reply.answer(1)
    assert blocking(reply, timeout) == 1


@pytest.mark.parametrize("timeout", [1e300, float("inf")])
def test_no_timeout_is_too_long(timeout: float, on_loop: Runner) -> None:
    for wait in (blocking, lambda reply, timeout: on_loop(lambda: reply.wait(timeout))):
        reply: Reply[int] = Reply()
        answer_when_awaited(reply, 1)
        assert wait(reply, timeout) == 1


def test_one_who_waits_on_a_loop_that_is_closed_disturbs_nobody() -> None:
    reply: Reply[int] = Reply()
    loop = asyncio.new_event_loop()
    task = loop.create_task(reply.wait())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    waiting = in_thread(lambda: blocking(reply))
    reply.answer(1)
    waiting.join(5)
    assert not waiting.is_alive()
    assert blocking(reply) == 1
    task._log_destroy_pending = False  # type: ignore[attr-defined]  it can never end


def test_cancelling_one_who_waits_leaves_the_others(on_loop: Runner) -> None:
    async def main() -> None:
        reply: Reply[int] = Reply()
        async with anyio.create_task_group() as tasks:
            doomed = anyio.CancelScope()

            async def wait() -> None:
                with doomed:
                    await reply.wait()

            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            doomed.cancel()
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(reply.wait)
            reply.answer(1)

    on_loop(main)


# --- abandoning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [("answer", "abandon"), ("abandon", "answer")])
def test_what_nobody_waits_for_is_undone_once(order: tuple[str, ...]) -> None:
    reply: Reply[int] = Reply()
    undone: list[int] = []
    steps = {"answer": lambda: reply.answer(1, lambda: undone.append(1)), "abandon": reply.abandon}
    for name in (*order, *order):
        steps[name]()
    assert undone == [1]


def test_answer_and_abandon_racing_undo_exactly_once() -> None:
    undone: list[int] = []
    for _ in range(300):
        reply: Reply[int] = Reply()
        start = threading.Barrier(3)

        def answer(reply: Reply[int] = reply, start: threading.Barrier = start) -> None:
            start.wait()
            reply.answer(1, lambda: undone.append(1))

        def abandon(reply: Reply[int] = reply, start: threading.Barrier = start) -> None:
            start.wait()
            reply.abandon()

        threads = [in_thread(answer), in_thread(abandon), in_thread(abandon)]
        for thread in threads:
            thread.join()
    assert len(undone) == 300


class FinalizerComesHere(list[Any]):
    """As when the garbage collector runs a finalizer in the middle of an append."""

    def __init__(self, finalizer: Callable[[], object]) -> None:
        self.finalizer = finalizer

    def append(self, item: Any) -> None:
        when_safe(self.finalizer)
        super().append(item)


def test_a_finalizer_may_answer_while_its_own_thread_is_about_to_wait() -> None:
    reply: Reply[int] = Reply()
    reply._wake = FinalizerComesHere(lambda: reply.answer(7))
    waiting = threading.Thread(target=lambda: got.append(blocking(reply)), daemon=True)
    got: list[int] = []
    waiting.start()
    waiting.join(5)
    assert got == [7]
