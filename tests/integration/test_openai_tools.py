"""What OpenAI bills by the piece or at other rates: the provider's own tools, and service tiers."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from either import MODES, done, items
from genai_prices import Usage as PricedUsage
from genai_prices import calc_price
from openai_sockets import response
from spending import spending

from actguard.client import Client
from actguard.exceptions import ActGuardMonitoringWarning, GuardError
from actguard.integrations.openai_usage import bill_of
from actguard.testing import Answer, LoopbackProvider

PRICED, UNPRICED = "gpt-5.4-mini", "computer-use-preview"
"""Models with and without a known price for searches."""
USAGE = {"input_tokens": 1000, "output_tokens": 50, "total_tokens": 1050}


def price(model: str, context: Any = None, **more: int) -> Decimal:
    counts = PricedUsage(input_tokens=1000, output_tokens=50, **more)
    return calc_price(counts, model, provider_id="openai", price_context=context).total_price


@pytest.fixture
async def provider() -> AsyncIterator[LoopbackProvider]:
    async with LoopbackProvider() as provider:
        yield provider


@pytest.fixture(params=MODES)
def client(request: pytest.FixtureRequest, provider: LoopbackProvider) -> Any:
    return provider.openai() if request.param == "sync" else provider.async_openai()


async def search(client: Any, provider: LoopbackProvider, model: str, stream: bool = False) -> None:
    provider.script(Answer(text="Found", input_tokens=1000, output_tokens=50, web_searches=3))
    answer = await done(client.responses.create(model=model, input="?", tools=[{"type": "web_search"}], stream=stream))
    if stream:
        await items(answer)


@pytest.mark.parametrize("stream", [False, True])
async def test_web_searches_are_charged_by_the_piece(client: Any, provider: LoopbackProvider, stream: bool) -> None:
    with spending() as budget:
        await search(client, provider, PRICED, stream)
    assert budget.usd_used_exact == price(PRICED, web_searches=3) == price(PRICED) + 3 * Decimal("0.01")


async def test_searches_without_a_known_price_are_told_once_by_name(client: Any, provider: LoopbackProvider) -> None:
    with spending() as budget:
        with pytest.warns(ActGuardMonitoringWarning, match="web searches.*computer-use"):
            await search(client, provider, UNPRICED)
        with warnings.catch_warnings():
            warnings.simplefilter("error", ActGuardMonitoringWarning)
            await search(client, provider, UNPRICED)
    assert budget.usd_used_exact == 2 * price(UNPRICED)


async def test_a_hard_scope_refuses_the_providers_own_tools(client: Any, provider: LoopbackProvider) -> None:
    with (
        spending(usd_limit=1, enforcement="hard"),
        pytest.raises(GuardError, match=r"tool of its own \(web_search\)"),
    ):
        await search(client, provider, PRICED)


@pytest.mark.parametrize(
    ("item", "unit"),
    [
        ({"type": "file_search_call", "status": "completed", "id": "fs", "queries": []}, "storage_searches"),
        ({"type": "code_interpreter_call", "status": "completed", "container_id": "c"}, "code_executions"),
    ],
)
def test_other_tools_are_counted(item: dict[str, Any], unit: str) -> None:
    bill = bill_of(response("resp_1", "completed", usage=USAGE, output=[item, {"type": "message"}]))
    assert bill is not None
    assert dict(bill.usage.details) == {unit: 1}


def test_a_container_is_counted_once_and_a_failed_search_is_not() -> None:
    output = [{"type": "code_interpreter_call", "container_id": name} for name in "aab"]
    output += [{"type": "file_search_call", "status": "failed"}]
    bill = bill_of(response("resp_1", "completed", usage=USAGE, output=output))
    assert bill is not None
    assert dict(bill.usage.details) == {"code_executions": 2}


def test_file_searches_are_priced_where_the_price_is_known_and_containers_are_told() -> None:
    output = [
        {"type": "file_search_call", "status": "completed"},
        {"type": "code_interpreter_call", "container_id": "c"},
    ]
    bill = bill_of(response("resp_1", "completed", usage=USAGE, output=output))
    assert bill is not None
    with Client() as client:
        prices = client._parts.prices
        prices.load()
        assert prices.price("openai", PRICED, bill.usage) == price(PRICED, storage_searches=1)
        assert prices.unpriced_tools("openai", PRICED, bill.usage) == ("code interpreter containers",)
        assert prices.unpriced_tools("openai", UNPRICED, bill.usage) == ("file searches", "code interpreter containers")


@pytest.mark.parametrize("tier", ["flex", "priority", "default"])
@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_the_tier_that_answered_decides_the_price(
    client: Any, provider: LoopbackProvider, tier: str, api: str
) -> None:
    provider.script(Answer(text="Hi", input_tokens=1000, output_tokens=50, service_tier=tier))
    with spending() as budget:
        if api == "chat":
            await done(client.chat.completions.create(model=PRICED, messages=[], service_tier="auto"))
        else:
            await done(client.responses.create(model=PRICED, input="?", service_tier="auto"))
    expected = price(PRICED, {"service_tier": tier})
    assert budget.usd_used_exact == expected
    assert (tier == "default") == (expected == price(PRICED))


async def test_a_hard_scope_holds_the_price_of_the_dearest_tier(client: Any, provider: LoopbackProvider) -> None:
    provider.script(Answer(generate=10_000, service_tier="priority"), Answer(generate=10_000, service_tier="priority"))
    with spending(usd_limit="0.02", enforcement="hard") as budget:
        await done(client.responses.create(model=PRICED, input="?", service_tier="priority"))
    assert Decimal(0) < budget.usd_used_exact <= Decimal("0.02")
