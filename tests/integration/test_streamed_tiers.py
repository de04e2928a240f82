"""A running stream is priced by the service tier that serves it: at half the price it may go on for twice as long."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Any

import pytest
from either import MODES, done, first, items
from spending import spending

from actguard.exceptions import BudgetExceededError
from actguard.testing import Answer, LoopbackProvider

MODEL = "gpt-5-mini"
PER_TOKEN = {"default": Decimal("0.000002"), "flex": Decimal("0.000001"), "priority": Decimal("0.0000036")}
OUTPUT = 1_000
APIS = ("chat", "responses")


@pytest.fixture
def provider() -> Iterator[LoopbackProvider]:
    with LoopbackProvider(default=Answer(generate=OUTPUT)) as provider:
        yield provider


@pytest.fixture(params=MODES)
async def client(request: pytest.FixtureRequest, provider: LoopbackProvider) -> AsyncIterator[Any]:
    client: Any = provider.openai() if request.param == "sync" else provider.async_openai()
    yield client
    await done(client.close())


async def stream(client: Any, api: str, tier: str) -> Any:
    shared = {"model": MODEL, "stream": True, "service_tier": tier}
    if api == "chat":
        return await done(client.chat.completions.create(messages=[{"role": "user", "content": "Hi"}], **shared))
    return await done(client.responses.create(input="Hi", **shared))


@pytest.mark.parametrize("api", APIS)
async def test_a_cheap_stream_that_fits_is_not_cut(client: Any, api: str) -> None:
    """At the standard price, it would cost more than the limit."""
    limit = PER_TOKEN["flex"] * OUTPUT * Decimal("1.2")
    with spending(usd_limit=limit) as budget:
        await items(await stream(client, api, "flex"))
        assert limit / Decimal("1.25") <= budget.usd_used_exact < limit
        assert budget.estimated_usd == 0


@pytest.mark.parametrize("api", APIS)
async def test_one_that_does_not_fit_is_cut(provider: LoopbackProvider, client: Any, api: str) -> None:
    provider.script(Answer(generate=10 * OUTPUT, chunk_delay=0.01))
    limit = PER_TOKEN["flex"] * 100
    with spending(usd_limit=limit) as budget:
        with pytest.raises(BudgetExceededError):
            await items(await stream(client, api, "flex"))
        await provider.wait_for(lambda: provider.requests[0].done)
        assert limit <= budget.usd_used_exact <= 2 * limit
        assert limit <= provider.requests[0].output_tokens * PER_TOKEN["flex"] <= 2 * limit


@pytest.mark.parametrize("tier", PER_TOKEN)
@pytest.mark.parametrize("api", APIS)
async def test_a_stream_that_is_left_is_charged_at_its_tier(
    provider: LoopbackProvider, client: Any, api: str, tier: str
) -> None:
    provider.script(Answer(text="word " * OUTPUT, chunks=4))
    with spending() as budget:
        reading = await stream(client, api, tier)
        while not (await first(reading)).model_dump_json().count("word "):
            pass
        await done(reading.close())
        [row] = budget.breakdown()
        input_usd = row.input_tokens * PER_TOKEN[tier] / 8  # of this model, input costs an eighth of output
        assert row.estimated
        assert budget.usd_used_exact == row.output_tokens * PER_TOKEN[tier] + input_usd


@pytest.mark.parametrize("api", APIS)
async def test_a_tier_that_was_not_served_is_not_paid_for(provider: LoopbackProvider, client: Any, api: str) -> None:
    """Priority that the provider has no room for is served, and billed, as usual: only the answer says so."""
    provider.script(Answer(generate=OUTPUT, service_tier="default"))
    limit = PER_TOKEN["default"] * OUTPUT * Decimal("1.2")
    with spending(usd_limit=limit) as budget:
        await items(await stream(client, api, "priority"))
        assert limit / Decimal("1.25") <= budget.usd_used_exact < limit
