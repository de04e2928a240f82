"""Cancel an async function at each of its suspensions in turn."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import anyio

MOST_SUSPENSIONS = 200


@types.coroutine
def _watched(coroutine: Coroutine[Any, Any, Any], suspending: Callable[[], None]) -> Generator[Any, Any, Any]:
    """Run ``coroutine``, calling ``suspending`` before each time it gives way."""
    value, error = None, None
    while True:
        try:
            yielded = coroutine.send(value) if error is None else coroutine.throw(error)
        except StopIteration as done:
            return done.value
        suspending()
        value, error = None, None
        try:
            value = yield yielded
        except BaseException as thrown:
            error = thrown


def _cancel_scope(work: Callable[[], Coroutine[Any, Any, Any]], watch: Any) -> Callable[[], Any]:
    async def main() -> None:
        with anyio.CancelScope() as scope:
            await _watched(work(), lambda: watch(scope.cancel))

    return main


def _task_cancel(work: Callable[[], Coroutine[Any, Any, Any]], watch: Any) -> Callable[[], Any]:
    async def main() -> None:
        async def watched() -> None:
            await _watched(work(), lambda: watch(task.cancel))

        task = asyncio.ensure_future(watched())
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    return main


WAYS: dict[str, tuple[str, Any]] = {
    "asyncio, cancel scope": ("asyncio", _cancel_scope),
    "asyncio, task.cancel()": ("asyncio", _task_cancel),
    "trio": ("trio", _cancel_scope),
}


def cancelled_everywhere(
    way: str,
    scenario: Callable[[], tuple[Callable[[], Coroutine[Any, Any, Any]], Callable[[], None]]],
    *,
    suspending: Callable[[], object] = lambda: None,
    cancelling: Callable[[], object] = lambda: None,
) -> int:
    """Run a scenario again and again, cancelled at its first suspension, its second …, until it comes to its end.

    ``scenario()`` returns the async function to run and the check to make afterwards. ``suspending()`` is called at
    each suspension and ``cancelling()`` right before the cancellation, while the event loop stands still. Returns how
    many times it was cancelled.
    """
    backend, cancels = WAYS[way]
    for at in range(1, MOST_SUSPENSIONS):
        work, check = scenario()
        count = 0

        def watch(cancel: Callable[[], object], at: int = at) -> None:
            nonlocal count
            count += 1
            suspending()
            if count == at:
                cancelling()
                cancel()

        anyio.run(cancels(work, watch), backend=backend)
        check()
        if count < at:
            return at - 1
    raise AssertionError("the scenario never came to its end")
