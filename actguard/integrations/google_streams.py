"""Streams of the Google SDK belong to the scope they are made in, and are over when they are left.

The SDK's streams are lazy: the request is sent by the first ``next()``, which may come after the scope. So the methods
that return a stream note their scope, and each step of the stream runs in it. Asynchronous streams are generators
inside generators, and closing the outermost leaves the inner ones to the event loop, some turns later: here the stream
that reads from the provider is closed along with it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from contextvars import ContextVar
from typing import Any

from anyio import get_current_task

from actguard.context import Process, active_budget, current_budget
from actguard.integrations.metering import Switch
from actguard.integrations.streams import MeteredAsyncIterator


class _Reading:
    """An asynchronous stream that is being read: which one, below the generators, reads from the provider."""

    __slots__ = ("_task", "source")

    def __init__(self) -> None:
        self._task: int | None = None
        self.source: MeteredAsyncIterator | None = None

    @classmethod
    def here(cls) -> _Reading:
        """The one whose step this is, so that the stream below a chat's is closed with the chat's; else a new one.

        Tasks that were started in the step have its context, too, and read streams of their own.
        """
        reading = _reading.get()
        return reading if reading is not None and reading._task == get_current_task().id else cls()

    def step(self) -> None:
        """The task that is running is about to read."""
        self._task = get_current_task().id

    async def end(self) -> None:
        """Close what is still read from the provider, and charge it."""
        source, self.source = self.source, None
        if source is not None and not source.over:
            await source.aclose()


_reading: ContextVar[_Reading | None] = ContextVar("actguard_google_reading", default=None)


def reads_from(source: MeteredAsyncIterator) -> None:
    """Tell the stream that is being read here, if there is one, that ``source`` is what it reads from now."""
    reading = _reading.get()
    if reading is not None:
        reading.source = source


def sync_stream(original: Callable[..., Any], switch: Switch) -> Callable[..., Any]:
    """Wrap a method that returns a generator. Nothing is looked up where no scope is open."""

    @functools.wraps(original)
    def stream(owner: Any, *args: Any, **kwargs: Any) -> Any:
        made = original(owner, *args, **kwargs)
        if not Process.open_roots or not switch.applied or (budget := active_budget()) is None:
            return made
        return _in_scope(made, budget)

    return stream


def async_stream(original: Callable[..., Awaitable[Any]], switch: Switch) -> Callable[..., Awaitable[Any]]:
    """`sync_stream` for a coroutine function that returns an async generator."""

    @functools.wraps(original)
    async def stream(owner: Any, *args: Any, **kwargs: Any) -> Any:
        if not Process.open_roots or not switch.applied or (budget := active_budget()) is None:
            return await original(owner, *args, **kwargs)
        reading = _Reading.here()
        with _step(budget, reading):
            made = await original(owner, *args, **kwargs)
        return _in_scope_async(made, budget, reading)

    return stream


@contextlib.contextmanager
def _step(budget: Any, reading: _Reading | None = None) -> Iterator[None]:
    if reading is not None:
        reading.step()
    scope, stream = current_budget.set(budget), _reading.set(reading)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # a step that was dropped is closed in another context
            current_budget.reset(scope)
            _reading.reset(stream)


def _scope_of(budget: Any) -> Any:
    """The scope of a stream that is read for the first time, and so sent now: the one that it was made in.

    Once that is settled with a gateway, the settlement cannot have it any more: then it is the scope that is active
    here. Where there is none, it stays with its own, which tells that it was spent too late.
    """
    settled = budget.tree.closed and budget.tree.reserve_id is not None
    return (active_budget() or budget) if settled else budget


def _in_scope(made: Generator[Any, None, None], budget: Any) -> Generator[Any, None, None]:
    budget = _scope_of(budget)
    with contextlib.closing(made):
        while True:
            with _step(budget):
                try:
                    item = next(made)
                except StopIteration:
                    return
            yield item


async def _in_scope_async(made: AsyncGenerator[Any, None], budget: Any, reading: _Reading) -> AsyncGenerator[Any, None]:
    budget = _scope_of(budget)
    try:
        while True:
            with _step(budget, reading):
                try:
                    item = await anext(made)
                except StopAsyncIteration:
                    return
            yield item
    finally:
        try:
            await made.aclose()
        finally:
            await reading.end()
