"""Subscriptions and handlers: where published events arrive.

Each has one bounded queue that lives where its reader lives: an anyio memory channel in the reader's event loop, or
a plain queue for a reader in a thread. Events from other threads come in through an inbox with one coalesced wake-up.
"""

from __future__ import annotations

import contextlib
import inspect
import queue
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

import anyio
from anyio import to_thread

from actguard.events import Event
from actguard.exceptions import MonitoringDegradedError
from actguard.hub import Hub
from actguard.scope import CallSoon, Reply, call_soon_here

E = TypeVar("E", bound=Event)


class Owner(Protocol):
    """The bus, as far as subscriptions know it."""

    def _add(self, taker: Any) -> None: ...
    def _discard(self, taker: Any) -> None: ...
    def degraded(self, error: MonitoringDegradedError) -> None: ...


class _LoopQueue:
    """A memory channel in one event loop, fed from any thread."""

    def __init__(self, size: int, call_soon: CallSoon, thread: int) -> None:
        self._send, self.receive = anyio.create_memory_object_stream[Any](size)
        self._call_soon = call_soon
        self._thread = thread
        self._size = size
        self._inbox: deque[Any] = deque()
        self._woken = False
        self.lost = 0

    def put(self, item: Any) -> bool:
        if threading.get_ident() == self._thread:
            return self._deliver(item)
        if len(self._inbox) >= self._size:
            self.lost += 1
            return False
        self._inbox.append(item)
        if not self._woken:
            self._woken = True
            try:
                self._call_soon(self._drain)
            except RuntimeError:
                return True  # the reader's loop is closed: it left without saying so, and nothing is lost to it
        return True

    def _drain(self) -> None:
        # Cleared before reading: an item that comes in from now on wakes anew, an earlier one is read below.
        self._woken = False
        while self._inbox:
            self._deliver(self._inbox.popleft())

    def _deliver(self, item: Any) -> bool:
        try:
            self._send.send_nowait(item)
        except anyio.WouldBlock:
            self.lost += 1
            return False
        except (anyio.ClosedResourceError, anyio.BrokenResourceError, RuntimeError):
            pass  # the reader has gone
        return True

    async def put_surely(self, item: Any) -> None:
        """Put ``item`` behind all that is there, waiting for room."""
        with contextlib.suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
            await self._send.send(item)

    def end(self) -> None:
        """No more items: what is there can still be read."""
        with contextlib.suppress(RuntimeError):
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

    def pending(self) -> list[Any]:
        self._drain()
        items = []
        with contextlib.suppress(anyio.WouldBlock, anyio.EndOfStream, anyio.ClosedResourceError):
            while True:
                items.append(self.receive.receive_nowait())
        return items


class _ThreadQueue:
    """A bounded queue for a reader that blocks its thread."""

    _END = object()

    def __init__(self, size: int) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._size = size
        self._ended = False
        self.lost = 0

    def put(self, item: Any) -> bool:
        if self._queue.qsize() >= self._size:
            self.lost += 1
            return False
        self._queue.put(item)
        return True

    def end(self) -> None:
        self._queue.put(self._END)

    def read(self) -> Iterator[Any]:
        while not self._ended:
            item = self._queue.get()
            if item is self._END:
                self._ended = True
            else:
                yield item

    def pending(self) -> list[Any]:
        items = []
        with contextlib.suppress(queue.Empty):
            while not self._ended:
                item = self._queue.get_nowait()
                if item is self._END:
                    self._ended = True
                else:
                    items.append(item)
        return items


class Subscription(Generic[E]):
    """What `Bus.subscribe` returns: enter it, then iterate.

    Leaving it (or closing the client) ends the arrival of events; those that have arrived can still be read.
    ``dropped`` counts the events lost because the queue was full.

    Example:
        ``with client.bus.subscribe(LlmUsage) as events: agent(); usage = events.pending()``
    """

    def __init__(self, owner: Owner, kinds: tuple[type[E], ...], size: int) -> None:
        self._owner = owner
        self._queue: _LoopQueue | _ThreadQueue | None = None
        self.kinds = kinds
        self.size = size
        self.label = f"A subscription to {', '.join(kind.__name__ for kind in kinds)}"

    @property
    def dropped(self) -> int:
        """Events lost because this queue was full."""
        return self._queue.lost if self._queue else 0

    def offer(self, event: Event) -> bool:
        """Take ``event`` if there is room."""
        return self._queue is None or self._queue.put(event)

    def _enter(self, waiting: _LoopQueue | _ThreadQueue) -> None:
        if self._queue is not None:
            raise RuntimeError("a subscription is entered once; call bus.subscribe() again for another")
        self._queue = waiting
        self._owner._add(self)

    async def __aenter__(self) -> Subscription[E]:
        self._enter(_LoopQueue(self.size, call_soon_here(), threading.get_ident()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __enter__(self) -> Subscription[E]:
        self._enter(_ThreadQueue(self.size))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """No more events arrive; iterating ends after those that have arrived."""
        self._owner._discard(self)
        if self._queue is not None:
            self._queue.end()

    def pending(self) -> list[E]:
        """The events that have arrived and were not read yet, without waiting. Reading them takes them."""
        return self._queue.pending() if self._queue else []

    async def __aiter__(self) -> AsyncIterator[E]:
        if not isinstance(self._queue, _LoopQueue):
            raise TypeError("enter this subscription with `async with` to read it with `async for`")
        async for event in self._queue.receive:
            yield event

    def __iter__(self) -> Iterator[E]:
        if not isinstance(self._queue, _ThreadQueue):
            raise TypeError("enter this subscription with `with` to read it with `for`")
        return self._queue.read()


class _Flush:
    """A marker in a handler's queue: answered when the handler has come this far."""

    def __init__(self) -> None:
        self.reply: Reply[None] = Reply()


class Handler:
    """A function that is called on the hub for each event, in order. ``remove()`` ends it."""

    def __init__(
        self,
        owner: Owner,
        hub: Hub,
        function: Callable[[Any], Any],
        kinds: tuple[type[Event], ...],
        size: int,
        on_flush: Callable[[], Awaitable[None]] | None,
        when: Callable[[Any], bool] | None = None,
    ) -> None:
        self._owner = owner
        self._hub = hub
        self._function = function
        self._is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004  an object with `async def __call__`
        )
        self._on_flush = on_flush
        self._when = when
        self._queue: _LoopQueue | None = None
        self._lost_before = 0
        self.kinds = kinds
        self.size = size
        self.label = f"The handler {getattr(function, '__qualname__', type(function).__name__)}"

    @property
    def dropped(self) -> int:
        """Events lost because this handler's queue was full."""
        return self._lost_before + (self._queue.lost if self._queue else 0)

    def bind(self, hub: Hub) -> None:
        self._queue = _LoopQueue(self.size, hub.call_soon, threading.get_ident())

    def unbind(self) -> None:
        if self._queue is not None:
            self._lost_before += self._queue.lost
            self._queue = None

    def offer(self, event: Event) -> bool:
        """Take ``event`` if there is room; starts the hub again after a fork."""
        if self._when is not None and not self._when(event):
            return True
        waiting = self._queue
        if waiting is None:
            if self._hub.closed:
                return True
            with contextlib.suppress(RuntimeError):  # too late in the life of the interpreter for a thread
                self._hub.start()
            waiting = self._queue
        return waiting is None or waiting.put(event)

    def flushed(self) -> Reply[None]:
        """A reply that comes when everything offered so far has been handled."""
        marker, waiting = _Flush(), self._queue
        if waiting is None:
            marker.reply.answer(None)
        else:
            try:
                self._hub.spawn(lambda: waiting.put_surely(marker))
            except RuntimeError:
                marker.reply.answer(None)
        return marker.reply

    def remove(self) -> None:
        """Take no more events; those that have arrived are still handled."""
        self._hub.remove(self)
        self.close()

    def close(self) -> None:
        self._owner._discard(self)
        if self._queue is not None:
            self._queue.end()

    async def live(self) -> None:
        """Handle what arrives, until the queue ends."""
        assert self._queue is not None
        with self._queue.receive as arrivals:
            async for item in arrivals:
                await self._take(item, arrivals)

    async def _take(self, item: Any, arrivals: Any) -> None:
        if isinstance(item, _Flush):
            if self._on_flush is not None:
                await self._guarded(self._on_flush)
            item.reply.answer(None)
        elif self._is_async:
            await self._guarded(self._function, item)
        else:
            # One trip to a worker thread for all that is there: the trip costs more than most functions.
            batch, marker = [item], None
            with contextlib.suppress(anyio.WouldBlock, anyio.EndOfStream):
                while marker is None and len(batch) < 1000:
                    following = arrivals.receive_nowait()
                    if isinstance(following, _Flush):
                        marker = following
                    else:
                        batch.append(following)
            await to_thread.run_sync(self._call_each, batch, abandon_on_cancel=True)
            if marker is not None:
                await self._take(marker, arrivals)

    def _call_each(self, batch: list[Event]) -> None:
        for event in batch:
            try:
                self._function(event)
            except Exception as error:  # noqa: BLE001  a subscriber's error must not hurt anyone else
                self._report(error)

    async def _guarded(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        try:
            await function(*args)
        except Exception as error:  # noqa: BLE001  a subscriber's error must not hurt anyone else
            self._report(error)

    def _report(self, error: Exception) -> None:
        self._owner.degraded(
            MonitoringDegradedError(
                subsystem="bus",
                operation=f"handle {self.label}",
                failure_kind=type(error).__name__,
                summary=f"{self.label} raised; further events are still given to it, and this is said once.",
            )
        )
