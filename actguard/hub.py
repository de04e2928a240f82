"""The hub: the background event loop that subscribers live on.

One asyncio loop in one daemon thread, started when the first resident needs it, so a client without gateway and
handlers has no thread at all. After a fork the child has no such thread: residents are bound to a new one the next
time something is sent to them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from contextvars import Context
from importlib import import_module
from typing import Any, Protocol

from actguard.doorbell import Doorbell
from actguard.locks import SettlingLock

START_TIMEOUT_S = 10.0
"""A thread that has not come up after this long never will."""
PER_ROUND = 64
"""Callbacks in one round of the loop: more would keep the interpreter from the callers' threads for long, and with
fewer, hundreds who ask at once get their answers later.
"""

_hubs: weakref.WeakSet[Hub] = weakref.WeakSet()
_parents_loops: list[object] = []
"""Loops and tasks of the parent process, kept alive in a forked child: ending one there would disturb the parent's."""


class Resident(Protocol):
    """Something that lives on the hub."""

    def bind(self, hub: Hub) -> None:
        """Called each time the hub starts, before anything is sent to it; ``hub.thread_id`` and ``hub.call_soon``
        lead to its loop. It may be called in any thread and must not wait."""

    async def live(self) -> None:
        """Runs on the hub until the hub stops."""

    def unbind(self) -> None:
        """The loop is gone: what arrives now starts the hub anew."""


class Hub:
    """A daemon thread with an asyncio loop, its residents and its tasks."""

    def __init__(self, name: str = "actguard-hub") -> None:
        self._name = name
        self._lock = SettlingLock()
        self._residents: list[Resident] = []
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._bell: Doorbell | None = None
        self.closed = False
        """True after `stop`: it does not start again."""
        _hubs.add(self)

    @property
    def running(self) -> bool:
        """True while the thread is up."""
        return self._loop is not None

    @property
    def is_here(self) -> bool:
        """True when called on the hub's own thread."""
        return self._thread is threading.current_thread()

    @property
    def thread_id(self) -> int | None:
        """The ``threading.get_ident()`` of the hub's thread."""
        return None if self._thread is None else self._thread.ident

    def add(self, resident: Resident) -> None:
        """Let ``resident`` live here from now on; starts the hub. It is bound when this returns.

        Raises:
            RuntimeError: as `start`.
        """
        with self._lock:
            self._start()
            self._residents.append(resident)
            resident.bind(self)
            self.call_soon(lambda: self._spawn(resident.live))

    def remove(self, resident: Resident) -> None:
        """Forget ``resident``; it ends its `live` by itself."""
        with self._lock, contextlib.suppress(ValueError):
            self._residents.remove(resident)

    def start(self) -> None:
        """Start the thread if it is not up; returns when it is.

        Raises:
            RuntimeError: the hub was stopped, or no thread can be started any more (interpreter exit).
        """
        if self._loop is None:
            with self._lock:
                self._start()

    def _start(self) -> None:
        """`start`, under the lock."""
        if self._loop is not None:
            return
        if self.closed:
            raise RuntimeError("this client is closed")
        # What the thread will need is imported here: a fork in the middle of an import leaves the child with half a
        # module, and a lock that nobody holds and nobody releases.
        import_module("anyio._backends._asyncio")
        ready = threading.Event()
        thread = self._thread = threading.Thread(
            target=Context().run, args=(self._run, ready), name=self._name, daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            self._thread = None
            raise
        if not ready.wait(START_TIMEOUT_S):
            raise RuntimeError("the background thread did not start")

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Run ``callback`` soon on the hub's loop, from any thread, in a context of its own: the caller's would say
        that this is the caller's run, and the caller's kind of event loop.

        Raises:
            RuntimeError: the hub is not running.
        """
        bell = self._bell
        if bell is None:
            raise RuntimeError("the hub is not running")
        bell.send(callback)

    def spawn(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Run ``work()`` as a task on the hub, which is started if need be; ``work`` handles its own errors."""
        self.start()
        self.call_soon(lambda: self._spawn(work))

    def stop(self, timeout: float) -> None:
        """End all tasks and the thread, waiting for at most ``timeout`` seconds. It does not start again."""
        with self._lock:
            self.closed = True
            thread, loop, stop = self._thread, self._loop, self._stop
        if loop is not None and stop is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(stop.set)
        if thread is not None and not self.is_here:
            thread.join(timeout)

    def _spawn(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        task = asyncio.get_running_loop().create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _run(self, ready: threading.Event) -> None:
        with asyncio.Runner() as runner:
            runner.run(self._main(ready))

    async def _main(self, ready: threading.Event) -> None:
        self._stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        # Residents are bound before anyone can see the loop: nothing is sent to one that cannot take it.
        for resident in self._residents:
            resident.bind(self)
            self._spawn(resident.live)
        self._bell = bell = Doorbell(loop, per_round=PER_ROUND)
        self._loop = loop
        ready.set()
        try:
            await self._stop.wait()
        finally:
            self._loop = self._bell = None
            for resident in self._residents:
                resident.unbind()
            # Work that was sent before becomes a task, which the runner cancels, once.
            await asyncio.sleep(0)
            bell.empty()
            await asyncio.sleep(0)

    def _forget_thread(self) -> None:
        """In a forked child: the thread and its loop exist in the parent only."""
        if self._loop is not None:
            tasks: list[Any] = list(asyncio.all_tasks(self._loop))
            for task in tasks:
                task._log_destroy_pending = False  # it goes on, in the parent
            _parents_loops.extend((self._loop, *tasks))
        self._loop = self._bell = self._thread = self._stop = None
        self._tasks = set()
        for resident in self._residents:
            resident.unbind()


def _after_fork() -> None:
    for hub in list(_hubs):
        hub._forget_thread()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
