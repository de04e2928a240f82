"""Clients with middleware: every request that goes out below it is charged, and nothing that it answers by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anthropic
import pytest
from either import MODES, done, first, items, within
from spending import spending, spent

from actguard.client import Client
from actguard.events import LlmUsage
from actguard.exceptions import BudgetExceededError
from actguard.testing import Answer, Gate, Hang, LoopbackProvider, Reset, capture_events

middleware = pytest.importorskip("anthropic.lib.middleware", reason="this SDK has no middleware")

MODEL, OTHER = "claude-sonnet-4-6", "claude-haiku-4-5"
ASK: Any = {"model": MODEL, "max_tokens": 200, "messages": [{"role": "user", "content": "Hello there, how are you?"}]}
REFUSED = Answer(text="I would rather", finish="content_filter", input_tokens=1000, output_tokens=20)
REFUSED_AT_ONCE = Answer(text="", finish="content_filter", input_tokens=1000, output_tokens=1)
SERVED = Answer(text="Gladly.", input_tokens=1100, output_tokens=30)


def client_of(provider: LoopbackProvider, mode: str, *between: Any) -> Any:
    client: Any = provider.anthropic() if mode == "sync" else provider.async_anthropic()
    chain = between or (middleware.BetaRefusalFallbackMiddleware([{"model": OTHER}]),)
    return client.with_options(middleware=list(chain))


@pytest.fixture(params=MODES)
def client(request: pytest.FixtureRequest, provider: LoopbackProvider) -> Any:
    return client_of(provider, request.param)


def assert_charged_as_billed(budget: Any, provider: LoopbackProvider, calls: int) -> None:
    billed = provider.billed
    assert spent(budget) == (calls, billed.input_tokens, 0, 0, billed.output_tokens)
    assert billed.calls == calls
    assert budget.estimated_usd == 0


async def test_both_answers_of_a_fallback_are_charged_at_their_own_prices(
    provider: LoopbackProvider, client: Any
) -> None:
    provider.script(REFUSED, SERVED)
    with Client() as guard, guard.run(), guard.budget_guard(usd_limit=9) as budget:
        with capture_events(guard, LlmUsage) as events:
            message = await done(client.beta.messages.create(**ASK))
            assert [(event.model, event.output_tokens, event.estimated) for event in events] == [
                (MODEL, 20, False),
                (OTHER, 30, False),
            ]
        assert message.content[-1].text == "Gladly."
        assert_charged_as_billed(budget, provider, 2)
        by_model = {row.model: row.usd for row in budget.breakdown()}
        assert by_model[MODEL] > by_model[OTHER] > 0


async def test_an_answer_that_is_not_refused_is_charged_once(provider: LoopbackProvider, client: Any) -> None:
    with spending() as budget:
        await done(client.beta.messages.create(**ASK))
        await done(client.messages.create(**ASK))
        response = await done(client.messages.with_raw_response.create(**ASK))
        assert (await done(response.parse())).content
        assert_charged_as_billed(budget, provider, 3)


async def test_both_answers_of_a_streamed_fallback_are_charged(provider: LoopbackProvider, client: Any) -> None:
    provider.script(REFUSED_AT_ONCE, SERVED)
    with spending() as budget:
        events = await items(await done(client.beta.messages.create(**ASK, stream=True)))
        assert events[-1].type == "message_stop"
        assert_charged_as_billed(budget, provider, 2)


async def test_a_fallback_after_the_scope_belongs_to_it(provider: LoopbackProvider, client: Any) -> None:
    provider.script(REFUSED_AT_ONCE, SERVED)
    with Client() as guard, guard.run(), guard.budget_guard(usd_limit=9) as outer:
        with guard.budget_guard(usd_limit=9) as inner:
            stream = await done(client.beta.messages.create(**ASK, stream=True))
            await first(stream)
        await items(stream)
        assert_charged_as_billed(inner, provider, 2)
        assert_charged_as_billed(outer, provider, 2)


async def test_streams_through_middleware_are_charged(provider: LoopbackProvider, client: Any) -> None:
    with spending() as budget:
        async with within(client.messages.stream(**ASK)) as stream:
            assert (await done(stream.get_final_message())).content
        async with within(client.beta.messages.stream(**ASK)) as stream:
            await items(stream)
        assert_charged_as_billed(budget, provider, 2)


async def test_a_stream_through_middleware_that_is_left_is_charged_for_what_arrived(
    provider: LoopbackProvider, client: Any
) -> None:
    provider.script(Answer(generate=400))
    with spending() as budget:
        stream = await done(client.messages.create(**ASK, stream=True))
        await first(stream)
        await done(stream.close())
        assert (budget.calls, budget.estimated_usd > 0) == (1, True)


async def test_a_crossing_is_raised_with_what_the_middleware_made_of_the_answers(
    provider: LoopbackProvider, client: Any
) -> None:
    provider.script(SERVED)
    with spending(token_limit=1130) as budget, pytest.raises(BudgetExceededError) as crossing:
        await done(client.beta.messages.create(**ASK))
    assert crossing.value.response.content[-1].text == "Gladly."
    assert budget.calls == 1


async def test_a_full_budget_refuses_the_fallback_and_keeps_the_answer_that_was_paid(
    provider: LoopbackProvider, client: Any
) -> None:
    provider.script(REFUSED, SERVED)
    with spending(token_limit=1000) as budget:
        with pytest.raises(BudgetExceededError) as refusal:
            await done(client.beta.messages.create(**ASK))
        assert refusal.value.response.content[0].text == "I would rather"
        with pytest.raises(BudgetExceededError):
            await done(client.beta.messages.create(**ASK))
        assert_charged_as_billed(budget, provider, 1)


async def test_a_stream_through_middleware_is_cut_at_the_limit(provider: LoopbackProvider, client: Any) -> None:
    provider.script(Answer(generate=2_000, chunks=200, input_tokens=50, gate=Gate(), gate_after=20))
    with spending(token_limit=100) as budget:
        with pytest.raises(BudgetExceededError) as cut:
            await items(await done(client.messages.create(**{**ASK, "max_tokens": 4_000}, stream=True)))
        await provider.wait_for(lambda: provider.requests[0].disconnected)
        assert cut.value.partial
        assert budget.tokens_used >= 100
        assert provider.requests[0].output_tokens <= 200


async def test_a_hard_limit_bounds_each_request(provider: LoopbackProvider, client: Any) -> None:
    provider.script(Answer(generate=4_000))
    with spending(usd_limit="0.005", enforcement="hard") as budget:
        await done(client.messages.create(**{**ASK, "max_tokens": 4_000}))
        assert provider.requests[0].output_limit < 4_000
        assert 0 < budget.usd_used <= 0.005
        assert_charged_as_billed(budget, provider, 1)


@pytest.mark.parametrize("mode", MODES)
async def test_what_middleware_answers_by_itself_costs_nothing(provider: LoopbackProvider, mode: str) -> None:
    kept: dict[str, Any] = {}

    class Keeps(anthropic.Middleware if hasattr(anthropic, "Middleware") else object):  # type: ignore[misc]
        def handle(self, request: Any, call_next: Any) -> Any:
            if "answer" not in kept:
                kept["answer"] = call_next(request)
            return kept["answer"]

        async def handle_async(self, request: Any, call_next: Any) -> Any:
            if "answer" not in kept:
                kept["answer"] = await call_next(request)
            return kept["answer"]

    client = client_of(provider, mode, Keeps())
    with spending() as budget:
        for _ in range(3):
            assert (await done(client.messages.create(**ASK))).content
        assert_charged_as_billed(budget, provider, 1)


async def test_every_attempt_that_was_lost_is_charged_as_estimated(provider: LoopbackProvider, client: Any) -> None:
    provider.script(Reset(), Hang(), "Hello")
    retrying = client.with_options(max_retries=2, timeout=0.5)
    with spending() as budget:
        await done(retrying.messages.create(**ASK))
        assert budget.calls == 3
        assert 0 < budget.estimated_usd < budget.usd_used


def test_a_fallback_is_charged_on_either_loop(on_loop: Callable[..., Any]) -> None:
    async def run() -> None:
        async with LoopbackProvider() as provider:
            provider.script(REFUSED, SERVED)
            client = client_of(provider, "async")
            with spending() as budget:
                await client.beta.messages.create(**ASK)
                assert_charged_as_billed(budget, provider, 2)

    on_loop(run)
