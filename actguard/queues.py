"""Queues: bounded, fed from any thread, read where the reader lives.

A `LoopQueue` is an anyio memory channel in one event loop; what other threads send comes in through an inbox with one
coalesced wake-up. A `ThreadQueue` is for a reader that blocks its thread.
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
    """A memory channel in one event loop, fed from any thread."""

    def __init__(self, size: int, call_soon: CallSoon, thread: int | None, reader: Reader) -> None:
        self._send, self.receive = anyio.create_memory_object_stream[Any](size)
        self._call_soon = call_soon
        self._thread = thread
        self._size = size
        self._reader = weakref.ref(reader)  # no cycle: `__del__` has to come before that of the two channel ends
        self._inbox: deque[Any] = deque()
        self._woken = False
        self.lost = 0
        _loop_queues.add(self)

    def put(self, item: Any) -> None:
        if threading.get_ident() == self._thread:
            self._deliver(item)
        elif len(self._inbox) >= self._size:
            self._lose()
        else:
            self._inbox.append(item)
            if not self._woken:
                self._woken = True
                self._reach(self._drain)

    def _reach(self, callback: Callable[[], object]) -> bool:
        """Have ``callback`` run on the reader's loop, if there still is one."""
        try:
            self._call_soon(callback)
        except RuntimeError:  # the loop is closed: the reader left without saying so, and nothing is lost to it
            self._vanished()
            return False
        return True

    def _drain(self) -> None:
        # Cleared before reading: an item that comes in from now on wakes anew, an earlier one is read below.
        self._woken = False
        while self._inbox:
            self._deliver(self._inbox.popleft())

    def _deliver(self, item: Any) -> None:
        try:
            self._send.send_nowait(item)
        except anyio.WouldBlock:
            if self.lost or self._reach(_nothing):
                self._lose()
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            pass  # the reader has gone
        except RuntimeError:  # the reader waits on a loop that is closed
            self._vanished()

    def _vanished(self) -> None:
        if (reader := self._reader()) is not None:
            reader.vanished()

    def _lose(self) -> None:
        self.lost += 1
        if self.lost == 1 and (reader := self._reader()) is not None:
            reader.overflowed()

    async def put_surely(self, item: Any) -> bool:
        """Put ``item`` behind all that is there, waiting for room; False when the reader has gone."""
        try:
            await self._send.send(item)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            return False
        return True

    def end(self) -> None:
        """No more items: what is there can still be read."""
        with contextlib.suppress(RuntimeError):  # nobody can read any more
            if threading.get_ident() == self._thread:
                self._finish()
            else:
                self._call_soon(self._finish)

    def _finish(self) -> None:
        self._drain()
        self._send.close()

    def __del__(self) -> None:
        # What has arrived can be read after the end, so the reading side is closed when nobody has it any more.
        self._send.close()
        self.receive.close()

    def after_fork(self) -> None:
        """In a forked child: is the reader's loop one of another thread, which exists in the parent only?"""
        if threading.get_ident() != self._thread:
            self._call_soon = _refuse
            self._vanished()

    def pending(self) -> list[Any]:
        """All items that are there, without waiting. On the reader's own loop only."""
        self._drain()
        items = []
        with contextlib.suppress(anyio.WouldBlock, anyio.EndOfStream, anyio.ClosedResourceError):
            while True:
                items.append(self.receive.receive_nowait())
        return items


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
