"""A loopback provider for each test; its clients are closed with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from actguard.testing import LoopbackProvider


@pytest.fixture
def provider() -> Iterator[LoopbackProvider]:
    with LoopbackProvider() as provider:
        yield provider


@pytest.fixture
async def aprovider() -> AsyncIterator[LoopbackProvider]:
    """The same for asynchronous clients, which are closed on the test's own loop."""
    async with LoopbackProvider() as provider:
        yield provider
