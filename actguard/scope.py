"""The only bridge between sync and async: `Scope`, `Reply` and `step`.

A scope is written once, as ``__aenter__`` / ``__aexit__``. Its sync twin runs the same coroutine in the caller's own
thread and context by stepping it: nothing in it may suspend, except a `Reply`, which blocks the thread instead. So
ContextVars that a scope sets stay set, no thread is started and no second class exists.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

import anyio
from anyio.lowlevel import current_token

from actguard.doorbell import Doorbell
from actguard.locks import SettlingLock

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

CallSoon = Callable[[Callable[[], object]], object]

WOKEN_PER_ROUND = 12
"""How many whose answers have come go on in one round of their event loop: about a millisecond's worth."""


class _Stepping(threading.local):
    active = False


_stepping = _Stepping()


def step(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run ``coroutine`` to its end in this thread and context, without an event loop.

    Raises:
        RuntimeError: it tried to suspend, which only a `Reply` may do (and a `Reply` blocks here).
    """
    outer, _stepping.active = _stepping.active, True
    try:
        coroutine.send(None)
        coroutine.close()  # its cleaning up may have to wait for a reply, too
    except StopIteration as done:
        return cast(T, done.value)
    finally:
        _stepping.active = outer
    name = getattr(coroutine, "__qualname__", "This")
    raise RuntimeError(f"{name} has to wait for an event loop and cannot be used with a plain `with`; use `async with`")


class Scope(ABC, Generic[T_co]):
    """Something to be inside of, entered with ``async with`` or ``with``.

    A ``with`` inside a running event loop blocks that loop for as long as entering and leaving take: nothing
    without a gateway, up to ``budget_timeout_s`` with one. Prefer ``async with`` there.
    """

    __slots__ = ()

    @abstractmethod
    async def __aenter__(self) -> T_co: ...

    @abstractmethod
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None: ...

    def __enter__(self) -> T_co:
        return step(self.__aenter__())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None:
        return step(self.__aexit__(kind, error, trace))


def is_async(function: Callable[..., Any]) -> bool:
    """True for a coroutine function, and for an object whose ``__call__`` is one."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004  what it is, not whether it is there
    )


def call_soon_here() -> CallSoon:
    """A function that runs a callback soon on the event loop running here (asyncio or trio), callable from any thread.

    It raises RuntimeError once that loop is closed.
    """
    native: Any = current_token().native_token
    return cast("CallSoon", getattr(native, "call_soon_threadsafe", None) or native.run_sync_soon)


def _asyncio_task() -> asyncio.Task[Any] | None:
    """The asyncio task that runs here; None on trio, also when trio is a guest of asyncio."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def _arrive(waited_for: asyncio.Future[None]) -> None:
    if not waited_for.done():
        waited_for.set_result(None)


class _Here(threading.local):
    loop: asyncio.AbstractEventLoop | None = None
    """The asyncio loop that was last waited on in this thread."""
    bell: Doorbell


_here = _Here()


def _bell_of(loop: asyncio.AbstractEventLoop) -> Doorbell:
    """The bell of the loop that runs in this thread: one for all who wait on it."""
    if _here.loop is not loop:
        _here.loop, _here.bell = loop, Doorbell(loop, per_round=WOKEN_PER_ROUND)
    return _here.bell


def on_event_loop() -> bool:
    """True where asyncio or trio runs."""
    try:
        current_token()
    except RuntimeError:
        return False
    return True


def on_asyncio() -> bool:
    """True in a task of asyncio."""
    return _asyncio_task() is not None


class Reply(Generic[T]):
    """One answer, given once, from any thread; awaited on asyncio or trio, or blocked on in a plain thread.

    The one who waits may go away (timeout, cancellation) and says so with ``abandon``. That never cancels the work:
    the work ends as it ends, and what it did is undone by the ``undo`` given with the answer.
    """

    __slots__ = ("_error", "_lock", "_undo", "_value", "_wake", "abandoned", "done")

    def __init__(self) -> None:
        self._lock = SettlingLock()
        self._wake: list[Callable[[], object]] = []
        self._value: T | None = None
        self._error: BaseException | None = None
        self._undo: Callable[[], object] | None = None
        self.abandoned = False
        """True when nobody waits any more."""
        self.done = False
        """True once there is an answer."""

    def answer(self, value: T, undo: Callable[[], object] | None = None) -> None:
        """Give the answer; later ones are ignored. ``undo`` is called, from any thread, when nobody waits for it."""
        self._settle(value, None, undo)

    def fail(self, error: BaseException) -> None:
        """Give an error as the answer: it is raised where the answer is awaited."""
        self._settle(None, error, None)

    def abandon(self) -> None:
        """Nobody waits any more: an answer that has come or will come is undone."""
        with self._lock:
            self.abandoned = True
            undo, self._undo = self._undo, None
        if undo is not None:
            undo()

    @staticmethod
    def blocks_here() -> bool:
        """True when waiting here blocks the thread: inside a plain ``with``."""
        return _stepping.active

    async def wait(self, timeout: float | None = None) -> T:
        """The answer, waiting for at most ``timeout`` seconds.

        Raises:
            TimeoutError: none came in time.
        """
        if not self.done:
            if _stepping.active:
                arrived = threading.Event()
                longest = None if timeout is None else min(timeout, threading.TIMEOUT_MAX)
                if self._call_when_done(arrived.set) and not arrived.wait(longest):
                    raise TimeoutError
            elif (task := _asyncio_task()) is not None:
                await self._wait_on_asyncio(task.get_loop(), timeout)
            else:
                signal, call_soon = anyio.Event(), call_soon_here()
                if self._call_when_done(lambda: call_soon(signal.set)):
                    with anyio.fail_after(timeout):
                        await signal.wait()
        if self._error is not None:
            raise self._error
        return cast(T, self._value)

    async def _wait_on_asyncio(self, loop: asyncio.AbstractEventLoop, timeout: float | None) -> None:
        """The same in the words of asyncio, which take a quarter of the time: hundreds may wait at once."""
        arrived, bell = loop.create_future(), _bell_of(loop)
        if self._call_when_done(lambda: bell.send(lambda: _arrive(arrived))):
            timer = None if timeout is None else loop.call_later(timeout, _arrive, arrived)
            try:
                await arrived
            finally:
                if timer is not None:
                    timer.cancel()
            if not self.done:
                raise TimeoutError

    def _call_when_done(self, wake: Callable[[], object]) -> bool:
        with self._lock:
            if not self.done:
                self._wake.append(wake)
            return not self.done

    def _settle(self, value: T | None, error: BaseException | None, undo: Callable[[], object] | None) -> None:
        with self._lock:
            if self.done:
                return
            self._value, self._error, self.done = value, error, True
            self._undo = None if self.abandoned else undo
            late = undo if self.abandoned else None
            wake, self._wake = self._wake, []
        for call in wake:
            with contextlib.suppress(RuntimeError):  # the loop of the one who waited may be closed by now
                call()
        if late is not None:
            late()
