"""Events collected for a test."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar, overload

from actguard.client import Client
from actguard.events import Event
from actguard.scope import Scope
from actguard.subscription import Subscription

E = TypeVar("E", bound=Event)
F = TypeVar("F", bound=Event)

ROOM = 1_000_000
"""More events than a test publishes."""


class CapturedEvents(Scope["CapturedEvents[E]"], Generic[E]):
    """What `capture_events` returns and what entering it yields: the events so far, oldest first. It can be iterated,
    indexed and measured, also after it was left.
    """

    def __init__(self, subscription: Subscription[E]) -> None:
        self._subscription = subscription
        self._events: list[E] = []

    async def __aenter__(self) -> CapturedEvents[E]:
        self._subscription.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._subscription.close()

    def _all(self) -> list[E]:
        self._events += self._subscription.pending()
        return self._events

    def __len__(self) -> int:
        return len(self._all())

    def __iter__(self) -> Iterator[E]:
        return iter(list(self._all()))

    def __getitem__(self, index: int) -> E:
        return self._all()[index]

    def __repr__(self) -> str:
        return f"<CapturedEvents {', '.join(self.kinds) or 'none'}>"

    @property
    def kinds(self) -> list[str]:
        """What they are, as ``category.name``: ``["run.start", "llm.usage", "run.end"]``."""
        return [event.kind for event in self._all()]

    def of(self, kind: type[F]) -> list[F]:
        """Those that are a ``kind``."""
        return [event for event in self._all() if isinstance(event, kind)]

    def clear(self) -> None:
        """Forget those so far."""
        self._all().clear()


@overload
def capture_events(client: Client, /) -> CapturedEvents[Event]: ...
@overload
def capture_events(client: Client, kind: type[E], /) -> CapturedEvents[E]: ...
@overload
def capture_events(client: Client, /, *kinds: type[Event]) -> CapturedEvents[Event]: ...
def capture_events(client: Client, /, *kinds: type[Event]) -> CapturedEvents[Any]:
    """Collects the events that ``client`` publishes while it is entered, of the given classes (of all when none is
    named). Works with ``with`` and ``async with``; events are there as soon as they are published, without waiting.

    Raises:
        ActGuardUsageError: one of ``kinds`` is no event class, or (on entry) the client is closed.

    Example::

        with capture_events(client) as events:
            run_my_agent(client)
        assert events.kinds == ["run.start", "llm.usage", "run.end"]
        assert events.of(LlmUsage)[0].usd == Decimal("0.0005")
    """
    return CapturedEvents(client.bus.subscribe(*kinds, queue_size=ROOM))
