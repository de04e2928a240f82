"""The OpenAI client with servers that do not do all that OpenAI does, and with users who ask for usage themselves."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from either import MODES, done, first, items
from openai_calls import ASK, assert_charged_as_billed, chat_chunks, chat_stream
from spending import spending

from actguard.testing import Failure, LoopbackProvider


@pytest.fixture(params=MODES)
def client(request: pytest.FixtureRequest, provider: LoopbackProvider) -> Any:
    return provider.openai() if request.param == "sync" else provider.async_openai()


async def test_a_server_that_rejects_stream_options_is_asked_again_without_them(
    provider: LoopbackProvider, client: Any
) -> None:
    provider.script(Failure(400, "Unrecognized request argument supplied: stream_options"), "Hello there, my friend")
    with spending() as budget:
        await chat_chunks(client)
        sent = [request.body.get("stream_options") for request in provider.requests]
        assert sent == [{"include_usage": True}, None]

        await chat_chunks(client)
    assert provider.requests[-1].body.get("stream_options") is None
    assert budget.calls == 2
    assert budget.estimated_usd == budget.usd_used > 0


async def test_another_bad_request_is_not_sent_twice(provider: LoopbackProvider, client: Any) -> None:
    provider.script(Failure(400, "No such parameter: top_k"))
    with spending() as budget, pytest.raises(openai.BadRequestError):
        await chat_chunks(client)
    assert len(provider.requests) == 1
    assert budget.calls == 0


async def test_the_users_own_stream_options_are_kept(provider: LoopbackProvider, client: Any) -> None:
    asked = {**ASK, "stream": True, "stream_options": {"include_obfuscation": False}}
    with spending() as budget:
        chunks = await items(await done(client.chat.completions.create(**asked)))

    assert provider.requests[0].body["stream_options"] == {"include_obfuscation": False, "include_usage": True}
    assert asked["stream_options"] == {"include_obfuscation": False}
    assert all(chunk.choices for chunk in chunks)
    assert_charged_as_billed(budget, provider)


async def test_stream_options_in_the_extra_body_do_not_hide_the_usage(provider: LoopbackProvider, client: Any) -> None:
    extra = {"stream_options": {"include_usage": False}, "user": "alice"}
    with spending() as budget:
        assert all(chunk.choices for chunk in await chat_chunks(client, extra_body=extra))

    assert provider.requests[0].body["stream_options"] == {"include_usage": True}
    assert provider.requests[0].body["user"] == "alice"
    assert extra == {"stream_options": {"include_usage": False}, "user": "alice"}
    assert_charged_as_billed(budget, provider)


async def test_who_asks_for_usage_gets_the_usage_chunk(provider: LoopbackProvider, client: Any) -> None:
    with spending() as budget:
        chunks = await chat_chunks(client, stream_options={"include_usage": True})
    assert not chunks[-1].choices
    assert chunks[-1].usage is not None
    assert_charged_as_billed(budget, provider)


async def test_the_first_chunk_of_a_stream_comes_with_the_users_own_types(
    provider: LoopbackProvider, client: Any
) -> None:
    with spending():
        stream = await chat_stream(client)
        assert isinstance(await first(stream), openai.types.chat.ChatCompletionChunk)
        await done(stream.close())
