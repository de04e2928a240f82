"""Honest billing: what was generated is what is on the invoice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import openai
import pytest

from actguard.testing import Answer, Gate, Hang, LoopbackProvider

ASK: Any = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello there"}]}


async def leave(provider: LoopbackProvider, when: Callable[[], object], stream: bool = False) -> None:
    """Call and give up as soon as ``when()`` is true, then wait until the provider has noticed."""
    async with provider.async_openai() as client:

        async def call() -> None:
            answer = await client.chat.completions.create(**ASK, stream=stream)
            if isinstance(answer, openai.AsyncStream):
                async with answer:
                    _ = [chunk async for chunk in answer]

        calling = asyncio.create_task(call())
        await provider.wait_for(when)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        await provider.wait_for(lambda: provider.requests[0].done)


@pytest.mark.parametrize(("limit", "tokens", "finish"), [(40, 40, "length"), (1_000, 300, "stop"), (None, 300, "stop")])
def test_a_generation_keeps_to_the_requests_limit(
    provider: LoopbackProvider, limit: int | None, tokens: int, finish: str
) -> None:
    provider.script(Answer(generate=300))
    limits: Any = {} if limit is None else {"max_completion_tokens": limit}
    answer = provider.openai().chat.completions.create(**ASK, **limits)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == tokens
    assert len(answer.choices[0].message.content or "") == 4 * tokens
    assert answer.choices[0].finish_reason == finish


def test_reasoning_takes_its_part_of_the_limit(provider: LoopbackProvider) -> None:
    provider.script(Answer(generate=300, reasoning_tokens=30))
    answer = provider.openai().chat.completions.create(**ASK, max_completion_tokens=40)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 40
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == 30
    assert answer.choices[0].message.content == "the cat sat and saw one big red fox run "


def test_each_choice_is_generated_and_billed(provider: LoopbackProvider) -> None:
    provider.script(Answer(generate=300))
    answer = provider.openai().chat.completions.create(**ASK, max_completion_tokens=10, n=3)
    assert [len(choice.message.content or "") for choice in answer.choices] == [40, 40, 40]
    assert provider.billed.output_tokens == 30


async def test_a_stream_is_billed_up_to_where_its_client_left(aprovider: LoopbackProvider) -> None:
    gate = Gate()
    aprovider.script(Answer(generate=1_000, chunks=100, gate=gate, gate_after=7))
    async with aprovider.async_openai() as client:
        stream = await client.chat.completions.create(**ASK, stream=True)
        text = ""
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            if len(text) == 280:
                break
        assert await aprovider.wait_for(lambda: gate.held) == 1
        assert not aprovider.requests[0].done
        await stream.close()
        await aprovider.wait_for(lambda: aprovider.requests[0].done)
    (request,) = aprovider.requests
    assert (request.disconnected, request.completed, request.output_tokens) == (True, False, 70)
    assert gate.held == 0


async def test_a_plain_answer_is_billed_although_its_client_left(aprovider: LoopbackProvider) -> None:
    gate = Gate()
    aprovider.script(Answer(text="too late", input_tokens=11, output_tokens=22, gate=gate))
    await leave(aprovider, lambda: gate.held == 1)
    (request,) = aprovider.requests
    assert (request.disconnected, request.status) == (True, None)
    assert (aprovider.billed.input_tokens, aprovider.billed.output_tokens) == (11, 22)


async def test_a_stream_that_nobody_waits_for_costs_nothing(aprovider: LoopbackProvider) -> None:
    aprovider.script(Answer(generate=100, delay=600))
    await leave(aprovider, lambda: bool(aprovider.requests), stream=True)
    (request,) = aprovider.requests
    assert (request.disconnected, request.billed, request.status) == (True, False, None)


async def test_between_two_pieces_nothing_is_generated(aprovider: LoopbackProvider) -> None:
    aprovider.script(Answer(generate=100, chunks=4, chunk_delay=600))
    await leave(aprovider, lambda: aprovider.requests and aprovider.requests[0].output_tokens, stream=True)
    (request,) = aprovider.requests
    assert (request.disconnected, request.output_tokens) == (True, 25)


def test_pieces_join_to_the_text_and_keep_tokens_whole(provider: LoopbackProvider) -> None:
    client = provider.openai()
    for text, chunks, expected in (("x" * 40, 5, [8] * 5), ("héllo wörld", 3, None), ("abc", 10, [1, 1, 1])):
        provider.script(Answer(text=text, chunks=chunks))
        stream = client.chat.completions.create(**ASK, stream=True)
        pieces = [piece for chunk in stream if (piece := chunk.choices[0].delta.content)]
        assert "".join(pieces) == text
        assert len(pieces) <= chunks
        if expected is not None:
            assert [len(piece) for piece in pieces] == expected


async def test_hang_never_answers(aprovider: LoopbackProvider) -> None:
    aprovider.script(Hang())
    await leave(aprovider, lambda: bool(aprovider.requests))
    assert aprovider.requests[0].disconnected
    assert aprovider.billed.calls == 0
