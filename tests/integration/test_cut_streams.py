"""A stream that would cost ten times the limit: closed at the provider, charged for what was generated until then."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from decimal import Decimal

import pytest
import trio
from either import MODES
from spenders import SPENDERS, Spender
from spending import spending

from actguard import carry
from actguard.exceptions import BudgetExceededError
from actguard.guards.budget import BudgetGuard
from actguard.money.usage import Usage
from actguard.testing import Answer, LoopbackProvider

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
STREAMS = {name: spender for name, spender in SPENDERS.items() if spender.streams}
ON_TRIO = {name: spender for name, spender in STREAMS.items() if not name.startswith("content")}
AFFORDED = 500
"""Output tokens that the limit pays for."""
LONG = Answer(generate=10 * AFFORDED, chunk_delay=0.02)
"""Its pieces are further apart than a busy machine takes to read one."""


@pytest.fixture
def provider() -> Iterator[LoopbackProvider]:
    with LoopbackProvider(default=LONG) as provider:
        yield provider


def worth(budget: BudgetGuard, input_tokens: int, output_tokens: int) -> Decimal:
    """What the tokens cost at the price of the model that the scope has called."""
    [row] = budget.breakdown()
    usage = Usage(uncached_input_tokens=input_tokens, output_tokens=output_tokens)
    price: Decimal | None = budget.prices.price(row.provider, row.model, usage)
    assert price
    return price


def limit_for(spender: Spender) -> Decimal:
    """The price of `AFFORDED` tokens, by model, and of a little input."""
    per_million = {"openai_client": "0.6", "anthropic_client": "5", "google_client": "2.5"}
    return Decimal(per_million[spender.client.__name__]) * (AFFORDED + 10) / 10**6


async def until_cut(spender: Spender, provider: LoopbackProvider, kind: str) -> BudgetGuard:
    """Reads a stream until the budget cuts it, and waits until the provider has noticed."""
    budget: BudgetGuard
    with spending(usd_limit=limit_for(spender)) as budget:
        with pytest.raises(BudgetExceededError) as cut:
            await spender.call(spender.client(provider, kind))
        await provider.wait_for(lambda: provider.requests[0].done)
        assert cut.value.partial
        assert budget.account.held.usd == budget.account.running.usd == 0
    return budget


def assert_cut_in_time(provider: LoopbackProvider, budget: BudgetGuard) -> None:
    [request] = provider.requests
    assert request.disconnected
    assert not request.completed
    generated = worth(budget, request.input_tokens, request.output_tokens)
    assert abs(budget.usd_used_exact - generated) <= generated / 50
    assert budget.usd_limit is not None
    assert Decimal(str(budget.usd_limit)) <= generated <= 2 * Decimal(str(budget.usd_limit))
    assert budget.calls == 1
    assert budget.estimated_usd > 0


@pytest.mark.parametrize("kind", MODES)
@pytest.mark.parametrize("spender", STREAMS.values(), ids=STREAMS)
async def test_it_is_closed_at_the_provider_and_charged_for_what_was_generated(
    provider: LoopbackProvider, spender: Spender, kind: str
) -> None:
    assert_cut_in_time(provider, await until_cut(spender, provider, kind))


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")  # the SDK's own, under trio
@pytest.mark.parametrize("spender", ON_TRIO.values(), ids=ON_TRIO)
def test_on_trio(provider: LoopbackProvider, spender: Spender) -> None:
    assert_cut_in_time(provider, trio.run(until_cut, spender, provider, "async"))


@pytest.mark.parametrize("spender", STREAMS.values(), ids=STREAMS)
def test_in_a_thread(provider: LoopbackProvider, spender: Spender) -> None:
    with spending(usd_limit=limit_for(spender)) as budget:
        refused: list[BudgetExceededError] = []

        def work() -> None:
            try:
                asyncio.run(spender.call(spender.client(provider, "sync")))
            except BudgetExceededError as error:
                refused.append(error)

        thread = threading.Thread(target=carry(work))
        thread.start()
        thread.join(30)
        provider.wait_for_sync(lambda: provider.requests[0].done)
        assert refused
    assert_cut_in_time(provider, budget)


async def test_streams_under_way_together_are_cut_together(provider: LoopbackProvider) -> None:
    """None of them costs much by itself: what they have used together decides."""
    spender = STREAMS["chat stream"]
    client = spender.client(provider, "async")
    with spending(usd_limit=4 * limit_for(spender)) as budget:
        results = await asyncio.gather(
            *(spender.call(client, max_tokens=900) for _ in range(4)), return_exceptions=True
        )
        await provider.wait_for(lambda: all(request.done for request in provider.requests))
        assert any(isinstance(result, BudgetExceededError) for result in results)
        assert budget.usd_used_exact <= 2 * 4 * limit_for(spender)
