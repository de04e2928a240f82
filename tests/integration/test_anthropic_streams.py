"""Anthropic's streams inside a budget scope: closed, dropped, cancelled, cut, over the limit, read after the scope."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import anthropic
import anyio
import pytest
from either import MODES, done, first, items, within
from spending import spending, spent

from actguard.client import Client
from actguard.events import LlmUsage
from actguard.exceptions import BudgetExceededError
from actguard.testing import Answer, Gate, LoopbackProvider

MODEL = "claude-sonnet-4-6"
ASK: Any = {"model": MODEL, "max_tokens": 4000, "messages": [{"role": "user", "content": "Hello there, how are you?"}]}


@pytest.fixture(params=MODES)
def client(request: pytest.FixtureRequest, provider: LoopbackProvider) -> Any:
    return provider.anthropic() if request.param == "sync" else provider.async_anthropic()


async def stream_of(client: Any) -> Any:
    return await done(client.messages.create(**ASK, stream=True))


async def raw_stream_of(client: Any) -> Any:
    response = await done(client.messages.with_raw_response.create(**ASK, stream=True))
    return await done(response.parse())


async def until_text(stream: Any, pieces: int = 1) -> str:
    """Read a stream up to its ``pieces``-th piece of text."""
    text = ""
    while pieces:
        event = await first(stream)
        if event.type == "content_block_delta":
            text += event.delta.text
            pieces -= 1
    return text


def assert_estimated(budget: Any, input_tokens: int, output_tokens: int) -> None:
    assert spent(budget) == (1, input_tokens, 0, 0, output_tokens)
    assert budget.estimated_usd == budget.usd_used > 0


@pytest.fixture
def held(provider: LoopbackProvider) -> Gate:
    """The next answer is held back after two pieces of four, each of one token."""
    gate = Gate()
    provider.script(Answer(generate=4, chunks=4, input_tokens=50, gate=gate, gate_after=2))
    return gate


STREAMS = pytest.mark.parametrize("open_stream", [stream_of, raw_stream_of], ids=["stream", "raw response"])


@STREAMS
async def test_a_closed_stream_has_exact_input_and_estimated_output(
    provider: LoopbackProvider, client: Any, held: Gate, open_stream: Callable[[Any], Awaitable[Any]]
) -> None:
    with spending() as budget:
        stream = await open_stream(client)
        await until_text(stream, 2)
        await done(stream.close())
        assert_estimated(budget, 50, 2)
        await provider.wait_for(lambda: provider.requests[0].disconnected)


@STREAMS
async def test_leaving_the_with_block_closes_the_stream(
    client: Any, held: Gate, open_stream: Callable[[Any], Awaitable[Any]]
) -> None:
    with spending() as budget:
        async with within(await open_stream(client)) as stream:
            await until_text(stream, 2)
        assert_estimated(budget, 50, 2)


async def test_a_helper_that_is_left_early_is_charged(client: Any, held: Gate) -> None:
    with spending() as budget:
        async with within(client.messages.stream(**ASK)) as stream:
            text = ""
            while len(text) < 8:
                event = await first(stream)
                text += event.text if event.type == "text" else ""
        assert_estimated(budget, 50, 2)


@STREAMS
async def test_a_dropped_stream_is_charged_at_once(
    client: Any, held: Gate, open_stream: Callable[[Any], Awaitable[Any]]
) -> None:
    gc.disable()
    try:
        with spending() as budget:
            stream = await open_stream(client)
            await until_text(stream)
            del stream
            if open_stream is raw_stream_of:  # the SDK's own stream: older versions have a cycle there
                gc.collect()
                await anyio.wait_all_tasks_blocked()  # the event loop closes the async generators in it
            assert_estimated(budget, 50, 1)
    finally:
        gc.enable()


async def test_a_stream_that_nobody_reads_is_charged_for_its_input(client: Any, held: Gate) -> None:
    with spending() as budget:
        stream = await stream_of(client)
        await done(stream.close())
        assert spent(budget)[:2] == (1, -(-len("Hello there, how are you?") // 4))
        assert budget.estimated_usd > 0


async def test_a_stream_open_at_the_end_of_the_scope_is_charged_and_corrected_when_read_later(
    provider: LoopbackProvider, client: Any, held: Gate
) -> None:
    with spending() as budget:
        stream = await stream_of(client)
        await until_text(stream, 2)
    assert_estimated(budget, 50, 2)
    with spending() as another:
        held.open()
        await items(stream)
    assert spent(budget) == (1, 50, 0, 0, 4)
    assert budget.estimated_usd == 0
    assert another.calls == 0


async def test_a_stream_read_after_an_inner_scope_belongs_to_that_scope(client: Any) -> None:
    with Client() as guard, guard.run(), guard.budget_guard(usd_limit=1) as outer:
        with guard.budget_guard(usd_limit=1) as inner:
            stream = await stream_of(client)
        with guard.budget_guard(usd_limit=1) as later:
            await items(stream)
    assert (inner.calls, later.calls, outer.calls) == (1, 0, 1)
    assert inner.estimated_usd == 0


async def test_a_cut_connection_is_charged_for_what_arrived(provider: LoopbackProvider, client: Any) -> None:
    provider.script(Answer(generate=40, chunks=4, input_tokens=50, cut_after=2))
    with spending() as budget:
        with pytest.raises((anthropic.APIConnectionError, Exception)) as lost:
            await items(await stream_of(client))
        assert not isinstance(lost.value, BudgetExceededError)
        assert_estimated(budget, 50, 20)


async def test_an_error_event_is_charged_for_what_arrived(provider: LoopbackProvider, client: Any) -> None:
    provider.script(Answer(generate=40, chunks=4, input_tokens=50, finish="failed"))
    with spending() as budget:
        with pytest.raises(anthropic.APIStatusError):
            await items(await stream_of(client))
        assert_estimated(budget, 50, 40)


@pytest.mark.usefixtures("held")
async def test_a_cancelled_reader_is_charged_for_what_arrived(provider: LoopbackProvider) -> None:
    client, begun = provider.async_anthropic(), asyncio.Event()

    async def read() -> None:
        async for event in await stream_of(client):
            if event.type == "content_block_delta":
                begun.set()

    with spending() as budget:
        task = asyncio.create_task(read())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert spent(budget)[:2] == (1, 50)
        assert budget.estimated_usd > 0


async def test_a_cancelled_call_is_charged_as_estimated(provider: LoopbackProvider) -> None:
    client, gate = provider.async_anthropic(), Gate()
    provider.script(Answer(gate=gate))
    with spending() as budget:
        task = asyncio.create_task(client.messages.create(**ASK))
        await provider.wait_for(lambda: gate.held == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert budget.calls == 1
        assert budget.estimated_usd > 0


async def test_chunks_are_not_held_back_for_the_metering(client: Any, held: Gate, provider: LoopbackProvider) -> None:
    with spending():
        async with within(client.messages.with_streaming_response.create(**ASK, stream=True)) as response:
            lines = response.iter_lines()
            while "text_delta" not in await first(lines):
                pass
            await provider.wait_for(lambda: held.held == 1)  # the rest has not been sent yet
            held.open()
            assert any("message_stop" in line for line in await items(lines))


async def test_one_usage_event_per_stream_however_it_ends(client: Any, held: Gate) -> None:
    with Client() as guard:
        async with guard.bus.subscribe(LlmUsage) as events:
            with guard.run(), guard.budget_guard(usd_limit=1):
                stream = await stream_of(client)
                await until_text(stream)
                await done(stream.close())
                await done(stream.close())
                del stream
                await items(await stream_of(client))
            seen = [await anext(aiter(events)) for _ in range(2)]
    assert [event.estimated for event in seen] == [True, False]


# --- limits -----------------------------------------------------------------------------------------------------------


@STREAMS
async def test_a_stream_that_reaches_the_limit_is_closed_and_what_arrived_is_delivered(
    provider: LoopbackProvider, client: Any, open_stream: Callable[[Any], Awaitable[Any]]
) -> None:
    gate = Gate()
    provider.script(Answer(generate=2000, chunks=200, input_tokens=50, gate=gate, gate_after=20))
    received = ""
    with spending(token_limit=100) as budget:
        stream = await open_stream(client)
        with pytest.raises(BudgetExceededError) as reached:
            while True:
                received += await until_text(stream)
        await provider.wait_for(lambda: provider.requests[0].disconnected)
        assert reached.value.partial == received
        assert len(received) >= 4 * 50
        assert provider.requests[0].output_tokens <= 200
        assert budget.tokens_used >= 100
        assert budget.estimated_usd > 0


async def test_a_helper_that_reaches_the_limit_says_so(provider: LoopbackProvider, client: Any) -> None:
    provider.script(Answer(generate=400, chunks=40, input_tokens=50))
    with spending(token_limit=100):
        async with within(client.messages.stream(**ASK)) as stream:
            with pytest.raises(BudgetExceededError) as reached:
                await done(stream.get_final_message())
    assert reached.value.partial


async def test_a_stream_that_ends_exactly_over_the_limit_delivers_everything_first(
    provider: LoopbackProvider, client: Any
) -> None:
    provider.script(Answer(generate=10, chunks=2, input_tokens=5000, output_tokens=10))
    with spending(token_limit=5005):
        stream = await stream_of(client)
        kinds = []
        with pytest.raises(BudgetExceededError) as crossed:
            while True:
                kinds.append((await first(stream)).type)
    assert kinds[-1] in ("message_stop", "content_block_delta")
    assert crossed.value.partial


async def test_a_stream_over_the_limit_may_just_end_instead(provider: LoopbackProvider, client: Any) -> None:
    gate = Gate()
    provider.script(Answer(generate=2000, chunks=200, input_tokens=50, gate=gate, gate_after=20))
    with spending(token_limit=100, on_crossing="return") as budget:
        assert (await items(await stream_of(client)))[-1].type == "content_block_delta"
        await provider.wait_for(lambda: provider.requests[0].disconnected)
        assert provider.requests[0].output_tokens <= 200
        assert 100 <= budget.tokens_used <= 250
        with pytest.raises(BudgetExceededError):
            await stream_of(client)


def test_streams_are_metered_under_trio() -> None:
    async def main() -> None:
        async with LoopbackProvider() as provider:
            provider.script(Answer(generate=4, input_tokens=50), Answer(generate=400, chunks=40, input_tokens=50))
            client = provider.async_anthropic()
            with spending(token_limit=100) as budget:
                await items(await stream_of(client))
                assert spent(budget) == (1, 50, 0, 0, 4)
                with pytest.raises(BudgetExceededError) as reached:
                    await items(await stream_of(client))
                assert reached.value.partial

    anyio.run(main, backend="trio")
