"""The real Anthropic clients inside a budget scope: every form of a call is charged what the provider billed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import anthropic
import pydantic
import pytest
from anthropic import beta_async_tool, beta_tool
from either import MODES, done, first, items, within
from genai_prices import Usage as PricedUsage
from genai_prices import calc_price
from spending import spending, spent

from actguard.exceptions import BudgetExceededError
from actguard.testing import Answer, Failure, Hang, LoopbackProvider, Reset, ToolCall

MODEL = "claude-sonnet-4-6"
ASK: Any = {"model": MODEL, "max_tokens": 200, "messages": [{"role": "user", "content": "Hello there, how are you?"}]}
CACHED = Answer(
    text="Hi",
    input_tokens=1000,
    cached_input_tokens=600,
    cache_write_5m_tokens=100,
    cache_write_1h_tokens=50,
    output_tokens=30,
    web_searches=3,
)


class City(pydantic.BaseModel):
    name: str


@pytest.fixture(params=MODES)
def client(request: pytest.FixtureRequest, provider: LoopbackProvider) -> Any:
    return provider.anthropic() if request.param == "sync" else provider.async_anthropic()


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


async def create(client: Any) -> None:
    await done(client.messages.create(**ASK))


async def beta_create(client: Any) -> None:
    await done(client.beta.messages.create(**ASK, betas=["token-efficient-tools-2025-02-19"]))


async def parse(client: Any) -> None:
    message = await done(client.messages.parse(**ASK, output_format=City))
    assert isinstance(message.parsed_output, City)


async def create_stream(client: Any) -> None:
    stream = await done(client.messages.create(**ASK, stream=True))
    assert (await items(stream))[-1].type == "message_stop"


async def beta_create_stream(client: Any) -> None:
    await items(await done(client.beta.messages.create(**ASK, stream=True)))


async def stream_helper(client: Any) -> None:
    async with within(client.messages.stream(**ASK)) as stream:
        message = await done(stream.get_final_message())
    assert message.usage.output_tokens


async def text_stream_helper(client: Any) -> None:
    async with within(client.messages.stream(**ASK)) as stream:
        assert "".join(await items(stream.text_stream))


async def beta_stream_helper(client: Any) -> None:
    async with within(client.beta.messages.stream(**ASK)) as stream:
        await items(stream)


async def raw(client: Any) -> None:
    response = await done(client.messages.with_raw_response.create(**ASK))
    assert (await done(response.parse())).content


async def raw_stream(client: Any) -> None:
    response = await done(client.messages.with_raw_response.create(**ASK, stream=True))
    async with within(await done(response.parse())) as stream:
        await items(stream)


async def streaming_response_parsed(client: Any) -> None:
    async with within(client.messages.with_streaming_response.create(**ASK)) as response:
        assert (await done(response.parse())).content


async def streaming_response_of_a_stream(client: Any) -> None:
    async with within(client.messages.with_streaming_response.create(**ASK, stream=True)) as response:
        assert [line for line in await items(response.iter_lines()) if line.startswith("data:")]


async def post_for_a_dict(client: Any) -> None:
    answer = await done(client.post("/v1/messages", body=ASK, cast_to=object))
    assert answer["usage"]


async def post_for_a_response(client: Any) -> None:
    kind: Any = type(client._client.build_request("GET", "http://127.0.0.1")).__module__.partition(".")[0]
    response = await done(client.post("/v1/messages", body=ASK, cast_to=__import__(kind).Response))
    assert response.json()["usage"]


FORMS = [
    create,
    beta_create,
    parse,
    create_stream,
    beta_create_stream,
    stream_helper,
    text_stream_helper,
    beta_stream_helper,
    raw,
    raw_stream,
    streaming_response_parsed,
    streaming_response_of_a_stream,
    post_for_a_dict,
    post_for_a_response,
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
async def test_every_form_of_a_call_is_charged_once_and_exactly(
    provider: LoopbackProvider, client: Any, form: Callable[[Any], Awaitable[None]]
) -> None:
    if form is not parse:
        provider.script(CACHED)
    with spending() as budget:
        await form(client)
        assert_charged_as_billed(budget, provider)
        assert budget.calls == 1


async def test_cache_reads_and_writes_and_searches_have_their_prices(provider: LoopbackProvider, client: Any) -> None:
    provider.script(CACHED, CACHED)
    with spending() as budget:
        await create(client)
        await create_stream(client)
    price = calc_price(
        PricedUsage(
            input_tokens=1000,
            cache_read_tokens=600,
            cache_write_tokens=150,
            cache_write_5m_tokens=100,
            cache_write_1h_tokens=50,
            output_tokens=30,
            web_searches=3,
        ),
        MODEL,
        provider_id="anthropic",
    ).total_price
    assert budget.usd_used_exact == 2 * price


async def test_a_batch_tier_in_the_answer_halves_the_price(provider: LoopbackProvider, client: Any) -> None:
    provider.script(
        Answer(text="a", input_tokens=1000, output_tokens=10),
        Answer(text="a", input_tokens=1000, output_tokens=10, service_tier="batch"),
    )
    with spending() as budget:
        await create(client)
        full = budget.usd_used_exact
        await create(client)
        assert budget.usd_used_exact - full == full / 2


async def test_an_answer_without_usage_is_estimated(provider: LoopbackProvider, client: Any) -> None:
    provider.script(Answer(text="four" * 10, usage=False))
    with spending() as budget:
        await create(client)
        assert spent(budget).output_tokens == 10
        assert spent(budget).input_tokens == -(-len("Hello there, how are you?") // 4)
        assert budget.estimated_usd > 0


async def test_a_usage_block_that_makes_no_sense_does_not_break_the_call(
    provider: LoopbackProvider, client: Any
) -> None:
    nonsense = Answer(text="four" * 10, raw_usage={"input_tokens": "many", "output_tokens": None})
    provider.script(nonsense, nonsense)
    with spending() as budget:
        await create(client)
        await create_stream(client)
        assert spent(budget) == (2, 14, 0, 0, 20)
        assert budget.estimated_usd == budget.usd_used > 0


# --- what the caller gets is the SDK's own ----------------------------------------------------------------------------


async def test_a_stream_is_the_sdks_own_object(provider: LoopbackProvider) -> None:
    with spending():
        stream = provider.anthropic().messages.create(**ASK, stream=True)
        assert isinstance(stream, anthropic.Stream)
        assert next(stream).type == "message_start"
        assert stream.response.status_code == 200
        with stream as entered:
            assert entered is stream
            assert list(stream)[-1].type == "message_stop"


async def test_an_async_stream_is_the_sdks_own_object(provider: LoopbackProvider) -> None:
    with spending():
        stream = await provider.async_anthropic().messages.create(**ASK, stream=True)
        assert isinstance(stream, anthropic.AsyncStream)
        assert (await anext(stream)).type == "message_start"
        async with stream as entered:
            assert entered is stream
            assert [event async for event in stream][-1].type == "message_stop"


async def test_a_raw_response_that_is_not_parsed_is_charged(provider: LoopbackProvider, client: Any) -> None:
    with spending() as budget:
        response = await done(client.messages.with_raw_response.create(**ASK))
        assert response.headers["content-type"].startswith("application/json")
        assert_charged_as_billed(budget, provider)


async def test_messages_may_be_a_generator(provider: LoopbackProvider, client: Any) -> None:
    with spending() as budget:
        await done(client.messages.create(**{**ASK, "messages": (message for message in ASK["messages"])}))
        assert_charged_as_billed(budget, provider)
    assert provider.requests[0].body["messages"] == ASK["messages"]


# --- limits -----------------------------------------------------------------------------------------------------------


async def test_a_full_budget_refuses_before_anything_is_sent(provider: LoopbackProvider, client: Any) -> None:
    provider.script(Answer(text="Hi", input_tokens=60, output_tokens=40))
    with spending(token_limit=100) as budget:
        with pytest.raises(BudgetExceededError):
            await create(client)
        with pytest.raises(BudgetExceededError) as refused:
            await create(client)
        assert refused.value.response is None
    assert len(provider.requests) == 1
    assert budget.tokens_used == 100


async def test_over_budget_what_is_free_still_works(provider: LoopbackProvider, client: Any) -> None:
    with spending(token_limit=1) as budget:
        with pytest.raises(BudgetExceededError):
            await create(client)
        used = budget.tokens_used
        count = await done(client.messages.count_tokens(model=MODEL, messages=ASK["messages"]))
        assert count.input_tokens > 0
        assert (await done(client.models.list())).data
        with pytest.raises(anthropic.NotFoundError):  # the loopback provider has no batches: the request reached it
            await done(client.messages.batches.retrieve("batch_1"))
        assert (budget.tokens_used, budget.calls) == (used, 1)


async def test_the_answer_that_crosses_is_on_the_error(provider: LoopbackProvider, client: Any) -> None:
    provider.script("Paid for.")
    with spending(token_limit=1), pytest.raises(BudgetExceededError) as crossed:
        await create(client)
    assert crossed.value.response.content[0].text == "Paid for."


async def test_the_raw_response_that_crosses_is_on_the_error(provider: LoopbackProvider, client: Any) -> None:
    provider.script("Paid for.")
    with spending(token_limit=1), pytest.raises(BudgetExceededError) as crossed:
        await raw(client)
    assert (await done(crossed.value.response.parse())).content[0].text == "Paid for."


async def test_a_crossing_can_return_the_answer_instead(provider: LoopbackProvider, client: Any) -> None:
    with spending(token_limit=1, on_crossing="return"):
        await create(client)
        with pytest.raises(BudgetExceededError):
            await create(client)


# --- tools ------------------------------------------------------------------------------------------------------------


async def test_a_tool_runner_is_charged_once_per_turn_and_stopped_by_the_budget(provider: LoopbackProvider) -> None:
    @beta_tool
    def look_up(city: str) -> str:
        """Look a city up.

        Args:
            city: its name
        """
        return f"{city} is sunny."

    provider.script(
        Answer(tool_calls=[ToolCall("look_up", {"city": "Oslo"})], input_tokens=10, output_tokens=10),
        Answer(tool_calls=[ToolCall("look_up", {"city": "Rome"})], input_tokens=30, output_tokens=50),
        "never asked",
    )
    runner = provider.anthropic().beta.messages.tool_runner(**ASK, tools=[look_up])
    with spending(token_limit=100) as budget:
        with pytest.raises(BudgetExceededError):
            runner.until_done()
        assert_charged_as_billed(budget, provider)
        assert budget.calls == 2


async def test_a_budget_error_that_a_tool_runner_swallows_comes_back_at_the_next_call(
    provider: LoopbackProvider,
) -> None:
    client = provider.async_anthropic()

    @beta_async_tool
    async def delegate() -> str:
        """Ask a colleague."""
        await create(client)
        return "done"

    provider.script(Answer(tool_calls=[ToolCall("delegate")], input_tokens=10, output_tokens=10))
    runner = client.beta.messages.tool_runner(**ASK, tools=[delegate])
    with spending(token_limit=25), pytest.raises(BudgetExceededError) as refused:
        await runner.until_done()
    assert refused.value.response is None
    assert len(provider.requests) == 2


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 429, 500, 529])
async def test_an_error_answer_costs_nothing(provider: LoopbackProvider, client: Any, status: int) -> None:
    provider.script(Failure(status))
    with spending() as budget:
        with pytest.raises(anthropic.APIStatusError):
            await create(client)
        assert (budget.tokens_used, budget.calls) == (0, 0)


async def test_a_retry_that_succeeds_is_one_call(provider: LoopbackProvider, client: Any) -> None:
    provider.script(Failure(529, retry_after=0.001), "Hello")
    with spending() as budget:
        await create(client.with_options(max_retries=1))
        assert_charged_as_billed(budget, provider)
        assert (budget.calls, len(provider.requests)) == (1, 2)


async def test_a_refused_connection_costs_nothing(client: Any) -> None:
    with spending() as budget:
        with pytest.raises(anthropic.APIConnectionError):
            await create(client.with_options(base_url="http://127.0.0.1:9"))
        assert budget.tokens_used == 0


@pytest.mark.parametrize("reply", [Hang(), Reset()], ids=["timeout", "lost connection"])
async def test_an_answer_that_never_comes_is_charged_as_estimated(
    provider: LoopbackProvider, client: Any, reply: Any
) -> None:
    provider.script(reply)
    with spending() as budget:
        with pytest.raises(anthropic.APIConnectionError):
            await create(client.with_options(timeout=0.05))
        assert budget.calls == 1
        assert budget.tokens_used > 0
        assert Decimal(str(budget.estimated_usd)) == Decimal(str(budget.usd_used)) > 0


async def test_every_attempt_that_timed_out_may_be_on_the_bill(provider: LoopbackProvider, client: Any) -> None:
    provider.script(Hang(), Hang(), Hang())
    with spending() as budget:
        with pytest.raises(anthropic.APITimeoutError):
            await create(client.with_options(timeout=0.05))
        once = budget.usd_used_exact
        with pytest.raises(anthropic.APITimeoutError):
            await create(client.with_options(timeout=0.05, max_retries=1))
        assert budget.usd_used_exact == 3 * once


async def test_a_paid_answer_that_the_sdk_cannot_parse_is_charged(provider: LoopbackProvider, client: Any) -> None:
    provider.script(Answer(text='{"name": 5', input_tokens=11, output_tokens=7))
    with spending() as budget:
        with pytest.raises(pydantic.ValidationError):
            await parse(client)
        assert spent(budget)[1:] == (11, 0, 0, 7)


async def test_outside_a_scope_nothing_is_counted(provider: LoopbackProvider, client: Any) -> None:
    with spending() as budget:
        pass
    await create(client)
    assert await first(await done(client.messages.create(**ASK, stream=True)))
    assert budget.tokens_used == 0
