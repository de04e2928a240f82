"""The real Google GenAI clients inside a budget scope: every form of a call is charged what the provider billed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pydantic
import pytest
from canned import Canned, serving
from either import MODES, done, items
from genai_prices import Usage as PricedUsage
from genai_prices import calc_price
from google import genai
from google.genai import errors, types
from spending import spending, spent

from actguard.exceptions import BudgetExceededError
from actguard.testing import Answer, Failure, Hang, LoopbackProvider, Reset, ToolCall

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")

OLD = genai.__version__.startswith("0.")
needs_newer_sdk = pytest.mark.skipif(OLD, reason="the first versions of the SDK cannot do this")

MODEL = "gemini-2.5-flash"
QUESTION = "Hello there, how are you?"
COUNTED = Answer(text="Hi", input_tokens=1000, cached_input_tokens=400, output_tokens=30, reasoning_tokens=20)


class City(pydantic.BaseModel):
    name: str


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(mode: str, provider: LoopbackProvider) -> Any:
    return in_mode(provider.google(), mode)


def in_mode(client: genai.Client, mode: str) -> Any:
    return client if mode == "sync" else client.aio


def assert_charged_as_billed(budget: Any, provider: LoopbackProvider) -> None:
    billed = provider.billed
    assert billed.calls > 0
    assert spent(budget) == (
        billed.calls,
        billed.input_tokens,
        billed.cached_input_tokens,
        billed.cache_write_tokens,
        billed.output_tokens,
    )
    assert budget.estimated_usd == 0


# --- every form of a call ---------------------------------------------------------------------------------------------


async def generate(client: Any, **config: Any) -> Any:
    return await done(client.models.generate_content(model=MODEL, contents=QUESTION, config=config or None))


async def stream(client: Any) -> list[Any]:
    return await items(await done(client.models.generate_content_stream(model=MODEL, contents=QUESTION)))


async def chat(client: Any) -> None:
    await done(client.chats.create(model=MODEL).send_message(QUESTION))


async def chat_stream(client: Any) -> None:
    await items(await done(client.chats.create(model=MODEL).send_message_stream(QUESTION)))


async def without_parsing(client: Any) -> None:
    response = await generate(client, should_return_http_response=True)
    assert response.sdk_http_response.body


FORMS = [generate, stream, chat, chat_stream, pytest.param(without_parsing, marks=needs_newer_sdk)]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("platform", ["google", "vertex"])
async def test_every_form_of_a_call_is_charged_once_and_exactly(
    provider: LoopbackProvider, mode: str, platform: str, form: Callable[[Any], Awaitable[Any]]
) -> None:
    provider.script(COUNTED)
    with spending() as budget:
        await form(in_mode(getattr(provider, platform)(), mode))
        assert_charged_as_billed(budget, provider)
        assert budget.calls == 1


async def test_thoughts_and_tool_prompts_are_charged_and_cached_tokens_only_once(
    provider: LoopbackProvider, client: Any
) -> None:
    provider.script(
        Answer(
            text="Hi",
            raw_usage={
                "promptTokenCount": 1000,
                "cachedContentTokenCount": 400,
                "candidatesTokenCount": 10,
                "thoughtsTokenCount": 20,
                "toolUsePromptTokenCount": 50,
            },
        )
    )
    with spending() as budget:
        await generate(client)
    price = calc_price(
        PricedUsage(input_tokens=1050, cache_read_tokens=400, output_tokens=30), MODEL, provider_id="google"
    ).total_price
    assert spent(budget) == (1, 1050, 400, 0, 30)
    assert budget.usd_used_exact == price


async def test_audio_has_its_own_price(provider: LoopbackProvider, client: Any) -> None:
    details = [{"modality": "AUDIO", "tokenCount": 900}, {"modality": "TEXT", "tokenCount": 100}]
    usage = {"promptTokenCount": 1000, "candidatesTokenCount": 10}
    provider.script(
        Answer(text="a", raw_usage=usage), Answer(text="a", raw_usage={**usage, "promptTokensDetails": details})
    )
    with spending() as budget:
        await generate(client)
        text_only = budget.usd_used_exact
        await generate(client)
        assert budget.usd_used_exact - text_only > text_only


async def test_the_tier_that_served_sets_the_price(provider: LoopbackProvider, mode: str) -> None:
    client = in_mode(provider.vertex(), mode)
    counts: Any = {"text": "a", "input_tokens": 1000, "output_tokens": 10}
    provider.script(Answer(**counts), Answer(**counts, service_tier="ON_DEMAND_FLEX"))
    with spending() as budget:
        for _ in range(2):
            await done(client.models.generate_content(model="gemini-3-flash-preview", contents=QUESTION))
            standard = budget.usd_used_exact
    flex = calc_price(
        PricedUsage(input_tokens=1000, output_tokens=10),
        "gemini-3-flash-preview",
        provider_id="google",
        price_context={"service_tier": "flex"},
    ).total_price
    full = calc_price(
        PricedUsage(input_tokens=1000, output_tokens=10), "gemini-3-flash-preview", provider_id="google"
    ).total_price
    assert standard == full + flex


async def test_an_answer_without_usage_is_estimated(provider: LoopbackProvider, client: Any) -> None:
    provider.script(Answer(text="four" * 10, usage=False))
    with spending() as budget:
        await generate(client)
        assert spent(budget) == (1, -(-len(QUESTION) // 4), 0, 0, 10)
        assert budget.estimated_usd > 0


async def test_a_usage_block_that_makes_no_sense_does_not_break_the_call(
    provider: LoopbackProvider, client: Any
) -> None:
    nonsense = Answer(text="four" * 10, raw_usage={"promptTokenCount": 0, "candidatesTokenCount": -5})
    provider.script(nonsense, nonsense)
    with spending() as budget:
        await generate(client)
        await stream(client)
        assert spent(budget) == (2, 14, 0, 0, 20)
        assert budget.estimated_usd == budget.usd_used > 0


async def test_a_prompt_that_was_refused_costs_nothing() -> None:
    refused = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"trafficType": "ON_DEMAND"}}
    path = f"/v1beta/models/{MODEL}:generateContent"
    with serving({("POST", path): Canned("application/json", json.dumps(refused).encode())}) as url:
        client = genai.Client(api_key="k", vertexai=False, http_options={"base_url": url, "api_version": "v1beta"})
        with spending() as budget:
            await generate(client)
            assert budget.calls == 0
        if hasattr(client, "close"):
            client.close()


# --- embeddings -------------------------------------------------------------------------------------------------------


async def embed(client: Any, model: str) -> None:
    response = await done(client.models.embed_content(model=model, contents=["Hello there", "and you"]))
    assert response.embeddings[0].values


async def test_embeddings_are_charged_as_estimated_where_the_answer_has_no_counts(
    provider: LoopbackProvider, client: Any
) -> None:
    provider.script(Answer(usage=False), api="embeddings")
    with spending() as budget:
        await embed(client, "gemini-embedding-001")
        assert spent(budget) == (1, -(-len("Hello thereand you") // 4), 0, 0, 0)
        assert budget.estimated_usd == budget.usd_used > 0


async def test_embeddings_on_vertex_report_their_tokens(provider: LoopbackProvider, mode: str) -> None:
    with spending() as budget:
        await embed(in_mode(provider.vertex(), mode), "gemini-embedding-001")
        assert_charged_as_billed(budget, provider)


# --- limits -----------------------------------------------------------------------------------------------------------


async def test_a_full_budget_refuses_before_anything_is_sent(provider: LoopbackProvider, client: Any) -> None:
    provider.script(Answer(text="Hi", input_tokens=60, output_tokens=40))
    with spending(token_limit=100) as budget:
        with pytest.raises(BudgetExceededError):
            await generate(client)
        for form in (generate, stream, chat, chat_stream):
            with pytest.raises(BudgetExceededError) as refused:
                await form(client)
            assert refused.value.response is None
        with pytest.raises(BudgetExceededError):
            await embed(client, "gemini-embedding-001")
    assert len(provider.requests) == 1
    assert budget.tokens_used == 100


async def test_over_budget_what_is_free_still_works(provider: LoopbackProvider, client: Any) -> None:
    with spending(token_limit=1) as budget:
        with pytest.raises(BudgetExceededError):
            await generate(client)
        used = budget.tokens_used
        assert (await done(client.models.count_tokens(model=MODEL, contents=QUESTION))).total_tokens > 0
        free = (
            client.models.list,
            lambda: client.models.get(model=MODEL),
            lambda: client.files.get(name="files/abc"),
            *(() if OLD else (lambda: client.batches.get(name="batches/abc"),)),
        )
        for sent, call in enumerate(free, len(provider.requests) + 1):
            with contextlib.suppress(errors.ClientError):  # the loopback provider does not have all of these
                await done(call())
            assert len(provider.requests) == sent
        assert (budget.tokens_used, budget.calls) == (used, 1)


async def test_the_converted_answer_that_crosses_is_on_the_error(provider: LoopbackProvider, client: Any) -> None:
    provider.script(Answer(text='{"name": "Oslo"}'))
    with spending(token_limit=1), pytest.raises(BudgetExceededError) as crossed:
        await generate(client, response_mime_type="application/json", response_schema=City)
    assert isinstance(crossed.value.response, types.GenerateContentResponse)
    assert crossed.value.response.parsed == City(name="Oslo")


async def test_the_embeddings_that_cross_are_on_the_error(provider: LoopbackProvider, client: Any) -> None:
    with spending(token_limit=1), pytest.raises(BudgetExceededError) as crossed:
        await embed(client, "gemini-embedding-001")
    assert isinstance(crossed.value.response, types.EmbedContentResponse)


async def test_a_crossing_can_return_the_answer_instead(provider: LoopbackProvider, client: Any) -> None:
    with spending(token_limit=1, on_crossing="return"):
        assert (await generate(client)).text
        with pytest.raises(BudgetExceededError):
            await generate(client)


# --- automatic function calling ---------------------------------------------------------------------------------------


def look_up(city: str) -> str:
    """Look a city up."""
    return f"{city} is sunny."


@needs_newer_sdk
async def test_every_turn_of_automatic_function_calling_is_charged(provider: LoopbackProvider, client: Any) -> None:
    provider.script(Answer(tool_calls=[ToolCall("look_up", {"city": "Oslo"})]), "It is sunny.")
    with spending() as budget:
        response = await done(client.chats.create(model=MODEL, config={"tools": [look_up]}).send_message(QUESTION))
        assert response.text == "It is sunny."
        assert budget.calls == 2
        assert_charged_as_billed(budget, provider)


@needs_newer_sdk
async def test_a_crossing_stops_automatic_function_calling(provider: LoopbackProvider, client: Any) -> None:
    call = Answer(tool_calls=[ToolCall("look_up", {"city": "Oslo"})], input_tokens=30, output_tokens=10)
    provider.script(call, call, call)
    with spending(token_limit=70) as budget, pytest.raises(BudgetExceededError) as crossed:
        await done(client.chats.create(model=MODEL, config={"tools": [look_up]}).send_message(QUESTION))
    assert budget.calls == 2
    assert crossed.value.response.function_calls[0].name == "look_up"
    assert provider.pending == 1


async def test_a_budget_error_that_the_sdk_swallows_in_a_tool_comes_back_at_the_next_call(
    provider: LoopbackProvider,
) -> None:
    client = provider.google()

    def delegate() -> str:
        """Ask a colleague."""
        return str(client.models.generate_content(model=MODEL, contents=QUESTION).text)

    provider.script(Answer(tool_calls=[ToolCall("delegate")], input_tokens=10, output_tokens=10))
    with spending(token_limit=25), pytest.raises(BudgetExceededError) as refused:
        client.chats.create(model=MODEL, config={"tools": [delegate]}).send_message(QUESTION)
    assert refused.value.response is None
    assert len(provider.requests) == 2


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 429, 500, 503])
async def test_an_error_answer_costs_nothing(provider: LoopbackProvider, client: Any, status: int) -> None:
    provider.script(Failure(status), Failure(status))
    with spending() as budget:
        for form in (generate, stream):
            with pytest.raises(errors.APIError):
                await form(client)
        assert (budget.tokens_used, budget.calls) == (0, 0)


def impatient(provider: LoopbackProvider, mode: str, **options: Any) -> Any:
    http_options = types.HttpOptions(base_url=provider.google_url, timeout=50, **options)
    return in_mode(provider.google(http_options=http_options), mode)


@needs_newer_sdk
async def test_an_answer_that_never_comes_is_charged_as_estimated(provider: LoopbackProvider, mode: str) -> None:
    provider.script(Hang(), Hang())
    client = impatient(provider, mode)
    with spending() as budget:
        for calls, form in enumerate((generate, stream), 1):
            with pytest.raises(Exception) as lost:
                await form(client)
            assert not isinstance(lost.value, BudgetExceededError)
            assert budget.calls == calls
        assert budget.estimated_usd == budget.usd_used > 0


async def test_a_lost_connection_is_charged_as_estimated(provider: LoopbackProvider) -> None:
    provider.script(Reset())
    with spending() as budget:
        with pytest.raises(Exception) as lost:
            provider.google().models.generate_content(model=MODEL, contents=QUESTION)
        assert not isinstance(lost.value, BudgetExceededError)
        assert budget.calls == 1
        assert budget.estimated_usd > 0


@needs_newer_sdk
async def test_every_attempt_that_was_asked_for_may_be_on_the_bill(provider: LoopbackProvider) -> None:
    provider.script(Hang(), Hang(), Hang())
    once = impatient(provider, "sync")
    retrying = impatient(
        provider, "sync", retry_options=types.HttpRetryOptions(attempts=2, initial_delay=0.001, jitter=0)
    )
    with spending() as budget:
        with pytest.raises(Exception, match="timed out"):
            await generate(once)
        single = budget.usd_used_exact
        with pytest.raises(Exception, match="timed out"):
            await generate(retrying)
        assert budget.usd_used_exact == 3 * single
    assert len(provider.requests) == 3


async def test_a_refused_connection_costs_nothing(provider: LoopbackProvider, mode: str) -> None:
    # Asked to retry, the asynchronous client leaves out its own second attempt, which comes after seconds.
    retries = {} if OLD else {"retry_options": types.HttpRetryOptions(attempts=1)}
    client = in_mode(provider.google(http_options={"base_url": "http://127.0.0.1:9", **retries}), mode)
    with spending() as budget:
        with pytest.raises(Exception, match=r"refused|connect"):
            await generate(client)
        assert budget.calls == 0


async def test_a_request_that_cannot_be_built_costs_nothing(provider: LoopbackProvider, client: Any) -> None:
    with spending() as budget:
        with pytest.raises((ValueError, TypeError)):
            await generate(client, response_schema=object())
        assert budget.calls == 0


async def test_outside_a_scope_nothing_is_counted(provider: LoopbackProvider, client: Any) -> None:
    with spending() as budget:
        pass
    await generate(client)
    await stream(client)
    assert budget.tokens_used == 0
