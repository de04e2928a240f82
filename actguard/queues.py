"""Queues: bounded, fed from any thread, read where the reader lives.

A `LoopQueue` belongs to one event loop; items come in from any thread, with one coalesced wake-up. (An anyio memory
channel may be touched on its own loop only, so it would need a second queue in front of it: twice the time for each
item.) A `ThreadQueue` is for a reader that blocks its thread.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import anyio

from actguard.scope import CallSoon


class Reader(Protocol):
    """Whom a queue belongs to: told when it loses the first event, and when its loop is found closed."""

    def overflowed(self) -> None: ...
    def vanished(self) -> None: ...


def _refuse(_callback: Callable[[], object]) -> None:
    raise RuntimeError("this loop runs in the parent process")


def _nothing() -> None:
    """A callback that shows whether a loop takes any."""


_loop_queues: weakref.WeakSet[LoopQueue] = weakref.WeakSet()


class LoopQueue:
    """A queue for readers on one event loop (asyncio or trio), fed from any thread."""

    def __init__(self, size: int, call_soon: CallSoon, thread: int | None, reader: Reader) -> None:
        self._items: deque[Any] = deque()
        self._call_soon = call_soon
        self._thread = thread
        self._size = size
        self._reader = weakref.ref(reader)  # no cycle: what nobody reads any more goes at once
        self._arrived: anyio.Event | None = None
        """Set by the next item: there is one while a reader waits."""
        self._woken = False
        self._ended = False
        self.lost = 0
        _loop_queues.add(self)

    def put(self, item: Any) -> None:
        """Take ``item`` if there is room."""
        if self._ended:
            return
        if len(self._items) >= self._size:
            # Nothing is lost to a reader that has left without saying so.
            if self.lost or self._reach(_nothing):
                self._lose()
            return
        # First the item, then the look: a reader first makes its event, and then looks for items once more.
        self._items.append(item)
        if self._arrived is not None and not self._woken:
            self._wake()

    def put_surely(self, item: Any) -> bool:
        """Put ``item`` behind all that is there, room or not; False when the queue has ended."""
        if self._ended:
            return False
        self._items.append(item)
        self._wake()
        return True

    def take(self, most: int, until: type | None = None) -> list[Any]:
        """The oldest items, at most ``most``; one of the class ``until`` comes alone."""
        items: list[Any] = []
        with contextlib.suppress(IndexError):  # other readers may be quicker
            while len(items) < most:
                if items and until is not None and isinstance(self._items[0], until):
                    break
                items.append(self._items.popleft())
                if until is not None and isinstance(items[0], until):
                    break
        return items

    async def arrival(self) -> bool:
        """Wait until there is something to take; False when nothing is there and nothing will come."""
        while not self._items:
            if self._ended:
                return False
            arrived = self._arrived = self._arrived or anyio.Event()
            if not self._items and not self._ended:
                await arrived.wait()
        return True

    def end(self) -> None:
        """No more items: what is there can still be read."""
        self._ended = True
        self._wake()

    def pending(self) -> list[Any]:
        """All items that are there, without waiting."""
        return self.take(len(self._items))

    def after_fork(self) -> None:
        """In a forked child: is the reader's loop one of another thread, which exists in the parent only?"""
        if threading.get_ident() != self._thread:
            self._call_soon = _refuse
            self._vanished()

    def _wake(self) -> None:
        """Have those who wait look again."""
        if threading.get_ident() == self._thread:
            try:
                self._rouse()
            except RuntimeError:  # they wait on a loop that is closed
                self._vanished()
        elif not self._woken:
            self._woken = True
            self._reach(self._rouse)

    def _rouse(self) -> None:
        # Cleared first: an item that comes in from now on wakes anew, an earlier one is found by those who wake now.
        self._woken = False
        arrived, self._arrived = self._arrived, None
        if arrived is not None:
            arrived.set()

    def _reach(self, callback: Callable[[], object]) -> bool:
        """Have ``callback`` run on the reader's loop, if there still is one."""
        try:
            self._call_soon(callback)
        except RuntimeError:  # the loop is closed: the reader left without saying so
            self._vanished()
            return False
        return True

    def _vanished(self) -> None:
        if (reader := self._reader()) is not None:
            reader.vanished()

    def _lose(self) -> None:
        self.lost += 1
        if self.lost == 1 and (reader := self._reader()) is not None:
            reader.overflowed()


class ThreadQueue:
    """A bounded queue for a reader that blocks its thread."""

    _END = object()

    def __init__(self, size: int, reader: Reader) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._size = size
        self._reader = reader
        self.lost = 0

    def put(self, item: Any) -> None:
        if self._queue.qsize() < self._size:
            self._queue.put(item)
            return
        self.lost += 1
        if self.lost == 1:
            self._reader.overflowed()

    def end(self) -> None:
        self._queue.put(self._END)

    def read(self) -> Iterator[Any]:
        while (item := self._queue.get()) is not self._END:
            yield item
        self.end()  # for others that read, and for the next time

    def pending(self) -> list[Any]:
        items = []
        with contextlib.suppress(queue.Empty):
            while (item := self._queue.get_nowait()) is not self._END:
                items.append(item)
            self.end()
        return items


def _after_fork() -> None:
    """In a forked child: the loops that ran in other threads exist in the parent only."""
    for waiting in list(_loop_queues):
        waiting.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
