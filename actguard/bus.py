"""The bus: guards publish typed events, subscribers take them, and neither knows the other.

`Bus.publish` hands an event to every subscription that wants its type. It never waits and never raises: a full
subscription loses the newest event, and that is counted. `Bus.ask` is the second lane, for requests that want a
verdict: they are never dropped, and when nobody answers them the answer is `NOBODY`, at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any, Final, TypeVar, overload

import anyio
from anyio import to_thread

from actguard.events import Event, Request
from actguard.exceptions import ActGuardError, ActGuardUsageError, MonitoringDegradedError
from actguard.hub import Hub
from actguard.locks import SettlingLock
from actguard.monitoring import Reports
from actguard.scope import Reply, is_async
from actguard.subscription import Flush, Handler, Subscription

E = TypeVar("E", bound=Event)
E2 = TypeVar("E2", bound=Event)

Answer = Callable[[Any], Any]
Undo = Callable[[Any, Any], object]


class Nobody(Enum):
    """The type of `NOBODY`."""

    NOBODY = "nobody"

    def __bool__(self) -> bool:
        return False


NOBODY: Final = Nobody.NOBODY
"""What `Bus.ask` returns when no answerer is registered for the request."""


class Bus:
    """An in-process event bus; one per `Client`, as ``client.bus``.

    Example:
        ``async with client.bus.subscribe(ToolFailure, GuardBlocked) as events: async for event in events: …``
    """

    def __init__(self, hub: Hub, *, queue_size: int = 10_000) -> None:
        self._hub = hub
        self._queue_size = queue_size
        self._lock = SettlingLock()
        self._takers: tuple[Subscription[Any] | Handler, ...] = ()
        self.watched = False
        """True when somebody subscribes to anything at all."""
        self._routes: dict[type[Event], tuple[Subscription[Any] | Handler, ...]] = {}
        self._answerers: dict[type[Request], tuple[Answer, Undo | None]] = {}
        self._reported = Reports()
        self._dropped_by_gone = 0
        self._closed = False

    # --- publishing ---------------------------------------------------------------------------------------------

    def wants(self, kind: type[Event]) -> bool:
        """True when somebody subscribes to ``kind``: only then is the event worth building."""
        route = self._routes.get(kind)
        return bool(self._find_route(kind) if route is None else route)

    def publish(self, event: Event) -> None:
        """Hand ``event`` to everyone who wants it. Never waits, never raises."""
        kind = type(event)
        route = self._routes.get(kind)
        for taker in self._find_route(kind) if route is None else route:
            taker.offer(event)

    def _find_route(self, kind: type[Event]) -> tuple[Subscription[Any] | Handler, ...]:
        with self._lock:
            route = tuple(taker for taker in self._takers if _takes(taker.kinds, kind))
            self._routes[kind] = route
        return route

    def overflowed(self, label: str, size: int) -> None:
        """A subscriber's queue is full for the first time: warn."""
        self.degraded(
            MonitoringDegradedError(
                subsystem="bus",
                operation="publish",
                failure_kind="queue_full",
                summary=(
                    f"{label} does not keep up; its queue of {size} events is full and new ones are "
                    "dropped (counted in client.stats())."
                ),
            )
        )

    # --- taking -------------------------------------------------------------------------------------------------

    @overload
    def subscribe(self, *, queue_size: int | None = None) -> Subscription[Event]: ...
    @overload
    def subscribe(self, kind: type[E], /, *, queue_size: int | None = None) -> Subscription[E]: ...
    @overload
    def subscribe(
        self, kind: type[E], other: type[E2], /, *, queue_size: int | None = None
    ) -> Subscription[E | E2]: ...
    @overload
    def subscribe(self, *kinds: type[Event], queue_size: int | None = None) -> Subscription[Event]: ...
    def subscribe(self, *kinds: type[Event], queue_size: int | None = None) -> Subscription[Any]:
        """A subscription to the given event classes (and their subclasses); to all but requests when none is named.

        Enter it with ``async with`` on asyncio or trio and read it with ``async for``, or with ``with`` and ``for``
        in scripts and threads. It holds up to ``queue_size`` unread events, then the newest are dropped and counted.

        Raises:
            ActGuardUsageError: one of ``kinds`` is no event class, or ``queue_size`` is not positive.
        """
        return Subscription(self, _checked(kinds), _checked_size(queue_size, self._queue_size))

    def add_handler(
        self,
        function: Callable[[Any], Any],
        /,
        *kinds: type[Event],
        queue_size: int | None = None,
        on_flush: Callable[[], Awaitable[None]] | None = None,
        when: Callable[[Any], bool] | None = None,
        together: bool = False,
    ) -> Handler:
        """Call ``function(event)`` on the hub for each event of the given classes, in order; of all when none is named.

        A coroutine function is awaited on the hub's loop, any other runs in a worker thread; neither can slow the
        guarded call or another subscriber. What it raises is warned about once. ``on_flush`` is awaited on every
        ``client.flush()``. ``when(event)`` is asked at once, in the thread that publishes: only events for which it is
        true are taken; it must be quick and not raise. With ``together`` the function is called with a list of events,
        those that have arrived since the last call, at most 100. The handler that is returned has ``remove()``.

        Raises:
            ActGuardUsageError: ``function`` is not callable, or one of ``kinds`` is no event class.
        """
        _check_callable(function, "function", "add_handler")
        for optional, field in ((on_flush, "on_flush"), (when, "when")):
            if optional is not None:
                _check_callable(optional, field, "add_handler")
        size = _checked_size(queue_size, self._queue_size)
        handler = Handler(self, self._hub, function, _checked(kinds), size, on_flush, when, together)
        self._check_open()
        self._hub.add(handler)
        self._add(handler)
        return handler

    def _check_open(self) -> None:
        if self._closed:
            raise ActGuardUsageError("this client is closed: its bus takes no more subscribers", field="bus")

    def _add(self, taker: Subscription[Any] | Handler) -> None:
        with self._lock:
            self._check_open()
            self._takers = (*self._takers, taker)
            self.watched = True
            self._routes = {}

    def _discard(self, taker: Subscription[Any] | Handler) -> None:
        with self._lock:
            if taker in self._takers:
                self._takers = tuple(other for other in self._takers if other is not taker)
                self.watched = bool(self._takers)
                self._routes = {}
                self._dropped_by_gone += taker.dropped

    # --- asking -------------------------------------------------------------------------------------------------

    def add_answerer(self, function: Answer, /, *kinds: type[Request], undo: Undo | None = None) -> None:
        """Answer requests of the given classes with ``function(request)``, on the hub.

        A coroutine function is awaited, any other runs in a worker thread. What it raises is raised where the
        request was asked. ``undo(request, answer)`` is called in the same way when the one who asked is gone.

        Raises:
            ActGuardUsageError: a request class is answered by somebody already, or an argument is wrong.
        """
        _check_callable(function, "function", "add_answerer")
        if undo is not None:
            _check_callable(undo, "undo", "add_answerer")
        if not kinds:
            raise ActGuardUsageError("add_answerer: name at least one request class", field="kinds")
        with self._lock:
            for kind in _checked(kinds, Request):
                if kind in self._answerers:
                    raise ActGuardUsageError(
                        f"add_answerer: {kind.__name__} has an answerer already; remove it with "
                        "remove_answerer() first",
                        field="kinds",
                    )
            self._answerers.update(dict.fromkeys(kinds, (function, undo)))

    def remove_answerer(self, *kinds: type[Request]) -> None:
        """Undo `add_answerer` for these classes."""
        with self._lock:
            for kind in kinds:
                self._answerers.pop(kind, None)

    def answers(self, kind: type[Request]) -> bool:
        """True when somebody answers requests of this class."""
        return kind in self._answerers

    def concerns(self, kind: type[Request]) -> bool:
        """True when somebody answers or watches requests of this class: only then is one worth building."""
        return kind in self._answerers or self.wants(kind)

    async def ask(self, request: Request, timeout: float | None = None) -> Any:
        """The verdict on ``request``, or `NOBODY`, without waiting, when no one answers its class.

        Raises:
            TimeoutError: no answer within ``timeout`` seconds. What the answerer does later is undone.
            Exception: whatever the answerer raised.
        """
        if self.wants(type(request)):
            self.publish(request)
        answerer = self._answerers.get(type(request))
        if answerer is None:
            return NOBODY
        reply: Reply[Any] = Reply()
        if self._hub.is_here and reply.blocks_here():
            raise RuntimeError("a handler on the hub cannot wait for the hub with a plain `with`; use `async with`")
        try:
            try:
                self._hub.spawn(lambda: self._answer(request, reply, *answerer))
            except RuntimeError:
                return NOBODY  # the client is closed, or the interpreter ends: no answerer is left
            return await reply.wait(timeout)
        except BaseException:  # also a Ctrl-C before the waiting begins: the request is on its way by then
            reply.abandon()
            raise

    async def _answer(self, request: Request, reply: Reply[Any], function: Answer, undo: Undo | None) -> None:
        try:
            value = await _called(function, request)
        except anyio.get_cancelled_exc_class():
            reply.fail(TimeoutError("the client was closed before there was an answer"))
            raise
        except BaseException as error:  # noqa: BLE001  it is raised where the request was asked, and not here
            gone = reply.abandoned  # before the one who asked is told, and abandons the reply for having raised it
            reply.fail(error)
            if gone and isinstance(error, ActGuardError):
                self.unheard(request.name.removesuffix("_requested"), error)
        else:
            reply.answer(value, None if undo is None else lambda: self._undo_soon(undo, request, value))

    def _undo_soon(self, undo: Undo, request: Request, value: Any) -> None:
        """``undo`` on the hub, from whichever thread finds out that nobody waits."""

        async def work() -> None:
            try:
                await _called(undo, request, value)
            except Exception as error:  # noqa: BLE001  nobody is there to be told
                kind, operation = type(error).__name__, f"undo {request.kind}"
                self.degraded(MonitoringDegradedError(subsystem="bus", operation=operation, failure_kind=kind), error)

        with contextlib.suppress(RuntimeError):  # the client is closed: what answered is gone, too
            self._hub.spawn(work)

    # --- the rest -----------------------------------------------------------------------------------------------

    def degraded(self, error: MonitoringDegradedError, cause: BaseException | None = None) -> None:
        """Warn about ``error``, once per (operation, failure kind, status code) of this client. Never raises."""
        kind = (error.operation, error.failure_kind, error.status_code)
        self._reported.warn(error, kind=kind, cause=cause, stacklevel=2)

    def unheard(self, operation: str, error: ActGuardError) -> None:
        """A verdict came when the one who asked was gone, or had an error of its own to raise: warn instead."""
        self.degraded(
            MonitoringDegradedError(
                subsystem="budget",
                operation=operation,
                failure_kind=error.reason,
                path=getattr(error, "path", None),
                status_code=getattr(error, "status", None) or getattr(error, "status_code", None),
                summary=str(error),
            )
        )

    async def aflush(self, timeout: float | None = None) -> bool:
        """Wait until every handler has handled what was published so far; False when ``timeout`` seconds passed."""
        flush = Flush([taker for taker in self._takers if isinstance(taker, Handler)])
        if self._hub.is_here and flush.reply.blocks_here():
            raise RuntimeError("a handler on the hub cannot block it with flush(); use `await client.aflush()`")
        try:
            await flush.reply.wait(timeout)
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """End every subscription: what has arrived can still be read, then the iteration ends."""
        with self._lock:
            self._closed = True
            takers = self._takers
        for taker in takers:
            taker.close()

    def dropped(self) -> int:
        """How many events were lost because a subscriber did not keep up."""
        return self._dropped_by_gone + sum(taker.dropped for taker in self._takers)

    def counts(self) -> tuple[int, int]:
        """How many subscriptions and how many handlers there are."""
        handlers = sum(isinstance(taker, Handler) for taker in self._takers)
        return len(self._takers) - handlers, handlers


def _takes(wanted: tuple[type[Event], ...], kind: type[Event]) -> bool:
    """Requests carry what is meant for the one who decides: they go only to those who name a request class."""
    if issubclass(kind, Request):
        wanted = tuple(each for each in wanted if issubclass(each, Request))
    return issubclass(kind, wanted)


async def _called(function: Callable[..., Any], *args: Any) -> Any:
    """What ``function`` returns: a coroutine function is awaited, any other runs in a worker thread."""
    if is_async(function):
        return await function(*args)
    return await to_thread.run_sync(function, *args, abandon_on_cancel=True)


def _check_callable(value: Any, field: str, what: str) -> None:
    if not callable(value):
        raise ActGuardUsageError(f"{what}: {field} must be callable, not {type(value).__name__}", field=field)


def _checked(kinds: tuple[Any, ...], base: type[Event] = Event) -> tuple[type[Any], ...]:
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, base)):
            article = "a" if base is Request else "an"
            raise ActGuardUsageError(
                f"{kind!r} is not {article} {base.__name__} class of actguard.events", field="kinds"
            )
    return kinds or (base,)


def _checked_size(size: Any, default: int) -> int:
    if size is None:
        return default
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ActGuardUsageError("queue_size must be a positive whole number of events", field="queue_size")
    return size
