"""What many tests need: both event loops, and a client whose prices are known without any price list."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import settings

from actguard.client import Client
from actguard.money.own_prices import Price
from actguard.testing import LoopbackProvider

# The gate tries the same cases each time, so that it fails for what changed; `make fuzz` looks for new ones.
settings.register_profile("gate", derandomize=True)
settings.register_profile("fuzz", print_blob=True)
settings.load_profile("gate")

WATCHDOG_S = 30
"""No test takes this long; one that waits for something that never comes ends here."""

Runner = Callable[[Callable[[], Awaitable[Any]]], Any]


@pytest.fixture(scope="session", autouse=True)
def one_authority() -> Iterator[None]:
    """One certificate authority instead of all: nothing leaves this machine, and each SDK client loads them anew.

    That takes 25 ms for OpenAI and Anthropic and three times as long for Google. Processes that tests start inherit it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(Path(__file__).with_name("authority.pem")))
        patch.delenv("SSL_CERT_DIR", raising=False)
        yield


def until(state: Callable[[], object]) -> None:
    """Wait, in a thread, for a state that another thread brings about."""
    deadline = time.monotonic() + WATCHDOG_S
    while not state():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.001)


@pytest.fixture(params=["asyncio", "trio"])
def on_loop(request: pytest.FixtureRequest) -> Runner:
    """Runs an async function to its end, on asyncio and on trio."""

    def run(function: Callable[[], Awaitable[Any]]) -> Any:
        async def watched() -> Any:
            with anyio.fail_after(WATCHDOG_S):
                return await function()

        return anyio.run(watched, backend=request.param)

    return run


@pytest.fixture
def client() -> Iterator[Client]:
    """A local client: an input token costs a millionth of a dollar, an output token ten, at any model."""
    with Client(prices={"*": Price(input_per_mtok=1, output_per_mtok=10)}) as client:
        yield client


@pytest.fixture
async def provider() -> AsyncIterator[LoopbackProvider]:
    """A local provider for the clients of this test's own loop, which are closed with it."""
    async with LoopbackProvider() as provider:
        yield provider
