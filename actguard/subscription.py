"""Subscriptions and handlers: where published events arrive. Each has one bounded queue that lives with its reader."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar, cast

import anyio
from anyio import to_thread
from anyio.lowlevel import checkpoint

from actguard.events import Event
from actguard.exceptions import MonitoringDegradedError, message_of
from actguard.hub import Hub
from actguard.queues import LoopQueue, ThreadQueue
from actguard.scope import Reply, call_soon_here, is_async

E = TypeVar("E", bound=Event)
_AT_ONCE = 100
"""Events that a handler takes before others get their turn on the hub, and the most that it is given together."""


class Owner(Protocol):
    """The bus, as far as subscriptions know it."""

    def _add(self, taker: Any) -> None: ...
    def _discard(self, taker: Any) -> None: ...
    def overflowed(self, label: str, size: int) -> None: ...
    def degraded(self, error: MonitoringDegradedError, cause: BaseException | None = None) -> None: ...


class _Arrivals(Generic[E]):
    """Iterates over what arrives on a loop. No async generator: one that is left half-read would need closing."""

    def __init__(self, arrived: LoopQueue) -> None:
        self._queue = arrived

    def __aiter__(self) -> _Arrivals[E]:
        return self

    async def __anext__(self) -> E:
        await checkpoint()  # others get their turn, however fast events come in
        while await self._queue.arrival():
            for event in self._queue.take(1):
                return cast(E, event)
        raise StopAsyncIteration


class Subscription(Generic[E]):
    """What `Bus.subscribe` returns: enter it, then iterate.

    Leaving it (or closing the client) ends the arrival of events; those that have arrived can still be read.
    ``dropped`` counts the events lost because the queue was full.

    Example:
        ``with client.bus.subscribe(LlmUsage) as events: agent(); usage = events.pending()``
    """

    def __init__(self, owner: Owner, kinds: tuple[type[E], ...], size: int) -> None:
        self._owner = owner
        self._queue: LoopQueue | ThreadQueue | None = None
        self.kinds = kinds
        self.size = size
        self.label = f"A subscription to {', '.join(kind.__name__ for kind in kinds)}"

    @property
    def dropped(self) -> int:
        """Events lost because this queue was full."""
        return self._queue.lost if self._queue else 0

    def offer(self, event: Event) -> None:
        """Take ``event`` if there is room."""
        if self._queue is not None:
            self._queue.put(event)

    def overflowed(self) -> None:
        self._owner.overflowed(self.label, self.size)

    def vanished(self) -> None:
        self._owner._discard(self)

    def _enter(self, waiting: LoopQueue | ThreadQueue) -> None:
        if self._queue is not None:
            raise RuntimeError("a subscription is entered once; call bus.subscribe() again for another")
        self._queue = waiting
        self._owner._add(self)

    async def __aenter__(self) -> Subscription[E]:
        self._enter(LoopQueue(self.size, call_soon_here(), threading.get_ident(), self))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __enter__(self) -> Subscription[E]:
        self._enter(ThreadQueue(self.size, self))
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

    def __aiter__(self) -> AsyncIterator[E]:
        if not isinstance(self._queue, LoopQueue):
            raise TypeError("enter this subscription with `async with` to read it with `async for`")
        return _Arrivals(self._queue)

    def __iter__(self) -> Iterator[E]:
        if not isinstance(self._queue, ThreadQueue):
            raise TypeError("enter this subscription with `with` to read it with `for`")
        return self._queue.read()


class Flush:
    """A marker in the queues of all handlers; ``reply`` comes when every one of them has come this far."""

    def __init__(self, handlers: Sequence[Handler]) -> None:
        self.reply: Reply[None] = Reply()
        self._awaited = set(handlers)
        if not handlers:
            self.reply.answer(None)
        for handler in handlers:
            handler.flush(self)

    def reached(self, handler: Handler) -> None:
        self._awaited.discard(handler)
        if not self._awaited:
            self.reply.answer(None)


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
        together: bool = False,
    ) -> None:
        self._owner = owner
        self._hub = hub
        self._function = function
        self._is_async = is_async(function)
        self._on_flush = on_flush
        self._when = when
        self._together = together
        self._queue: LoopQueue | None = None
        self._lost_before = 0
        self.kinds = kinds
        self.size = size
        self.label = f"The handler {getattr(function, '__qualname__', type(function).__name__)}"

    @property
    def dropped(self) -> int:
        """Events lost because this handler's queue was full."""
        return self._lost_before + (self._queue.lost if self._queue else 0)

    def bind(self, hub: Hub) -> None:
        self._queue = LoopQueue(self.size, hub.call_soon, hub.thread_id, self)

    def unbind(self) -> None:
        if self._queue is not None:
            self._lost_before += self._queue.lost
            self._queue = None

    def offer(self, event: Event) -> None:
        """Take ``event`` if there is room; starts the hub again after a fork."""
        if self._when is not None and not self._chooses(self._when, event):
            return
        waiting = self._queue
        if waiting is None:
            with contextlib.suppress(RuntimeError):  # closed, or too late in the life of the interpreter for a thread
                self._hub.start()
            waiting = self._queue
        if waiting is not None:
            waiting.put(event)

    def overflowed(self) -> None:
        self._owner.overflowed(self.label, self.size)

    def vanished(self) -> None:
        """The hub has stopped: it binds anew when it starts again, and never does after the client is closed."""

    def _chooses(self, when: Callable[[Any], bool], event: Event) -> bool:
        try:
            return when(event)
        except Exception as error:  # noqa: BLE001  a subscriber's error must not hurt the one who publishes
            self._report(error)
            return False

    def flush(self, marker: Flush) -> None:
        """Have ``marker.reached`` called when everything offered so far has been handled."""
        if self._queue is None or not self._hub.running or not self._queue.put_surely(marker):
            marker.reached(self)  # nothing is there to wait for

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
        queue = self._queue
        if queue is None:  # the hub was stopped before this began
            return
        while await queue.arrival():
            # Each wait is a turn of the loop, which takes longer than most functions: what is there is taken together.
            batch = queue.take(_AT_ONCE, until=Flush)
            if batch and isinstance(batch[0], Flush):
                if self._on_flush is not None:
                    await self._guarded(self._on_flush)
                batch[0].reached(self)
            else:
                await self._handle(batch)
            await asyncio.sleep(0)  # others get their turn

    async def _handle(self, batch: list[Event]) -> None:
        if self._is_async:
            for each in [batch] if self._together else batch:
                await self._guarded(self._function, each)
        else:
            # One trip to a worker thread for all that is there: the trip costs more than most functions.
            try:
                await to_thread.run_sync(self._call_each, batch, abandon_on_cancel=True)
            except RuntimeError:  # at the exit of the interpreter no thread can be started
                self._call_each(batch)

    def _call_each(self, batch: list[Event]) -> None:
        for each in [batch] if self._together else batch:
            try:
                self._function(each)
            except BaseException as error:  # noqa: BLE001  a subscriber's error, or exit, must not hurt anyone else
                self._report(error)

    async def _guarded(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        try:
            await function(*args)
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:  # noqa: BLE001  a subscriber's error, or exit, must not hurt anyone else
            self._report(error)

    def _report(self, error: BaseException) -> None:
        said = message_of(error, 200)
        self._owner.degraded(
            MonitoringDegradedError(
                subsystem="bus",
                operation=f"run t{self.label[1:]}",
                failure_kind=type(error).__name__,
                summary=f"It said: {said or 'nothing'}. Further events are still given to it, and this is said once; "
                'the traceback is in the log of "actguard", at level debug.',
            ),
            error,
        )
