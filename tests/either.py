"""One test for two clients: what a synchronous and an asynchronous SDK client do, written once.

Synchronous calls block the test's event loop, which is fine: the loopback provider serves from a thread of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

MODES = ("sync", "async")


async def done(value: Any) -> Any:
    """The result of a call, awaited where it is awaitable."""
    return await value if inspect.isawaitable(value) else value


async def items(stream: Any) -> list[Any]:
    """Everything a stream has, read to its end."""
    return [item async for item in stream] if hasattr(stream, "__aiter__") else list(stream)


async def first(stream: Any) -> Any:
    """The next item of a stream."""
    return await anext(stream) if hasattr(stream, "__anext__") else next(stream)


@asynccontextmanager
async def within(manager: Any) -> AsyncIterator[Any]:
    """Enter a context manager of either kind."""
    if hasattr(manager, "__aenter__"):
        async with manager as value:
            yield value
    else:
        with manager as value:
            yield value
