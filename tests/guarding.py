"""What tests of guards need: a clock to move by hand, fresh names, functions of every kind, and what was published."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from actguard import clock
from actguard.client import Client
from actguard.events import Event

_numbers = itertools.count()


def fresh(what: str = "name") -> str:
    """A name that no other test has: breakers and facts live as long as the process."""
    return f"{what}-{next(_numbers)}"


class HandClock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def advance(self, seconds: float) -> None:
        self.now += seconds


@contextmanager
def hand_clock() -> Iterator[HandClock]:
    """Rules and guards ask a `HandClock`."""
    hand = HandClock()
    with clock.use(lambda: hand.now, lambda: 1_700_000_000.0 + hand.now):
        yield hand


KINDS = ("function", "coroutine", "generator", "async generator")
PLAIN_KINDS = ("function", "coroutine")


def of_kind(kind: str, body: Callable[..., Any]) -> Callable[..., Any]:
    """A function of this kind that does what ``body`` does; a generator yields the result."""

    def function(*args: Any, **kwargs: Any) -> Any:
        return body(*args, **kwargs)

    async def coroutine(*args: Any, **kwargs: Any) -> Any:
        return body(*args, **kwargs)

    def generator(*args: Any, **kwargs: Any) -> Iterator[Any]:
        yield body(*args, **kwargs)

    async def async_generator(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        yield body(*args, **kwargs)

    made = {"function": function, "coroutine": coroutine, "generator": generator, "async generator": async_generator}
    chosen: Any = made[kind]
    chosen.__qualname__ = chosen.__name__ = fresh("tool").replace("-", "_")
    return chosen


async def outcome(made: Any) -> Any:
    """What a call of any kind ends with: generators are read to their end and give their last item."""
    if hasattr(made, "__aiter__"):
        return [item async for item in made][-1]
    if hasattr(made, "__await__"):
        return await made
    return list(made)[-1] if hasattr(made, "__next__") else made


@contextmanager
def published(client: Client, *kinds: type[Event]) -> Iterator[list[Any]]:
    """The events of these classes that are published inside, filled in when the block is left."""
    events: list[Any] = []
    with client.bus.subscribe(*kinds) as subscription:
        try:
            yield events
        finally:
            events.extend(subscription.pending())


@asynccontextmanager
async def running(work: Callable[[], Any]) -> AsyncIterator[asyncio.Task[Any]]:
    """``work()`` as a task of asyncio that is over when the block is left."""
    task = asyncio.ensure_future(work())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
