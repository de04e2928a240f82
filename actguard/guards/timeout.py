"""``timeout``: a tool that takes too long is given up.

A coroutine is cancelled, by a timer of asyncio or a cancel scope of trio. A plain function cannot be stopped from
outside: it runs in a worker thread, and is left behind there. A generator has its deadline for the whole iteration, and
each of its steps runs under what is left of it, so that the time of the consumer is never cut short by a cancellation.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import threading
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, Future
from contextvars import Context
from typing import Any

import anyio

from actguard import clock
from actguard.context import active_run
from actguard.exceptions import TimeoutUsageError, ToolTimeoutError
from actguard.guards import workers
from actguard.guards.guarding import Guard
from actguard.guards.protocol import CallScope, Quick, intervened
from actguard.guards.tools import Call, Kind, Tool, shown_name
from actguard.rules import checks
from actguard.scope import Reply


class Timeout(Guard[None]):
    """What `timeout` returns."""

    name = "timeout"

    def __init__(self, seconds: float, executor: Executor | None) -> None:
        super().__init__()
        self.seconds = checks.duration(seconds, "seconds", "timeout", TimeoutUsageError)
        if executor is not None and not isinstance(executor, Executor):
            raise TimeoutUsageError("timeout: executor must be a concurrent.futures.Executor", field="executor")
        if isinstance(executor, concurrent.futures.ProcessPoolExecutor):
            raise TimeoutUsageError(
                "timeout: executor must run threads: the context of a call stays in its process", field="executor"
            )
        self.executor = executor
        self._ends: _Ends | None = None

    def bind(self, tool: Tool) -> Timeout:
        if self.executor is not None and tool.kind.is_async:
            raise TimeoutUsageError(
                f"timeout: executor is for plain functions, and {tool.name} is a {tool.kind.value}", field="executor"
            )
        bound = super().bind(tool)
        bound._ends = None
        return bound

    def enter(self, call: Call) -> CallScope | None:
        if call.tool is not None and call.tool.kind is not Kind.COROUTINE:
            steps = _Steps(self, call)
            if call.runner is None or call.runner.left() > self.seconds:
                call.runner = steps
            return None
        return self._begin(call.args, call.kwargs)

    def quick(self) -> Quick | None:
        return self._begin if self.tool is not None and self.tool.kind is Kind.COROUTINE else None

    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> CallScope:
        if Reply.blocks_here():
            raise TimeoutUsageError(
                "timeout cannot interrupt the body of a plain `with`. Use `async with`, or decorate a function: plain "
                "functions run in a worker thread.",
                field="timeout",
            )
        return _Deadline(self)

    def ends_on(self, loop: asyncio.AbstractEventLoop) -> _Ends:
        """The ends of the calls on ``loop``. Only those of one loop are kept; a guard on several by turns has more."""
        ends = self._ends
        if ends is None or not ends.are_on(loop):
            ends = self._ends = _Ends(self.seconds, loop)
        return ends

    def expired(self) -> ToolTimeoutError:
        """The error for a call that took too long, announced."""
        run = active_run()
        intervened(self, timeout_s=self.seconds)
        return ToolTimeoutError(
            tool_name=shown_name(self.tool), timeout_s=self.seconds, run_id=None if run is None else run.run_id
        )


# --- coroutines -----------------------------------------------------------------------------------------------------


class _Timer:
    """Cancels what this task does when the time is up. On asyncio it costs half of the general one."""

    __slots__ = ("_before", "_ends", "_expired", "_handle", "_scope", "_task")

    def __init__(self, seconds: float, guard: Timeout | None = None) -> None:
        self._expired = False
        try:
            task = self._task = asyncio.current_task()
        except RuntimeError:
            task = self._task = None
        if task is None:
            self._scope = anyio.CancelScope(deadline=anyio.current_time() + seconds)
            self._scope.__enter__()
            return
        self._before = task.cancelling()
        loop = task.get_loop()
        if guard is None:
            self._ends = None
            self._handle = loop.call_later(seconds, self.cancel)
        else:
            self._ends = guard.ends_on(loop)
            self._ends.add(self, loop)

    def cancel(self) -> None:
        assert self._task is not None
        self._expired = True
        self._task.cancel()

    def stop(self, error: BaseException | None) -> bool:
        """Stop it, however what is inside has ended; True: it was this timer that ended it."""
        kind = None if error is None else type(error)
        if self._task is None:
            self._scope.__exit__(kind, error, None if error is None else error.__traceback__)
            return self._scope.cancelled_caught
        if self._ends is None:
            self._handle.cancel()
        else:
            self._ends.remove(self)
        # Someone else may have cancelled the task as well: that goes on as a cancellation.
        return self._expired and self._task.uncancel() <= self._before and kind is asyncio.CancelledError


class _Ends:
    """When the time of each call of one guard on one asyncio loop is up, with one timer of the loop for all of them:
    they are given the same time, so the first to begin is the first to end. A timer for each takes 3 µs more."""

    __slots__ = ("_armed", "_loop", "_pending", "_seconds")

    def __init__(self, seconds: float, loop: asyncio.AbstractEventLoop) -> None:
        self._seconds = seconds
        self._loop = weakref.ref(loop)
        self._pending: OrderedDict[_Timer, float] = OrderedDict()
        self._armed = False

    def are_on(self, loop: asyncio.AbstractEventLoop) -> bool:
        return self._loop() is loop

    def add(self, timer: _Timer, loop: asyncio.AbstractEventLoop) -> None:
        self._pending[timer] = end = loop.time() + self._seconds
        if not self._armed:
            self._arm(loop, end)

    def remove(self, timer: _Timer) -> None:
        self._pending.pop(timer, None)

    def _arm(self, loop: asyncio.AbstractEventLoop, end: float) -> None:
        loop.call_at(end, self._ring, context=Context())  # of its own: that of the call would live on
        self._armed = True

    def _ring(self) -> None:
        self._armed = False
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._pending:
            timer, end = next(iter(self._pending.items()))
            if end > now:
                self._arm(loop, end)
                return
            del self._pending[timer]
            timer.cancel()


class _Deadline(CallScope):
    """Cancels what is inside when the time is up."""

    __slots__ = ("_guard", "_timer")

    def __init__(self, guard: Timeout) -> None:
        self._guard = guard
        self._timer: _Timer | None = _Timer(guard.seconds, guard)

    def returned(self, value: Any) -> Any:
        self.leave(None)
        return value

    def leave(self, error: BaseException | None) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.stop(error):
            raise self._guard.expired() from error


# --- plain functions, and generators step by step -------------------------------------------------------------------


class _Steps:
    """Has the body, or each step of a generator, run under what is left of the time."""

    __slots__ = ("_call", "_context", "_deadline", "_guard")

    def __init__(self, guard: Timeout, call: Call) -> None:
        self._guard = guard
        self._call = call
        self._deadline = clock.monotonic() + guard.seconds
        self._context: Context | None = None

    def left(self) -> float:
        left = self._deadline - clock.monotonic()
        if left <= 0:
            raise self._guard.expired()
        return left

    async def wait(self, function: Callable[..., Awaitable[Any]], /, *args: Any) -> Any:
        timer = _Timer(self.left())
        try:
            result = await function(*args)
        except BaseException as error:
            if timer.stop(error):
                raise self._guard.expired() from error
            raise
        timer.stop(None)
        return result

    def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if self._context is None:  # one for all steps: what a step sets the next one sees
            self._context = workers.context_for_thread()
        try:
            left = min(self.left(), threading.TIMEOUT_MAX)
        except ToolTimeoutError:
            self._call.started = False  # guards inside took all the time there was
            raise
        work = functools.partial(function, *args, **kwargs)
        if self._guard.executor is not None:
            return self._run_in(self._guard.executor, work, left)
        job = workers.Job(self._context, work)
        workers.start(job)
        try:
            ended = job.done.acquire(timeout=left)
        except BaseException:
            workers.abandon(job)
            raise
        if not ended:
            workers.abandon(job)
            raise self._guard.expired()
        return job.result()

    def _run_in(self, executor: Executor, work: Callable[[], Any], left: float) -> Any:
        assert self._context is not None
        future: Future[Any] | None = None
        try:
            future = executor.submit(self._context.run, work)
            if concurrent.futures.wait((future,), left).done:
                return future.result()
        finally:
            # One that never began (the executor is full, or refused it) had no effect.
            if future is None or future.cancel():
                self._call.started = False
        raise self._guard.expired()


def timeout(seconds: float, executor: Executor | None = None) -> Timeout:
    """Give a tool up after ``seconds``.

    The body of an ``async def`` is cancelled. A ``def`` runs in a worker thread with the caller's context, and is left
    behind there when the time is up: it may still take effect. For generators the time is that of the whole iteration.
    Works as a decorator, and directly as ``async with timeout(5): …``; a plain ``with`` cannot be interrupted.

    Args:
        seconds: the most a call may take, waiting in guards inside included.
        executor: where plain functions run instead of ActGuard's own workers.

    Raises:
        TimeoutUsageError: a setting is wrong (when decorating), or it is entered with a plain ``with``.
        ToolTimeoutError: the call took too long (when called).

    Example::

        @actguard.timeout(10)
        async def fetch(url: str) -> str: ...
    """
    return Timeout(seconds, executor)
