"""The real Anthropic clients, plain, Bedrock and Vertex, against the loopback provider."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anthropic
import pytest
from botocore.eventstream import EventStreamBuffer

from actguard.testing import Answer, LoopbackProvider, ToolCall
from actguard.testing._eventstream import encode_message

ASK: Any = {"model": "claude-haiku-4-5", "max_tokens": 200, "messages": [{"role": "user", "content": "Hello there"}]}
CACHED = Answer(
    text="Hi",
    input_tokens=100,
    cached_input_tokens=60,
    cache_write_5m_tokens=10,
    cache_write_1h_tokens=5,
    output_tokens=30,
    reasoning_tokens=20,
    web_searches=3,
)
THOUGHTFUL = Answer(text="Sunny.", thinking="Let me think.", tool_calls=[ToolCall("weather", {"city": "Oslo"})])


@pytest.fixture
def client(provider: LoopbackProvider) -> anthropic.Anthropic:
    return provider.anthropic()


def disjoint(usage: Any) -> tuple[int, int, int, int]:
    return (
        usage.input_tokens,
        usage.cache_creation_input_tokens,
        usage.cache_read_input_tokens,
        usage.output_tokens,
    )


def test_message_usage_is_disjoint(provider: LoopbackProvider, client: anthropic.Anthropic) -> None:
    provider.script(CACHED)
    message = client.messages.create(**ASK)
    assert disjoint(message.usage) == (25, 15, 60, 30)
    split = message.usage.cache_creation
    assert split is not None
    assert (split.ephemeral_5m_input_tokens, split.ephemeral_1h_input_tokens) == (10, 5)
    assert message.usage.server_tool_use is not None
    assert message.usage.server_tool_use.web_search_requests == 3
    assert message.stop_reason == "end_turn"
    billed = provider.billed
    assert (billed.input_tokens, billed.cached_input_tokens, billed.cache_write_tokens) == (100, 60, 15)


def test_a_message_streams_its_events_in_order(provider: LoopbackProvider, client: anthropic.Anthropic) -> None:
    provider.script(Answer(text="Hi", chunks=1, input_tokens=100, cached_input_tokens=60, output_tokens=30))
    with client.messages.create(**ASK, stream=True) as stream:
        events = list(stream)
    assert [event.type for event in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    start, end = events[0], events[4]
    assert start.type == "message_start"
    assert end.type == "message_delta"
    assert disjoint(start.message.usage) == (40, 0, 60, 1)
    assert end.usage.output_tokens == 30
    assert "cache_creation" not in end.usage.to_dict()


def test_the_stream_helper_puts_it_all_together(provider: LoopbackProvider, client: anthropic.Anthropic) -> None:
    provider.script(THOUGHTFUL)
    with client.messages.stream(**ASK) as stream:
        assert "".join(stream.text_stream) == "Sunny."
        message = stream.get_final_message()
    thinking, text, tool = message.content
    assert (thinking.type, text.type, tool.type) == ("thinking", "text", "tool_use")
    assert tool.input == {"city": "Oslo"}  # type: ignore[union-attr]
    assert message.stop_reason == "tool_use"
    assert message.usage.output_tokens == provider.billed.output_tokens


def test_a_tool_runner_loops_until_it_is_answered(provider: LoopbackProvider, client: anthropic.Anthropic) -> None:
    asked: list[str] = []

    @anthropic.beta_tool
    def weather(city: str) -> str:
        """The weather of a city."""
        asked.append(city)
        return "sunny"

    provider.script(Answer(tool_calls=[ToolCall("weather", {"city": "Oslo"})]), "Take your sunglasses.")
    final = client.beta.messages.tool_runner(**ASK, tools=[weather]).until_done()
    assert asked == ["Oslo"]
    assert final.content[0].text == "Take your sunglasses."
    first, second = provider.requests
    result = second.body["messages"][-1]["content"][0]
    assert result["type"] == "tool_result"
    assert result["tool_use_id"] == "toolu_000001_0"
    # Newer clients leave the history to the server's memory; it is input all the same.
    assert second.input_tokens > first.input_tokens + first.output_tokens


def test_a_message_keeps_to_its_limit(provider: LoopbackProvider, client: anthropic.Anthropic) -> None:
    provider.script(Answer(generate=1_000), Answer(text="no", finish="content_filter"))
    message = client.messages.create(**ASK)
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 200)
    assert client.messages.create(**ASK).stop_reason == "refusal"


def test_usage_can_be_given_exactly(provider: LoopbackProvider, client: anthropic.Anthropic) -> None:
    raw = {"input_tokens": 7, "output_tokens": 8, "speed": "fast"}
    provider.script(Answer(text="Hi", raw_usage=raw), Answer(text="Hi", raw_usage=raw))
    assert client.messages.create(**ASK).usage.to_dict() == raw
    with client.messages.stream(**ASK) as stream:
        assert stream.get_final_message().usage.output_tokens == 8


def test_a_stream_fails_in_the_middle(provider: LoopbackProvider, client: anthropic.Anthropic) -> None:
    provider.script(Answer(text="half", finish="failed"), Answer(text="half", finish="failed"))
    with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
        client.messages.create(**ASK)
    with client.messages.stream(**ASK) as stream, pytest.raises(anthropic.APIStatusError, match="Overloaded"):
        stream.until_done()
    assert [request.output_tokens for request in provider.requests] == [0, 1]


def test_structured_output_follows_the_schema(client: anthropic.Anthropic) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}, "tags": {"type": "array", "items": {}}}}
    body: Any = {**ASK, "output_config": {"format": {"type": "json_schema", "schema": schema}}}
    message = client.post("/v1/messages", body=body, cast_to=anthropic.types.Message)
    assert message.content[0].text == '{"ok": true, "tags": []}'  # type: ignore[union-attr]


def test_free_operations(provider: LoopbackProvider, client: anthropic.Anthropic) -> None:
    ask = {key: ASK[key] for key in ("model", "messages")}
    assert client.messages.count_tokens(**ask).input_tokens == 4
    assert len(list(client.models.list())) > 0
    assert client.models.retrieve("claude-haiku-4-5").id == "claude-haiku-4-5"
    assert [request.api for request in provider.requests] == ["messages.count_tokens", "models", "models"]
    assert provider.billed.calls == 0


def test_raw_responses(client: anthropic.Anthropic) -> None:
    raw = client.messages.with_raw_response.create(**ASK)
    assert raw.parse().usage.output_tokens == 6


async def test_async_messages(aprovider: LoopbackProvider) -> None:
    async with aprovider.async_anthropic() as client:
        assert (await client.messages.create(**ASK)).usage.output_tokens == 6
        aprovider.script(THOUGHTFUL)
        async with client.messages.stream(**ASK) as stream:
            assert [block.type for block in (await stream.get_final_message()).content][1:] == ["text", "tool_use"]
        aprovider.script(Answer(generate=100, chunks=10, cut_after=2))
        cut = await client.messages.create(**ASK, stream=True)
        with pytest.raises(Exception, match=r"(?i)connection"):  # the SDK's own error or, in older ones, httpx's
            _ = [event async for event in cut]
        await aprovider.wait_for(lambda: aprovider.requests[-1].done)
        assert aprovider.requests[-1].output_tokens == 20


# ---------------------------------------------------------------- Bedrock and Vertex

BEDROCK_MODEL = "us.anthropic.claude-haiku-4-5-20251001-v1:0"
VERTEX_MODEL = "claude-haiku-4-5@20251001"
PLATFORMS: list[Any] = [
    pytest.param(LoopbackProvider.bedrock, BEDROCK_MODEL, id="bedrock"),
    pytest.param(LoopbackProvider.vertex_anthropic, VERTEX_MODEL, id="vertex"),
]


@pytest.mark.parametrize(("make", "model"), PLATFORMS)
def test_other_platforms_serve_the_same_messages(
    provider: LoopbackProvider, make: Callable[[LoopbackProvider], Any], model: str
) -> None:
    client, ask = make(provider), {**ASK, "model": model}
    provider.script(CACHED, THOUGHTFUL)
    message = client.messages.create(**ask)
    assert disjoint(message.usage) == (25, 15, 60, 30)
    assert message.model == "claude-haiku-4-5-20251001"
    with client.messages.stream(**ask) as stream:
        final = stream.get_final_message()
    assert [block.type for block in final.content] == ["thinking", "text", "tool_use"]
    assert final.usage.output_tokens == provider.requests[1].output_tokens
    assert [request.model for request in provider.requests] == [model] * 2
    assert [request.stream for request in provider.requests] == [False, True]
    assert "loopback" not in str([request.headers.get("authorization") for request in provider.requests])


@pytest.mark.parametrize(
    ("make", "model"),
    [
        pytest.param(LoopbackProvider.async_bedrock, BEDROCK_MODEL, id="bedrock"),
        pytest.param(LoopbackProvider.async_vertex_anthropic, VERTEX_MODEL, id="vertex"),
    ],
)
async def test_other_platforms_async(
    aprovider: LoopbackProvider, make: Callable[[LoopbackProvider], Any], model: str
) -> None:
    async with make(aprovider) as client:
        async with client.messages.stream(**{**ASK, "model": model}) as stream:
            assert (await stream.get_final_message()).usage.output_tokens == 6
        assert (await client.messages.create(**{**ASK, "model": model})).usage.output_tokens == 6


def test_vertex_counts_tokens(provider: LoopbackProvider) -> None:
    ask = {"model": VERTEX_MODEL, "messages": ASK["messages"]}
    assert provider.vertex_anthropic().messages.count_tokens(**ask).input_tokens == 4
    assert provider.billed.calls == 0


def test_bedrock_frames_are_what_botocore_reads() -> None:
    buffer = EventStreamBuffer()  # checks both checksums
    buffer.add_data(encode_message({":event-type": "chunk", ":message-type": "event"}, b"payload") * 2)
    messages = list(buffer)
    assert [message.payload for message in messages] == [b"payload"] * 2
    assert messages[0].headers == {":event-type": "chunk", ":message-type": "event"}
