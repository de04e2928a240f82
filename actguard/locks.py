"""A lock that finalizers can live with.

A stream that is dropped settles from ``__del__``, which the garbage collector may run anywhere, also in a thread
that holds one of our locks at that moment. So finalizers do their work through `when_safe`: at once when this thread
holds no `SettlingLock`, else as soon as it has let go of the last one.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from types import TracebackType


class _Here(threading.local):
    held = 0

    def __init__(self) -> None:
        self.deferred: list[Callable[[], object]] = []


_here = _Here()
_locks: weakref.WeakSet[SettlingLock] = weakref.WeakSet()


class SettlingLock:
    """A mutual exclusion lock, not re-entrant, for short sections that never suspend."""

    __slots__ = ("__weakref__", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _locks.add(self)

    def __enter__(self) -> None:
        _here.held += 1
        try:
            self._lock.acquire()
        except BaseException:  # Ctrl-C while waiting
            _here.held -= 1
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
        _here.held -= 1
        if _here.deferred and not _here.held:
            _run_deferred()


def when_safe(work: Callable[[], object]) -> None:
    """Run ``work`` now, or right after this thread has released the last `SettlingLock` that it holds."""
    if _here.held:
        _here.deferred.append(work)
    else:
        work()


class _Finalizing:
    """Does its work as a finalizer does: what it raises is reported and does not reach the code that runs here."""

    __slots__ = ("_work",)

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work

    def __del__(self) -> None:
        self._work()


def _run_deferred() -> None:
    while _here.deferred:
        _Finalizing(_here.deferred.pop(0))


def _after_fork() -> None:
    """In a forked child: the threads that held locks do not exist here, and would never release them."""
    for lock in list(_locks):
        lock._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
