"""Anthropic's models on Bedrock, Vertex and Foundry: same hook, other price lists."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from either import MODES, done, first, items, within
from genai_prices import Usage as PricedUsage
from genai_prices import calc_price
from spending import spending, spent

from actguard.exceptions import BudgetExceededError
from actguard.testing import Answer, Gate, LoopbackProvider

ASK: Any = {"max_tokens": 200, "messages": [{"role": "user", "content": "Hello there"}]}
REGIONAL = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
GLOBAL = "global.anthropic.claude-sonnet-4-5-20250929-v1:0"
OWN_PROFILE = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123"
ANSWER = Answer(text="Hi", input_tokens=1000, output_tokens=100)


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def bedrock(provider: LoopbackProvider, mode: str) -> Any:
    return provider.bedrock() if mode == "sync" else provider.async_bedrock()


def vertex(provider: LoopbackProvider, mode: str) -> Any:
    return provider.vertex_anthropic() if mode == "sync" else provider.async_vertex_anthropic()


def price_of(provider_id: str, model: str) -> Any:
    usage = PricedUsage(input_tokens=1000, output_tokens=100)
    return calc_price(usage, model, provider_id=provider_id).total_price


@pytest.mark.parametrize("model", [REGIONAL, GLOBAL])
async def test_bedrock_is_priced_by_the_region_that_only_the_request_names(
    provider: LoopbackProvider, mode: str, model: str
) -> None:
    provider.script(ANSWER, ANSWER, ANSWER)
    client = bedrock(provider, mode)
    with spending() as budget:
        await done(client.messages.create(model=model, **ASK))
        await items(await done(client.messages.create(model=model, **ASK, stream=True)))
        response = await done(client.messages.with_raw_response.create(model=model, **ASK, stream=True))
        await items(await done(response.parse()))
        assert spent(budget) == (3, 3000, 0, 0, 300)
        assert budget.usd_used_exact == 3 * price_of("aws", model)
        assert budget.estimated_usd == 0
    assert {row.provider for row in budget.breakdown()} == {"aws"}


def test_the_two_bedrock_prices_differ() -> None:
    assert price_of("aws", REGIONAL) > price_of("aws", GLOBAL)


async def test_a_profile_of_ones_own_is_priced_by_the_model_that_answers(provider: LoopbackProvider, mode: str) -> None:
    provider.script(Answer(text="Hi", input_tokens=1000, output_tokens=100, model="claude-sonnet-4-5-20250929"))
    with spending() as budget:
        await done(bedrock(provider, mode).messages.create(model=OWN_PROFILE, **ASK))
        assert budget.usd_used_exact == price_of("aws", "claude-sonnet-4-5-20250929")


async def test_a_bedrock_stream_that_is_closed_early_is_estimated(provider: LoopbackProvider, mode: str) -> None:
    gate = Gate()
    provider.script(Answer(generate=4, chunks=4, input_tokens=50, gate=gate, gate_after=2))
    with spending() as budget:
        response = await done(
            bedrock(provider, mode).messages.with_raw_response.create(model=REGIONAL, **ASK, stream=True)
        )
        stream = await done(response.parse())
        while (await first(stream)).type != "content_block_delta":
            pass
        await done(stream.close())
        assert spent(budget)[:2] == (1, 50)
        assert budget.estimated_usd == budget.usd_used > 0


async def test_a_bedrock_stream_is_stopped_at_the_limit(provider: LoopbackProvider, mode: str) -> None:
    provider.script(Answer(generate=400, chunks=40, input_tokens=50))
    with spending(token_limit=100), pytest.raises(BudgetExceededError) as reached:
        await items(await done(bedrock(provider, mode).messages.create(model=REGIONAL, **ASK, stream=True)))
    assert reached.value.partial


async def test_vertex_has_googles_prices(provider: LoopbackProvider, mode: str) -> None:
    provider.script(ANSWER, ANSWER)
    client = vertex(provider, mode)
    with spending() as budget:
        await done(client.messages.create(model="claude-sonnet-4-5@20250929", **ASK))
        async with within(client.messages.stream(model="claude-sonnet-4-5@20250929", **ASK)) as stream:
            await done(stream.get_final_message())
        assert budget.usd_used_exact == 2 * price_of("google", "claude-sonnet-4-5")
    assert {row.provider for row in budget.breakdown()} == {"google"}


async def test_foundry_has_azures_prices(provider: LoopbackProvider) -> None:
    provider.script(ANSWER)
    with (
        anthropic.AnthropicFoundry(api_key="k", base_url=provider.anthropic_url, max_retries=0) as client,
        spending() as budget,
    ):
        client.messages.create(model="claude-sonnet-4-6", **ASK)
        assert [row.provider for row in budget.breakdown()] == ["azure"]
        assert budget.usd_used_exact == price_of("azure", "claude-sonnet-4-6")


async def test_vertex_counts_tokens_for_free(provider: LoopbackProvider, mode: str) -> None:
    with spending() as budget:
        client = vertex(provider, mode)
        count = await done(client.messages.count_tokens(model="claude-sonnet-4-5@20250929", messages=ASK["messages"]))
        assert count.input_tokens > 0
        assert budget.calls == 0
