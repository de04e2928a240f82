"""OpenAI's streams inside a budget scope: the SDK's own objects, charged exactly once however they end."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import trio
from either import MODES, done, first, items, within
from openai_calls import ASK, ASK_RESPONSES, BACKGROUND, assert_charged_as_billed, chat_chunks, chat_stream, helpers
from spending import spending, spent

from actguard.client import Client
from actguard.exceptions import BudgetExceededError
from actguard.testing import Answer, Gate, LoopbackProvider, ToolCall

LONG = Answer(text="word " * 200, chunks=50, input_tokens=400)


@pytest.fixture(params=MODES)
def client(request: pytest.FixtureRequest, provider: LoopbackProvider) -> Any:
    return provider.openai() if request.param == "sync" else provider.async_openai()


@pytest.fixture
def without_collector() -> Iterator[None]:
    """What is freed in here is freed by its reference count."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def content(chunks: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


async def read_into(chunks: list[Any], stream: Any) -> None:
    """Read ``stream`` until it raises."""
    while True:
        chunks.append(await first(stream))


def assert_estimated(budget: Any, *, output_at_least: int = 0) -> None:
    [row] = budget.breakdown()
    assert row.estimated
    assert row.calls == 1
    assert row.input_tokens > 0
    assert row.output_tokens >= output_at_least


# --- the SDK's own object


async def test_a_stream_is_the_sdks_own_object(provider: LoopbackProvider, client: Any) -> None:
    with spending():
        stream = await chat_stream(client)
        kind = openai.Stream if isinstance(client, openai.OpenAI) else openai.AsyncStream
        assert type(stream) is kind
        assert stream.response.status_code == 200
        assert (await first(stream)).object == "chat.completion.chunk"
        await done(stream.close())
        assert stream.response.is_closed


async def test_a_stream_is_a_context_manager(provider: LoopbackProvider, client: Any) -> None:
    with spending() as budget:
        async with within(await chat_stream(client)) as stream:
            assert content(await items(stream))
    assert_charged_as_billed(budget, provider)


async def test_a_stream_is_read_piece_by_piece_in_several_ways(provider: LoopbackProvider, client: Any) -> None:
    provider.script(LONG)
    with spending() as budget:
        stream = await chat_stream(client)
        chunks = [await first(stream), await first(stream)]
        chunks += await items(stream)
    assert content(chunks) == LONG.text
    assert_charged_as_billed(budget, provider)


async def test_nothing_is_read_ahead(provider: LoopbackProvider, client: Any) -> None:
    gate = Gate()
    provider.script(Answer(text="word " * 40, chunks=10, gate=gate, gate_after=2))
    with spending() as budget:
        stream = await chat_stream(client)
        early = [await first(stream) for _ in range(3)]  # the role, and the two pieces before the gate
        assert content(early)
        gate.open()
        assert content(early + await items(stream)) == "word " * 40
    assert_charged_as_billed(budget, provider)


async def test_tool_calls_in_a_stream_arrive_and_are_charged(provider: LoopbackProvider, client: Any) -> None:
    provider.script(Answer(tool_calls=[ToolCall("get_weather", {"city": "Oslo"})]))
    with spending() as budget:
        async with within(helpers(client).stream(**ASK)) as stream:
            await items(stream)
            completion = await done(stream.get_final_completion())
    assert completion.choices[0].message.tool_calls[0].function.arguments == '{"city": "Oslo"}'
    assert_charged_as_billed(budget, provider)


# --- streams that do not reach their end


async def test_a_stream_that_is_closed_early_is_estimated(provider: LoopbackProvider, client: Any) -> None:
    provider.script(LONG)
    with spending() as budget:
        stream = await chat_stream(client)
        for _ in range(10):
            await first(stream)
        await done(stream.close())
        assert_estimated(budget, output_at_least=20)
        await done(stream.close())
        assert budget.calls == 1


async def test_a_stream_whose_response_is_closed_is_estimated(provider: LoopbackProvider, client: Any) -> None:
    provider.script(LONG)
    with spending() as budget:
        stream = await chat_stream(client)
        await first(stream)
        await done(stream.response.close() if isinstance(client, openai.OpenAI) else stream.response.aclose())
        assert_estimated(budget)


async def test_a_helper_that_is_left_early_is_estimated(provider: LoopbackProvider, client: Any) -> None:
    provider.script(LONG)
    with spending() as budget:
        async with within(helpers(client).stream(**ASK)) as stream:
            await first(stream)
        assert_estimated(budget)


@pytest.mark.usefixtures("without_collector")
def test_a_dropped_stream_is_estimated_at_once(provider: LoopbackProvider) -> None:
    provider.script(LONG)
    with spending() as budget:
        stream = provider.openai().chat.completions.create(**ASK, stream=True)
        for _ in range(10):
            next(stream)
        del stream
        assert_estimated(budget, output_at_least=20)


@pytest.mark.usefixtures("without_collector")
async def test_a_dropped_async_stream_is_estimated_at_once(provider: LoopbackProvider) -> None:
    provider.script(LONG)
    with spending() as budget:
        stream = await provider.async_openai().chat.completions.create(**ASK, stream=True)
        for _ in range(10):
            await anext(stream)
        del stream
        assert_estimated(budget, output_at_least=20)


@pytest.mark.usefixtures("without_collector")
def test_a_stream_that_is_dropped_unread_is_estimated_at_once(provider: LoopbackProvider) -> None:
    with spending() as budget:
        provider.openai().chat.completions.create(**ASK, stream=True)
        assert_estimated(budget)


async def test_a_stream_that_is_still_open_at_scope_exit_is_estimated_and_corrected_later(
    provider: LoopbackProvider, client: Any
) -> None:
    provider.script(LONG)
    with spending() as budget:
        stream = await chat_stream(client)
        for _ in range(10):
            await first(stream)
    assert_estimated(budget, output_at_least=20)
    await items(stream)
    assert_charged_as_billed(budget, provider)


async def test_a_cut_stream_raises_the_sdks_error_and_is_estimated(provider: LoopbackProvider, client: Any) -> None:
    provider.script(Answer(text="word " * 40, chunks=10, cut_after=5))
    chunks = []
    with spending() as budget:
        stream = await chat_stream(client)
        with pytest.raises(Exception, match=r"(?i)connection|peer|incomplete"):
            await read_into(chunks, stream)
        assert_estimated(budget, output_at_least=15)
    assert len(content(chunks)) >= 60


async def test_an_error_event_raises_the_sdks_error_and_is_estimated(provider: LoopbackProvider, client: Any) -> None:
    provider.script(Answer(text="word " * 40, finish="failed"))
    with spending() as budget:
        stream = await chat_stream(client)
        with pytest.raises(openai.APIError):
            await items(stream)
        assert_estimated(budget, output_at_least=1)


async def test_a_cancelled_read_is_estimated(provider: LoopbackProvider) -> None:
    gate = Gate()
    provider.script(Answer(text="word " * 40, chunks=10, gate=gate, gate_after=2))
    with spending() as budget:
        stream = await provider.async_openai().chat.completions.create(**ASK, stream=True)
        reading = asyncio.create_task(items(stream))
        await provider.wait_for(lambda: gate.held == 1)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert_estimated(budget)
    gate.open()


def test_a_read_that_trio_cancels_is_estimated(provider: LoopbackProvider) -> None:
    gate = Gate()
    provider.script(Answer(text="word " * 40, chunks=10, gate=gate, gate_after=2))

    async def read_and_give_up() -> None:
        async with provider.async_openai() as client:
            stream = await client.chat.completions.create(**ASK, stream=True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(items, stream)
                await trio.to_thread.run_sync(provider.wait_for_sync, lambda: gate.held == 1)
                nursery.cancel_scope.cancel()

    with spending() as budget:
        trio.run(read_and_give_up)
        assert_estimated(budget)
    gate.open()


# --- whose budget it is


async def test_a_stream_is_charged_to_the_scope_it_was_asked_in(provider: LoopbackProvider, client: Any) -> None:
    with Client() as guard, guard.run(), guard.budget_guard(name="outer", usd_limit=1) as outer:
        stream = await chat_stream(client)
        with guard.budget_guard(name="inner", usd_limit=1) as inner:
            await items(stream)
    assert inner.calls == 0
    assert_charged_as_billed(outer, provider)


async def test_a_stream_that_is_read_after_its_scope_is_charged_to_it(provider: LoopbackProvider, client: Any) -> None:
    with spending() as budget:
        stream = await chat_stream(client)
    await items(stream)
    assert_charged_as_billed(budget, provider)


async def test_a_stream_that_is_read_in_another_run_is_charged_to_its_own(
    provider: LoopbackProvider, client: Any
) -> None:
    with spending() as budget:
        stream = await chat_stream(client)
    with spending() as another:
        await items(stream)
    assert another.calls == 0
    assert_charged_as_billed(budget, provider)


def test_a_stream_that_is_read_in_a_thread_without_context_is_charged_to_its_scope(provider: LoopbackProvider) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with spending() as budget:
        stream = provider.openai().chat.completions.create(**ASK, stream=True)
        with ThreadPoolExecutor() as pool:
            pool.submit(list, stream).result()
    assert_charged_as_billed(budget, provider)


async def test_a_hundred_streams_at_once_are_each_charged_once(provider: LoopbackProvider) -> None:
    client = provider.async_openai()
    with spending() as budget:
        await asyncio.gather(*(chat_chunks(client) for _ in range(100)))
    assert budget.calls == 100
    assert_charged_as_billed(budget, provider)


# --- limits


async def test_a_stream_that_crosses_is_closed_and_its_text_is_on_the_error(
    provider: LoopbackProvider, client: Any
) -> None:
    provider.script(Answer(generate=5_000, chunk_delay=0.002))
    chunks = []
    with spending(token_limit=200) as budget:
        stream = await chat_stream(client)
        with pytest.raises(BudgetExceededError) as crossing:
            await read_into(chunks, stream)
    await provider.wait_for(lambda: provider.requests[0].done)

    assert provider.requests[0].disconnected
    assert provider.billed.output_tokens <= 400
    assert crossing.value.partial == content(chunks) != ""
    assert crossing.value.response is stream
    assert_estimated(budget, output_at_least=150)
    assert budget.calls == 1


async def test_everything_that_arrived_is_delivered_before_the_crossing(
    provider: LoopbackProvider, client: Any
) -> None:
    gate = Gate()
    provider.script(Answer(text="word " * 400, chunks=40, gate=gate, gate_after=30))
    chunks = []
    with spending(token_limit=20):
        stream = await chat_stream(client)
        with pytest.raises(BudgetExceededError) as crossing:
            await read_into(chunks, stream)
    gate.open()
    assert content(chunks) == crossing.value.partial
    assert "word " * 400 != crossing.value.partial != ""


async def test_a_stream_that_crosses_with_its_last_chunk_is_delivered_whole(
    provider: LoopbackProvider, client: Any
) -> None:
    provider.script(Answer(text="Forty-two", input_tokens=5_000))
    chunks = []
    with spending(token_limit=1_000) as budget:
        stream = await chat_stream(client)
        with pytest.raises(BudgetExceededError) as crossing:
            await read_into(chunks, stream)
    assert content(chunks) == crossing.value.partial == "Forty-two"
    assert crossing.value.response is stream
    assert_charged_as_billed(budget, provider)


async def test_a_crossing_is_raised_once(provider: LoopbackProvider, client: Any) -> None:
    provider.script(Answer(text="Forty-two", input_tokens=5_000))
    with spending(token_limit=1_000):
        stream = await chat_stream(client)
        with pytest.raises(BudgetExceededError):
            await items(stream)
        assert await items(stream) == []


async def test_a_crossing_reaches_who_reads_through_a_helper(provider: LoopbackProvider, client: Any) -> None:
    provider.script(Answer(text="Forty-two", input_tokens=5_000))
    with spending(token_limit=1_000), pytest.raises(BudgetExceededError) as crossing:
        async with within(helpers(client).stream(**ASK)) as stream:
            await items(stream)
    assert crossing.value.partial == "Forty-two"


async def test_on_crossing_return_cuts_a_stream_which_then_just_ends(provider: LoopbackProvider, client: Any) -> None:
    gate = Gate()
    provider.script(Answer(text="word " * 400, chunks=40, gate=gate, gate_after=30))
    with spending(token_limit=100, on_crossing="return") as budget:
        stream = await chat_stream(client)
        received = content(await items(stream))
        await provider.wait_for(lambda: provider.requests[0].disconnected)
        assert "word " * 50 < received < "word " * 400
        assert await items(stream) == []
        assert budget.tokens_used >= 100
        with pytest.raises(BudgetExceededError):
            await chat_stream(client)
    assert len(provider.requests) == 1


async def test_on_crossing_return_cuts_a_stream_read_as_lines(provider: LoopbackProvider, client: Any) -> None:
    gate = Gate()
    provider.script(Answer(text="word " * 400, chunks=40, gate=gate, gate_after=30))
    with spending(token_limit=100, on_crossing="return"):
        raw = client.chat.completions.with_streaming_response.create(**ASK, stream=True)
        async with within(raw) as response:
            lines = await items(response.iter_lines())
        await provider.wait_for(lambda: provider.requests[0].disconnected)
    assert 10 < sum(line.startswith("data:") for line in lines) <= 31


# --- the Responses API


@pytest.mark.parametrize(
    ("finish", "last_event"),
    [("length", "response.incomplete"), ("failed", "response.failed")],
    ids=["incomplete", "failed"],
)
async def test_a_response_that_ends_otherwise_is_charged(
    provider: LoopbackProvider, client: Any, finish: Any, last_event: str
) -> None:
    provider.script(Answer(text="Forty-", finish=finish, input_tokens=100, output_tokens=10))
    with spending() as budget:
        events = await items(await done(client.responses.create(**ASK_RESPONSES, stream=True)))
    assert events[-1].type == last_event
    assert spent(budget)[:2] == (1, 100)
    assert budget.estimated_usd == 0


async def test_an_abandoned_response_is_corrected_when_it_is_fetched(provider: LoopbackProvider, client: Any) -> None:
    provider.script(LONG)
    with spending() as budget:
        stream = await done(client.responses.create(**ASK_RESPONSES, stream=True, extra_body=BACKGROUND))
        created = (await first(stream)).response
        await done(stream.close())
        assert_estimated(budget)
        answer_id = created["id"] if isinstance(created, dict) else created.id  # a dict in older SDKs
        while (await done(client.responses.retrieve(answer_id))).status != "completed":
            pass
    [row] = budget.breakdown()
    assert not row.estimated
    assert row.calls == 1


# --- bodies that are read by the caller


async def test_an_unread_stream_is_not_buffered(provider: LoopbackProvider, client: Any) -> None:
    gate = Gate()
    provider.script(Answer(text="word " * 40, chunks=10, gate=gate, gate_after=2))
    asked = {**ASK, "stream": True, "stream_options": {"include_usage": True}}
    with spending() as budget:
        async with within(client.chat.completions.with_streaming_response.create(**asked)) as response:
            lines = aiter_or_iter(response.iter_lines())
            assert (await first(lines)).startswith("data:")
            gate.open()
            await items(lines)
    assert_charged_as_billed(budget, provider)


def aiter_or_iter(lines: Any) -> Any:
    return aiter(lines) if hasattr(lines, "__aiter__") else iter(lines)


async def test_a_raw_stream_without_usage_is_estimated(provider: LoopbackProvider, client: Any) -> None:
    provider.script(LONG)
    with spending() as budget:
        response = await done(client.chat.completions.with_raw_response.create(**ASK, stream=True))
        assert content(await items(response.parse())) == LONG.text
    assert "stream_options" not in provider.requests[0].body
    assert_estimated(budget, output_at_least=200)


async def test_an_unread_body_that_is_closed_is_estimated(provider: LoopbackProvider, client: Any) -> None:
    with spending() as budget:
        async with within(client.chat.completions.with_streaming_response.create(**ASK)):
            pass
        assert_estimated(budget)


async def test_a_raw_stream_that_is_left_early_is_estimated(provider: LoopbackProvider, client: Any) -> None:
    provider.script(LONG)
    with spending() as budget:
        response = await done(client.chat.completions.with_raw_response.create(**ASK, stream=True))
        stream = response.parse()
        for _ in range(10):
            await first(stream)
        await done(stream.close())
        assert_estimated(budget, output_at_least=20)


async def test_a_raw_stream_that_crosses_is_closed(provider: LoopbackProvider, client: Any) -> None:
    provider.script(Answer(generate=5_000, chunk_delay=0.002))
    with spending(token_limit=200) as budget:
        response = await done(client.chat.completions.with_raw_response.create(**ASK, stream=True))
        with pytest.raises(BudgetExceededError) as crossing:
            await items(response.parse())
    await provider.wait_for(lambda: provider.requests[0].done)
    assert provider.requests[0].disconnected
    assert provider.billed.output_tokens <= 400
    assert crossing.value.partial
    assert crossing.value.response is response
    assert_estimated(budget, output_at_least=150)
