"""Hard limits around the real SDK clients: requests are sent with the output that the budget affords."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import openai
import pytest
import trio
from either import MODES
from google.genai import types
from spenders import (
    QUESTION,
    SPENDERS,
    Spender,
    anthropic_client,
    chat,
    chat_stream,
    content,
    google_client,
    message,
    openai_client,
    response,
)
from spending import spending, spent

from actguard import carry
from actguard.exceptions import BudgetExceededError, GuardError
from actguard.testing import Answer, Failure, Hang, LoopbackProvider

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
HARD: dict[str, Any] = {"enforcement": "hard"}
TALKATIVE = Answer(generate=10**6)
"""Generates as much as the request allows."""


@pytest.fixture
async def provider() -> AsyncIterator[LoopbackProvider]:
    async with LoopbackProvider(default=TALKATIVE) as provider:
        yield provider


@pytest.fixture(params=MODES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def until_refused(call: Any, client: Any, **more: Any) -> None:
    """Calls, one after another, until the budget refuses one."""
    for _ in range(1_000):
        await call(client, **more)


@pytest.mark.parametrize("spender", SPENDERS.values(), ids=SPENDERS)
async def test_calls_go_on_until_there_is_no_room_and_nothing_goes_over(
    provider: LoopbackProvider, kind: str, spender: Spender
) -> None:
    client = spender.client(provider, kind)
    with spending(usd_limit="0.004", on_crossing="return", **HARD) as budget:
        with pytest.raises(BudgetExceededError, match="no room") as refused:
            await until_refused(spender.call, client)
        assert refused.value.missing
        assert 0 < budget.usd_used_exact <= Decimal("0.004")
        assert budget.account.held.usd == 0
        billed = provider.billed
        counted = spent(budget)
        assert (counted.calls, counted.input_tokens, counted.output_tokens) == (
            billed.calls,
            billed.input_tokens,
            billed.output_tokens,
        )
        assert provider.requests[0].output_limit is not None
        assert provider.requests[0].output_limit <= budget.breakdown()[0].output_tokens


@pytest.mark.parametrize("spender", SPENDERS.values(), ids=SPENDERS)
async def test_a_lower_limit_of_the_user_stays(provider: LoopbackProvider, spender: Spender) -> None:
    name = {"response": "max_output_tokens", "content": "max_output_tokens"}
    client = spender.client(provider, "sync")
    field = next((field for start, field in name.items() if spender.call.__name__.startswith(start)), "max_tokens")
    with spending(usd_limit="0.004", **HARD):
        await spender.call(client, **{field: 20})
    assert provider.requests[0].output_limit == 20


# --- OpenAI ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"max_tokens"}),
        ({"max_tokens": 50_000}, {"max_tokens"}),
        ({"max_completion_tokens": 50_000}, {"max_completion_tokens"}),
        (
            {"max_tokens": 50_000, "extra_body": {"max_completion_tokens": 60_000}},
            {"max_tokens", "max_completion_tokens"},
        ),
        ({"max_tokens": 10, "extra_body": {"max_tokens": 60_000}}, {"max_tokens"}),
        ({"extra_body": {"max_completion_tokens": 60_000}}, {"max_completion_tokens"}),
        *(({"max_tokens": odd}, {"max_tokens"}) for odd in ("60000", True, 0, -1, 6e4, [6])),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),
)
async def test_the_limit_takes_the_form_that_the_user_gave_it(
    provider: LoopbackProvider, given: dict[str, Any], expected: set[str]
) -> None:
    with spending(usd_limit="0.001", **HARD):
        await chat(provider.openai(), **given)
    body = provider.requests[0].body
    limits = {name: body[name] for name in ("max_tokens", "max_completion_tokens") if name in body}
    assert set(limits) == expected
    assert all(type(limit) is int and 10 <= limit < 2_000 for limit in limits.values())
    assert body["messages"][0]["content"] == QUESTION


@pytest.mark.parametrize("model", ["o3", "gpt-5", "gpt-5-mini"])
async def test_reasoning_models_know_only_the_newer_field(provider: LoopbackProvider, model: str) -> None:
    with spending(usd_limit="0.2", **HARD):
        provider.openai().chat.completions.create(model=model, messages=[{"role": "user", "content": "Hi"}])
    assert "max_completion_tokens" in provider.requests[0].body
    assert "max_tokens" not in provider.requests[0].body


async def test_a_server_that_wants_the_other_field_is_asked_again(provider: LoopbackProvider, kind: str) -> None:
    """As newer models do whose name does not tell: a deployment's, say."""
    provider.script(Failure(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."))
    with spending(usd_limit="0.001", **HARD) as budget:
        await chat(openai_client(provider, kind))
        assert budget.calls == 1
        assert budget.usd_used_exact <= Decimal("0.001")
    first, second = provider.requests
    assert first.body["max_tokens"] == second.body["max_completion_tokens"]
    assert "max_tokens" not in second.body


async def test_a_limit_that_the_user_gave_is_not_respelled(provider: LoopbackProvider) -> None:
    provider.script(Failure(400, "Unsupported parameter: 'max_tokens'."))
    with spending(usd_limit="0.001", **HARD), pytest.raises(openai.BadRequestError):
        await chat(provider.openai(), max_tokens=10_000)
    assert len(provider.requests) == 1


async def test_a_server_without_stream_options_still_gets_the_limit(provider: LoopbackProvider, kind: str) -> None:
    provider.script(Failure(400, "Unknown parameter: 'stream_options'."))
    with spending(usd_limit="0.001", **HARD) as budget:
        await chat_stream(openai_client(provider, kind))
        assert budget.usd_used_exact <= Decimal("0.001")
    first, second = provider.requests
    assert first.body["max_tokens"] == second.body["max_tokens"]
    assert "stream_options" in first.body
    assert "stream_options" not in second.body


async def test_each_of_several_answers_is_limited(provider: LoopbackProvider) -> None:
    with spending(usd_limit="0.001", **HARD) as budget:
        await chat(provider.openai(), n=3)
        assert provider.billed.output_tokens == 3 * provider.requests[0].body["max_tokens"]
        assert budget.usd_used_exact <= Decimal("0.001")


@pytest.mark.parametrize("together", [list, tuple])
async def test_each_of_several_prompts_is_limited(provider: LoopbackProvider, together: Any) -> None:
    body = {"model": "gpt-3.5-turbo-instruct", "prompt": together(["a", "b", "c"] * 10), "max_tokens": 4_000}
    with spending(usd_limit="0.004", **HARD) as budget:
        provider.openai().post("/completions", cast_to=dict[str, Any], body=body)
        assert 0 < budget.usd_used_exact <= Decimal("0.004")


async def test_what_the_sdk_may_send_again_is_held_for_each_attempt(provider: LoopbackProvider, kind: str) -> None:
    with spending(usd_limit="0.001", **HARD):
        await chat(openai_client(provider, kind))
    with spending(usd_limit="0.001", **HARD):
        await chat(openai_client(provider, kind, max_retries=2))
    with spending(usd_limit="0.001", **HARD):
        await chat(openai_client(provider, kind, max_retries=2).with_options(max_retries=0))
    once, thrice, again = (request.body["max_tokens"] for request in provider.requests)
    assert once == again
    assert once / 4 < thrice < once / 2.9


async def test_a_lost_attempt_before_the_answer_is_charged_as_estimated(provider: LoopbackProvider, kind: str) -> None:
    provider.script(Hang(), Answer(text="Hi"))
    client = openai_client(provider, kind, max_retries=1, timeout=openai.Timeout(5, read=0.2))
    with spending(usd_limit="0.001", **HARD) as budget:
        await chat(client)
        rows = sorted(budget.breakdown(), key=lambda row: row.estimated)
        assert [(row.calls, row.estimated) for row in rows] == [(1, False), (1, True)]
        assert 0 < budget.account.held.usd < Decimal("0.001")
    assert len(provider.requests) == 2


async def test_an_error_status_before_the_answer_costs_nothing(provider: LoopbackProvider, kind: str) -> None:
    provider.script(Failure(429, retry_after=0.01), Answer(text="Hi"))
    with spending(usd_limit="0.001", **HARD) as budget:
        await chat(openai_client(provider, kind, max_retries=1))
        [row] = budget.breakdown()
        assert not row.estimated
        assert budget.account.held.usd == 0


# --- Anthropic -------------------------------------------------------------------------------------------------------


async def test_thinking_stays_below_the_limit(provider: LoopbackProvider, kind: str) -> None:
    thinking = {"type": "enabled", "budget_tokens": 30_000}
    with spending(usd_limit="0.04", **HARD) as budget:
        await message(anthropic_client(provider, kind), thinking=thinking)
        assert budget.usd_used_exact <= Decimal("0.04")
    body = provider.requests[0].body
    assert 1_024 <= body["thinking"]["budget_tokens"] == body["max_tokens"] - 1


async def test_thinking_that_does_not_fit_is_refused(provider: LoopbackProvider) -> None:
    thinking = {"type": "enabled", "budget_tokens": 2_000}
    with spending(usd_limit="0.005", **HARD), pytest.raises(BudgetExceededError, match="no room"):
        await message(provider.anthropic(), thinking=thinking)
    assert not provider.requests


async def test_extra_body_is_limited_too(provider: LoopbackProvider) -> None:
    with spending(usd_limit="0.008", **HARD):
        await message(provider.anthropic(), max_tokens=10, extra_body={"max_tokens": 64_000})
    assert provider.requests[0].body["max_tokens"] < 2_000


async def test_warming_a_cache_stays_without_output(provider: LoopbackProvider) -> None:
    provider.script(Answer(text=""))
    with spending(usd_limit="0.02", **HARD):
        await message(provider.anthropic(), max_tokens=0)
    assert provider.requests[0].body["max_tokens"] == 0


# --- Google ----------------------------------------------------------------------------------------------------------


async def test_each_candidate_is_limited(provider: LoopbackProvider, kind: str) -> None:
    with spending(usd_limit="0.004", **HARD) as budget:
        await content(google_client(provider, kind), candidate_count=2)
        assert budget.usd_used_exact <= Decimal("0.004")
    assert provider.requests[0].output_limit is not None


@pytest.mark.skipif("extra_body" not in types.HttpOptions.model_fields, reason="this SDK has no such option")
async def test_what_http_options_add_is_limited(provider: LoopbackProvider, kind: str) -> None:
    options = {"extra_body": {"generationConfig": {"maxOutputTokens": 60_000, "topK": 3}}}
    with spending(usd_limit="0.004", **HARD):
        await content(google_client(provider, kind), http_options=options, max_output_tokens=10)
    config = provider.requests[0].body["generationConfig"]
    assert config["maxOutputTokens"] < 2_000
    assert config["topK"] == 3
    assert options["extra_body"]["generationConfig"]["maxOutputTokens"] == 60_000


@pytest.mark.skipif("extra_body" not in types.HttpOptions.model_fields, reason="this SDK has no such option")
async def test_candidates_that_cannot_be_counted_are_refused(provider: LoopbackProvider) -> None:
    options = {"extra_body": {"generationConfig": {"candidateCount": "8"}}}
    with spending(usd_limit="0.004", **HARD), pytest.raises(GuardError, match="how many answers"):
        await content(google_client(provider, "sync"), http_options=options)
    assert not provider.requests


# --- what cannot be bounded ------------------------------------------------------------------------------------------

UNBOUNDED: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "stored answer": (openai_client, response, {"previous_response_id": "resp_1"}, "stored answer"),
    "conversation": (openai_client, response, {"extra_body": {"conversation": "conv_1"}}, "stored conversation"),
    "stored prompt": (openai_client, response, {"extra_body": {"prompt": {"id": "pmpt_1"}}}, "stored prompt"),
    "web search": (openai_client, response, {"tools": [{"type": "web_search"}]}, "web_search"),
    "file search": (
        openai_client,
        response,
        {"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]},
        "file_search",
    ),
    "code": (
        openai_client,
        response,
        {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]},
        "code_interpreter",
    ),
    "prediction": (openai_client, chat, {"prediction": {"type": "content", "content": "Hi"}}, "predicted output"),
    "number of answers": (openai_client, chat, {"n": "50"}, "how many answers"),
    "search options": (openai_client, chat, {"web_search_options": {}}, "searches the web"),
    "anthropic search": (
        anthropic_client,
        message,
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        "web_search_20250305",
    ),
    "google search": (google_client, content, {"tools": [{"google_search": {}}]}, "googleSearch"),
    "cached content": (google_client, content, {"cached_content": "cachedContents/1"}, "cached content"),
}


@pytest.mark.parametrize("case", UNBOUNDED.values(), ids=UNBOUNDED)
async def test_what_cannot_be_bounded_is_refused_with_the_reason(provider: LoopbackProvider, case: Any) -> None:
    client_of, call, more, reason = case
    client = client_of(provider, "sync")
    with spending(usd_limit="0.004", **HARD), pytest.raises(GuardError, match=reason) as refused:
        await call(client, **more)
    assert refused.value.code == "UNBOUNDED_CALL"
    assert not provider.requests


async def test_a_call_that_shows_no_model_is_refused_for_what_it_is(provider: LoopbackProvider) -> None:
    client = provider.openai()
    with spending(usd_limit="0.004", **HARD):
        with pytest.raises(GuardError, match="this call: its input file was not uploaded"):
            client.batches.create(input_file_id="file-x", endpoint="/v1/chat/completions", completion_window="24h")
        with pytest.raises(GuardError, match="this call: it shows no model"):
            client.post("/chat/completions", cast_to=dict, body={"messages": []})
    assert not provider.requests


async def test_unbounded_calls_can_be_allowed(provider: LoopbackProvider) -> None:
    provider.script(Answer(text="Hi"))
    with spending(usd_limit="0.004", allow_unbounded=True, **HARD) as budget:
        await response(provider.openai(), previous_response_id="resp_1")
        assert budget.calls == 1


async def test_free_calls_work_over_budget(provider: LoopbackProvider) -> None:
    client = provider.openai()
    with spending(usd_limit="0.00002", on_crossing="return", **HARD):
        with pytest.raises(BudgetExceededError):
            await chat(client)
        assert client.models.list().data


# --- many at once ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_tasks_that_loop_until_they_are_refused_stay_within(provider: LoopbackProvider, stream: bool) -> None:
    client = provider.async_openai()
    with spending(usd_limit="0.002", on_crossing="return", **HARD) as budget:
        workers = [until_refused(chat_stream if stream else chat, client, max_tokens=300) for _ in range(20)]
        results = await asyncio.gather(*workers, return_exceptions=True)
        assert all(isinstance(result, BudgetExceededError) for result in results)
        assert Decimal("0.0015") < budget.usd_used_exact <= Decimal("0.002")
        assert budget.account.held.usd == 0


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_five_hundred_calls_at_once_stay_within(provider: LoopbackProvider, stream: bool) -> None:
    call, client = chat_stream if stream else chat, provider.async_openai()
    with spending(usd_limit="0.004", on_crossing="return", **HARD) as budget:
        workers = [until_refused(call, client, max_tokens=30) for _ in range(500)]
        results = await asyncio.gather(*workers, return_exceptions=True)
        assert all(isinstance(result, BudgetExceededError) for result in results)
        assert Decimal("0.0035") < budget.usd_used_exact <= Decimal("0.004")
        assert budget.account.held.usd == 0
        billed = provider.billed
        assert (spent(budget).calls, spent(budget).output_tokens) == (billed.calls, billed.output_tokens)


async def test_tasks_that_wait_for_each_other_are_all_served(provider: LoopbackProvider) -> None:
    client = provider.async_openai()
    with spending(usd_limit="0.01", on_full="wait", **HARD) as budget:
        await asyncio.gather(*(chat(client, max_tokens=500, max_completion_tokens=500) for _ in range(20)))
        assert budget.calls == 20
        assert budget.usd_used_exact <= Decimal("0.01")


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")  # the SDK's own, under trio
def test_on_trio(provider_in_thread: LoopbackProvider) -> None:
    async def main() -> None:
        with spending(usd_limit="0.002", on_full="wait", on_crossing="return", **HARD) as budget:
            async with provider_in_thread.async_openai() as client, trio.open_nursery() as nursery:

                async def worker() -> None:
                    with pytest.raises(BudgetExceededError):
                        await until_refused(chat_stream, client, max_tokens=300)

                for _ in range(5):
                    nursery.start_soon(worker)
            assert Decimal("0.0015") < budget.usd_used_exact <= Decimal("0.002")

    trio.run(main)


def test_in_threads(provider_in_thread: LoopbackProvider) -> None:
    client = provider_in_thread.anthropic()
    with spending(usd_limit="0.02", on_crossing="return", on_full="wait", **HARD) as budget:

        def worker() -> None:
            with pytest.raises(BudgetExceededError):
                asyncio.run(until_refused(message, client, max_tokens=1_000))

        threads = [threading.Thread(target=carry(worker)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        assert Decimal("0.014") < budget.usd_used_exact <= Decimal("0.02")


@pytest.fixture
def provider_in_thread() -> Any:
    with LoopbackProvider(default=TALKATIVE) as provider:
        yield provider
