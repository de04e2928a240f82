"""What decides the price of a message beside its model: tiers, speed, length, cache, tools, other models."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from either import MODES, done, items
from spending import spending

from actguard.client import Client
from actguard.events import LlmUsage
from actguard.exceptions import ActGuardMonitoringWarning, GuardError
from actguard.testing import Answer, LoopbackProvider, capture_events

SONNET, FAST, LONG = "claude-sonnet-4-6", "claude-opus-5-5", "claude-haiku-5-5"
MILLION = Decimal(1_000_000)


@pytest.fixture
async def provider() -> AsyncIterator[LoopbackProvider]:
    async with LoopbackProvider() as provider:
        yield provider


@pytest.fixture(params=MODES)
def client(request: pytest.FixtureRequest, provider: LoopbackProvider) -> Any:
    return provider.anthropic() if request.param == "sync" else provider.async_anthropic()


@pytest.fixture(params=["whole", "streamed"])
def streamed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "streamed")


async def ask(client: Any, model: str, stream: bool, **settings: Any) -> None:
    said: Any = [{"role": "user", "content": "Hi"}]
    answer = await done(
        client.beta.messages.create(model=model, max_tokens=100, messages=said, stream=stream, **settings)
    )
    if stream:
        await items(answer)


def usage(**counts: Any) -> dict[str, Any]:
    return {"input_tokens": 1000, "output_tokens": 100, "service_tier": "standard", **counts}


CASES = {
    "standard": (SONNET, usage(), 1000 * 3 + 100 * 15),
    "priority": (SONNET, usage(service_tier="priority"), 1000 * 3 + 100 * 15),
    "batch": (SONNET, usage(service_tier="batch"), (1000 * 3 + 100 * 15) / Decimal(2)),
    "fast": (FAST, usage(speed="fast"), 1000 * 8 + 100 * 40),
    "not fast": (FAST, usage(speed="standard"), 1000 * 4 + 100 * 20),
    "long": (LONG, usage(input_tokens=150_000), 150_000 * Decimal("0.5") + 100 * Decimal("2.5")),
    "not long": (LONG, usage(input_tokens=50_000), 50_000 * Decimal("0.1") + 100 * Decimal("0.5")),
    "cached for an hour": (
        SONNET,
        usage(
            cache_creation_input_tokens=300,
            cache_creation={"ephemeral_1h_input_tokens": 200, "ephemeral_5m_input_tokens": 100},
        ),
        1000 * 3 + 200 * 6 + 100 * Decimal("3.75") + 100 * 15,
    ),
    "searched": (
        SONNET,
        usage(server_tool_use={"web_search_requests": 3, "web_fetch_requests": 5}),
        1000 * 3 + 100 * 15 + 30_000,
    ),
}


@pytest.mark.parametrize("case", CASES)
async def test_the_usage_block_decides_the_price(
    provider: LoopbackProvider, client: Any, streamed: bool, case: str
) -> None:
    model, block, millionths = CASES[case]
    provider.script(Answer(text="Hi", raw_usage=block))
    with spending() as budget:
        await ask(client, model, streamed)
        assert budget.usd_used_exact == millionths / MILLION
        assert budget.estimated_usd == 0


def helped(kind: str, model: str, tokens: int, output: int) -> dict[str, Any]:
    counts = {"input_tokens": tokens, "output_tokens": output}
    return {"type": kind, "model": model, **counts, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}


OTHERS = {
    "advised": [helped("message", SONNET, 1000, 100), helped("advisor_message", FAST, 500, 50)],
    "declined": [
        helped("message", FAST, 500, 50),
        helped("message", SONNET, 400, 40),
        helped("fallback_message", SONNET, 600, 60),
    ],
}


@pytest.mark.parametrize("case", OTHERS)
async def test_other_models_that_helped_are_charged_at_their_own_prices(
    provider: LoopbackProvider, client: Any, streamed: bool, case: str
) -> None:
    provider.script(Answer(text="Hi", raw_usage=usage(iterations=OTHERS[case])))
    with Client() as guard, guard.run(), guard.budget_guard(usd_limit=9) as budget:
        with capture_events(guard, LlmUsage) as events:
            await ask(client, SONNET, streamed)
            assert [(event.model, event.input_tokens, event.output_tokens, event.estimated) for event in events] == [
                (SONNET, 1000, 100, False),
                (FAST, 500, 50, False),
            ]
        assert budget.usd_used_exact == Decimal(1000 * 3 + 100 * 15 + 500 * 4 + 50 * 20) / MILLION
        assert (budget.calls, budget.account.held.tokens) == (2, 0)


async def test_the_time_of_code_execution_is_told_of_once_by_name(
    provider: LoopbackProvider, client: Any, streamed: bool
) -> None:
    tools: Any = [{"type": "code_execution_20250825", "name": "code_execution"}]
    with spending() as budget:
        with pytest.warns(ActGuardMonitoringWarning, match="the time of code execution"):
            await ask(client, SONNET, streamed, tools=tools)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            await ask(client, SONNET, streamed, tools=tools)
        assert budget.calls == 2
    with spending(usd_limit=1, enforcement="hard"), pytest.raises(GuardError, match="the time of code execution"):
        await ask(client, SONNET, streamed, tools=tools)


async def test_a_compaction_is_charged_with_the_message(
    provider: LoopbackProvider, client: Any, streamed: bool
) -> None:
    compaction = helped("compaction", "", 500, 50)
    provider.script(Answer(text="Hi", raw_usage=usage(iterations=[compaction])))
    with spending() as budget:
        await ask(client, SONNET, streamed)
        assert (budget.calls, budget.tokens_used) == (1, 1650)
