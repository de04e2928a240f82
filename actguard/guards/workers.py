"""Worker threads for plain functions that have a deadline.

A call takes an idle worker or starts a new one, so it never queues behind another, least of all behind a body that its
caller has given up on. Idle workers are used again, the last one first, and end after a while; all are daemon threads,
so none holds up the exit of the process. `shutdown` ends them; the next call starts new ones.

This module owns the one pool of the process. A forked child begins with an empty one.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from typing import Any

MOST_IDLE = 32
"""Workers beyond these end when they have nothing to do."""
IDLE_S = 60.0
"""Seconds after which an idle worker ends."""


class Job:
    """A function to run in a worker, and how it ended."""

    __slots__ = ("_context", "_function", "done", "error", "value", "worker")

    def __init__(self, context: Context, function: Callable[[], Any]) -> None:
        self._context = context
        self._function = function
        self.value: Any = None
        self.error: BaseException | None = None
        self.worker: _Worker | None = None
        self.done = threading.Lock()
        """Held until the function has ended."""
        self.done.acquire()

    def run(self) -> None:
        try:
            self.value = self._context.run(self._function)
        except BaseException as error:  # noqa: BLE001  raised where the caller waits
            self.error = error

    def result(self) -> Any:
        """What the function returned, or its error raised."""
        try:
            if self.error is not None:
                raise self.error
            return self.value
        finally:
            self.error = None  # its traceback refers to this frame


class _Worker(threading.Thread):
    def __init__(self, pool: Pool, job: Job) -> None:
        super().__init__(name="actguard-worker", daemon=True)
        self._pool = pool
        self._job: Job | None = job
        self._woken = threading.Lock()
        self._woken.acquire()
        self.free = threading.Event()
        """Set when it has ended, or runs nothing but what its caller has given up on."""

    def hand(self, job: Job | None) -> None:
        """Do ``job`` next; None: end. Called by whoever took this worker out of the idle ones."""
        self._job = job
        self._woken.release()

    def run(self) -> None:
        try:
            while (job := self._job) is not None:
                self._job = None
                job.run()
                # Idle before the caller goes on: its next call finds this worker.
                stays = self._pool.park(self)
                job.done.release()
                del job
                if not stays:
                    return
                if not self._woken.acquire(timeout=IDLE_S):
                    if self._pool.retire(self):
                        return
                    self._woken.acquire()  # someone has just taken it
        finally:
            self._pool.forget(self)
            self.free.set()


class Pool:
    """The workers of one time between two calls of `shutdown`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._closed = False

    def start(self, job: Job) -> bool:
        """Have ``job`` run; False when the pool is closed."""
        with self._lock:
            if self._closed:
                return False
            worker = self._idle.pop() if self._idle else None
            if worker is None:
                job.worker = _Worker(self, job)
                self._all.add(job.worker)
        if worker is not None:
            job.worker = worker
            worker.hand(job)
        else:
            assert job.worker is not None
            try:
                job.worker.start()
            except BaseException:  # no more threads, or interrupted
                self.forget(job.worker)
                raise
        return True

    def park(self, worker: _Worker) -> bool:
        """``worker`` has nothing to do; False: it shall end."""
        with self._lock:
            if self._closed or len(self._idle) >= MOST_IDLE:
                return False
            worker.free.clear()
            self._idle.append(worker)
            return True

    def retire(self, worker: _Worker) -> bool:
        """``worker`` was idle for long and may end; False: it has just been given a job."""
        with self._lock:
            if worker not in self._idle:
                return False
            self._idle.remove(worker)
            return True

    def forget(self, worker: _Worker) -> None:
        """``worker`` has ended."""
        with self._lock:
            self._all.discard(worker)

    def close(self, wait: bool) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            everyone = list(self._all)
        for worker in idle:
            worker.hand(None)
        if wait:
            for worker in everyone:
                if worker is not threading.current_thread():
                    worker.free.wait()

    def count(self) -> tuple[int, int]:
        """How many workers there are, and how many of them are idle."""
        with self._lock:
            return len(self._all), len(self._idle)


class _Process:
    pool = Pool()


def start(job: Job) -> None:
    """Have ``job`` run at once, in an idle worker or a new one.

    Raises:
        RuntimeError: the system has no thread left.
    """
    while not _Process.pool.start(job):
        pass  # shut down meanwhile: there is a new pool


def abandon(job: Job) -> None:
    """The caller waits no longer: the job runs on, and nobody waits for its worker."""
    if job.worker is not None:
        job.worker.free.set()


def shutdown(wait: bool = True) -> None:
    """End the worker threads that run plain functions under `timeout`. The next such call starts new ones.

    With ``wait``, returns when those under way have ended; bodies that were given up on are not waited for. There is no
    need to call it: the threads end by themselves, and do not hold up the exit of the process.

    Example:
        ``actguard.shutdown()``
    """
    pool, _Process.pool = _Process.pool, Pool()
    pool.close(wait)


def context_for_thread() -> Context:
    """A copy of the context here, without the note that an event loop runs: none does in the thread."""
    context = copy_context()
    sniffio: Any = sys.modules.get("sniffio")
    if sniffio is not None:
        variable: ContextVar[str | None] = sniffio.current_async_library_cvar
        if context.get(variable) is not None:
            context.run(variable.set, None)
    return context


def _after_fork() -> None:
    _Process.pool = Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
