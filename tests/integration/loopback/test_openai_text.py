"""Chat completions and responses, through the real OpenAI clients."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from pydantic import BaseModel

from actguard.testing import Answer, LoopbackProvider, ToolCall

ASK: Any = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello there"}]}
USAGE = Answer(
    text="Hi", input_tokens=100, cached_input_tokens=60, cache_write_5m_tokens=10, output_tokens=30, reasoning_tokens=20
)
TWO_CALLS = Answer(
    text="Let me see.", tool_calls=[ToolCall("weather", {"city": "Oslo"}), ToolCall("time", {"zone": "CET"}, id="mine")]
)


class Pair(BaseModel):
    name: str
    size: int


@pytest.fixture
def client(provider: LoopbackProvider) -> openai.OpenAI:
    return provider.openai()


def test_chat_usage_includes_its_parts(provider: LoopbackProvider, client: openai.OpenAI) -> None:
    provider.script(USAGE)
    answer = client.chat.completions.create(**ASK)
    usage = answer.usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (100, 30, 130)
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 60
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens == 20
    assert (answer.model, answer.choices[0].finish_reason) == ("gpt-4o-mini", "stop")
    request = provider.requests[0]
    assert (request.input_tokens, request.cached_input_tokens, request.cache_write_tokens) == (100, 60, 10)


def test_chat_calls_tools_side_by_side(provider: LoopbackProvider, client: openai.OpenAI) -> None:
    provider.script(TWO_CALLS)
    choice = client.chat.completions.create(**ASK).choices[0]
    calls: Any = choice.message.tool_calls
    assert [(call.function.name, call.function.arguments) for call in calls] == [
        ("weather", '{"city": "Oslo"}'),
        ("time", '{"zone": "CET"}'),
    ]
    assert calls[0].id != calls[1].id == "mine"
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me see.")


@pytest.mark.parametrize(("options", "usages"), [({}, 0), ({"stream_options": {"include_usage": True}}, 1)])
def test_chat_streams_usage_only_when_asked(
    provider: LoopbackProvider, client: openai.OpenAI, options: Any, usages: int
) -> None:
    provider.script(USAGE)
    chunks = list(client.chat.completions.create(**ASK, stream=True, **options))
    assert sum(chunk.usage is not None for chunk in chunks) == usages
    assert sum(not chunk.choices for chunk in chunks) == usages
    last = chunks[-1].usage
    assert last is None or (last.prompt_tokens, last.completion_tokens) == (100, 30)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hi"


def test_the_chat_stream_helper_puts_it_all_together(provider: LoopbackProvider, client: openai.OpenAI) -> None:
    provider.script(TWO_CALLS)
    with client.beta.chat.completions.stream(**ASK, stream_options={"include_usage": True}) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done", "tool_calls.function.arguments.done"} <= kinds
    message = final.choices[0].message
    assert message.content == "Let me see."
    assert [call.function.name for call in message.tool_calls or []] == ["weather", "time"]
    assert final.usage is not None
    assert final.usage.completion_tokens == provider.billed.output_tokens


def test_chat_gives_several_choices(provider: LoopbackProvider, client: openai.OpenAI) -> None:
    provider.script(Answer(text="one two three"))
    assert [choice.index for choice in client.chat.completions.create(**ASK, n=2).choices] == [0, 1]
    provider.script(Answer(text="one two three", chunks=2))
    texts = ["", ""]
    for chunk in client.chat.completions.create(**ASK, n=2, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == ["one two three"] * 2
    assert [request.output_tokens for request in provider.requests] == [8, 8]


def test_chat_parses_structured_output_with_and_without_a_script(
    provider: LoopbackProvider, client: openai.OpenAI
) -> None:
    unscripted = client.beta.chat.completions.parse(**ASK, response_format=Pair)
    assert unscripted.choices[0].message.parsed == Pair(name="text", size=0)
    provider.script('{"name": "box", "size": 3}')
    scripted = client.beta.chat.completions.parse(**ASK, response_format=Pair)
    assert scripted.choices[0].message.parsed == Pair(name="box", size=3)


def test_chat_usage_can_be_left_out_or_given_exactly(provider: LoopbackProvider, client: openai.OpenAI) -> None:
    provider.script(
        Answer(text="Hi", usage=False),
        Answer(text="Hi", raw_usage={"prompt_tokens": 7, "completion_tokens": 8, "total_tokens": 15}),
    )
    assert client.chat.completions.create(**ASK).usage is None
    usage = client.chat.completions.create(**ASK).usage
    assert usage is not None
    assert usage.to_dict() == {"prompt_tokens": 7, "completion_tokens": 8, "total_tokens": 15}


def test_chat_fails_in_the_middle(provider: LoopbackProvider, client: openai.OpenAI) -> None:
    provider.script(Answer(text="half", finish="failed"), Answer(text="half", finish="failed"))
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(**ASK)
    stream = client.chat.completions.create(**ASK, stream=True)
    assert [next(stream).choices[0].delta.content for _ in range(2)] == ["", "half"]
    with pytest.raises(openai.APIError, match="The model failed"):
        next(stream)
    assert [request.output_tokens for request in provider.requests] == [0, 1]


async def test_async_chat_streams(aprovider: LoopbackProvider) -> None:
    aprovider.script("Hello from afar")
    async with aprovider.async_openai() as client:
        stream = await client.chat.completions.create(**ASK, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "Hello from afar"
        assert (await client.chat.completions.create(**ASK)).usage is not None


def test_raw_and_streaming_responses(provider: LoopbackProvider, client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(**ASK)
    assert raw.headers["content-type"].startswith("application/json")
    assert raw.parse().choices[0].message.content == "You said: Hello there"
    with client.chat.completions.with_streaming_response.create(**ASK, stream=True) as response:
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert provider.requests[1].stream


def test_a_response_reports_all_its_usage(provider: LoopbackProvider, client: openai.OpenAI) -> None:
    provider.script(Answer(**{**fields(USAGE), "web_searches": 2, "service_tier": "priority"}))
    answer = client.responses.create(model="gpt-4o", input="Hello")
    usage = answer.usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (100, 30, 130)
    assert (usage.input_tokens_details.cached_tokens, usage.output_tokens_details.reasoning_tokens) == (60, 20)
    assert answer.to_dict()["tool_usage"]["web_search"] == {"num_requests": 2}  # type: ignore[index]
    assert [item.type for item in answer.output] == ["web_search_call", "web_search_call", "message"]
    assert (answer.output_text, answer.status, answer.service_tier) == ("Hi", "completed", "priority")


def test_a_response_streams_its_events_in_order(provider: LoopbackProvider, client: openai.OpenAI) -> None:
    provider.script(Answer(text="Sunny", thinking="Hm", tool_calls=[ToolCall("weather", {"city": "Oslo"})], chunks=1))
    events = list(client.responses.create(model="gpt-4o", input="Hello", stream=True))
    assert [event.type.removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.usage is not None
    assert last.response.usage.output_tokens == provider.billed.output_tokens


@pytest.mark.parametrize(
    ("finish", "status", "detail"),
    [
        ("length", "incomplete", "max_output_tokens"),
        ("content_filter", "incomplete", "content_filter"),
        ("failed",) * 3,
    ],
)
def test_a_response_may_end_otherwise(
    provider: LoopbackProvider, client: openai.OpenAI, finish: Any, status: str, detail: str
) -> None:
    provider.script(Answer(text="part", finish=finish), Answer(text="part", finish=finish))
    plain = client.responses.create(model="gpt-4o", input="Hello")
    *_, last = client.responses.create(model="gpt-4o", input="Hello", stream=True)
    assert last.type == f"response.{status}"
    for answer in (plain, last.response):  # type: ignore[union-attr]
        assert answer.status == status
        assert answer.usage is not None
        assert answer.usage.output_tokens == 1
        reason = answer.incomplete_details.reason if answer.incomplete_details else status
        assert reason == detail
        assert (answer.error is not None) == (status == "failed")


def test_a_response_keeps_to_its_limit(provider: LoopbackProvider, client: openai.OpenAI) -> None:
    provider.script(Answer(generate=500))
    answer = client.responses.create(model="gpt-4o", input="Hello", max_output_tokens=50)
    assert answer.usage is not None
    assert (answer.status, answer.usage.output_tokens, len(answer.output_text)) == ("incomplete", 50, 200)


def test_the_response_helpers(provider: LoopbackProvider, client: openai.OpenAI) -> None:
    parsed = client.responses.parse(model="gpt-4o", input="Hello", text_format=Pair)
    assert parsed.output_parsed == Pair(name="text", size=0)
    provider.script(Answer(text="streamed", chunks=3))
    with client.responses.stream(model="gpt-4o", input="Hello") as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        assert stream.get_final_response().output_text == "".join(deltas) == "streamed"


def test_a_background_response_is_fetched_later(provider: LoopbackProvider, client: openai.OpenAI) -> None:
    provider.script(Answer(text="done", input_tokens=5, output_tokens=6))
    queued = client.responses.create(model="gpt-4o", input="Hello", extra_body={"background": True})
    assert (queued.status, queued.usage, queued.output) == ("queued", None, [])
    for _ in range(2):
        answer = client.responses.retrieve(queued.id)
        assert (answer.status, answer.output_text) == ("completed", "done")
        assert answer.usage is not None
        assert answer.usage.total_tokens == 11
    options: Any = {"params": {"stream": "true"}}
    path = f"/responses/{queued.id}"
    stream = client.get(
        path, cast_to=dict[str, Any], options=options, stream=True, stream_cls=openai.Stream[dict[str, Any]]
    )
    events = [event["type"] for event in stream]
    assert (events[0], events[-1]) == ("response.queued", "response.completed")
    assert client.post(f"{path}/cancel", cast_to=dict[str, Any])["status"] == "cancelled"
    client.responses.delete(queued.id)
    with pytest.raises(openai.NotFoundError, match=queued.id):
        client.responses.retrieve(queued.id)
    assert (provider.billed.calls, provider.billed.total_tokens) == (1, 11)
    assert {request.api for request in provider.requests[1:]} == {"responses.retrieve"}


def test_a_previous_response_is_input_again(provider: LoopbackProvider, client: openai.OpenAI) -> None:
    provider.script(Answer(text="done", input_tokens=50, output_tokens=6))
    first = client.responses.create(model="gpt-4o", input="Hello")
    client.responses.create(model="gpt-4o", input="More", previous_response_id=first.id)
    assert provider.requests[1].input_tokens == 50 + 6 + 1


def test_compaction_is_billed(provider: LoopbackProvider, client: openai.OpenAI) -> None:
    provider.script(Answer(text="gist", input_tokens=50, output_tokens=12))
    answer = client.post("/responses/compact", body={"model": "gpt-4o", "input": "long"}, cast_to=dict[str, Any])
    assert answer["object"] == "response.compaction"
    assert answer["usage"]["total_tokens"] == 62
    assert provider.requests[0].api == "responses.compact"


async def test_async_responses(aprovider: LoopbackProvider) -> None:
    async with aprovider.async_openai() as client:
        assert (await client.responses.create(model="gpt-4o", input="Hello")).output_text == "You said: Hello"
        async with client.responses.stream(model="gpt-4o", input="Hello") as stream:
            assert (await stream.get_final_response()).output_text == "You said: Hello"


def fields(answer: Answer) -> dict[str, Any]:
    """The fields of an answer, to make another of."""
    return {name: getattr(answer, name) for name in answer.__slots__}
