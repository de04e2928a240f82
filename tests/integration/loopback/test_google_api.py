"""The real Google GenAI client, AI Studio and Vertex, against the loopback provider."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google import genai
from google.genai import errors, types
from pydantic import BaseModel

from actguard.testing import Answer, Failure, Gate, LoopbackProvider, ToolCall

MODEL = "gemini-2.5-flash"
# The SDK subclasses aiohttp's ClientSession.
pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
THOUGHTFUL = Answer(
    text="Hi there, you",
    thinking="Hm.",
    input_tokens=100,
    cached_input_tokens=60,
    output_tokens=30,
    reasoning_tokens=20,
    chunks=2,
)


class Pair(BaseModel):
    name: str
    size: int


@pytest.fixture(params=["google", "vertex"])
def client(provider: LoopbackProvider, request: pytest.FixtureRequest) -> genai.Client:
    made: genai.Client = getattr(provider, request.param)()
    return made


@pytest.mark.parametrize("options", [{"timeout": 5_000}, types.HttpOptions(timeout=5_000)], ids=["dict", "object"])
@pytest.mark.parametrize("platform", ["google", "vertex"])
def test_clients_with_options_of_their_own_ask_it_too(provider: LoopbackProvider, platform: str, options: Any) -> None:
    client: genai.Client = getattr(provider, platform)(http_options=options)
    client.models.generate_content(model=MODEL, contents="Hello")
    assert len(provider.requests) == 1


def config(**settings: Any) -> types.GenerateContentConfig:
    return types.GenerateContentConfig(**settings)


def counts(usage: Any) -> tuple[int, int, int, int, int]:
    return (
        usage.prompt_token_count,
        usage.cached_content_token_count,
        usage.candidates_token_count,
        usage.thoughts_token_count,
        usage.total_token_count,
    )


def test_thoughts_are_counted_beside_the_answer(provider: LoopbackProvider, client: genai.Client) -> None:
    provider.script(THOUGHTFUL)
    answer = client.models.generate_content(model=MODEL, contents="Hello")
    assert answer.text == "Hi there, you"
    usage: Any = answer.model_dump(by_alias=True)["usageMetadata"]
    assert (usage["promptTokenCount"], usage["cachedContentTokenCount"]) == (100, 60)
    assert (usage["candidatesTokenCount"], usage["totalTokenCount"]) == (10, 130)
    assert (provider.billed.output_tokens, provider.billed.cached_input_tokens) == (30, 60)


def test_a_stream_reports_usage_so_far(provider: LoopbackProvider, client: genai.Client) -> None:
    provider.script(Answer(generate=100, chunks=4))
    chunks = list(client.models.generate_content_stream(model=MODEL, contents="Hello"))
    usages: list[Any] = [chunk.usage_metadata for chunk in chunks]
    assert [usage.candidates_token_count for usage in usages] == [25, 50, 75, 100, 100]
    assert len("".join(chunk.text or "" for chunk in chunks)) == 400
    finish: Any = (chunks[-1].candidates or [])[0].finish_reason
    assert finish == "STOP"
    assert provider.requests[0].stream


def test_an_answer_keeps_to_its_limit(provider: LoopbackProvider, client: genai.Client) -> None:
    provider.script(Answer(generate=500))
    settings = config(max_output_tokens=40, candidate_count=2)
    answer = client.models.generate_content(model=MODEL, contents="Hello", config=settings)
    candidates: list[Any] = answer.candidates or []
    assert [candidate.finish_reason for candidate in candidates] == ["MAX_TOKENS"] * 2
    assert provider.requests[0].output_limit == 40
    assert provider.billed.output_tokens == 80


def test_functions_are_called_automatically(provider: LoopbackProvider, client: genai.Client) -> None:
    asked: list[str] = []

    def weather(city: str) -> str:
        """The weather of a city."""
        asked.append(city)
        return "sunny"

    weather.__annotations__.update({"city": str, "return": str})  # older SDKs do not resolve annotations that are text
    provider.script(Answer(tool_calls=[ToolCall("weather", {"city": "Oslo"})]), "Take your sunglasses.")
    answer = client.models.generate_content(model=MODEL, contents="Weather?", config=config(tools=[weather]))
    assert (asked, answer.text) == (["Oslo"], "Take your sunglasses.")
    assert provider.billed.calls == 2


def test_a_chat_sends_its_history(provider: LoopbackProvider, client: genai.Client) -> None:
    chat = client.chats.create(model=MODEL)
    assert chat.send_message("One").text == "You said: One"
    assert "".join(chunk.text or "" for chunk in chat.send_message_stream("Two")) == "You said: Two"
    assert [len(request.body["contents"]) for request in provider.requests] == [1, 3]


def test_structured_output_follows_the_schema(client: genai.Client) -> None:
    settings = config(response_mime_type="application/json", response_schema=Pair)
    answer = client.models.generate_content(model=MODEL, contents="Hello", config=settings)
    assert answer.parsed == Pair(name="text", size=0)


def test_errors_have_googles_shape(provider: LoopbackProvider, client: genai.Client) -> None:
    provider.script(Failure(429, "Quota"), Answer(text="half", finish="failed"), Failure(503, "Busy"))
    with pytest.raises(errors.ClientError, match="RESOURCE_EXHAUSTED"):
        client.models.generate_content(model=MODEL, contents="Hello")
    with pytest.raises(errors.ServerError, match="The model failed"):
        client.models.generate_content(model=MODEL, contents="Hello")
    with pytest.raises(errors.ServerError, match="Busy"):
        list(client.models.generate_content_stream(model=MODEL, contents="Hello"))
    assert provider.billed.calls == 0


def test_a_cut_stream_fails(provider: LoopbackProvider, client: genai.Client) -> None:
    provider.script(Answer(generate=100, chunks=10, cut_after=3))
    stream = client.models.generate_content_stream(model=MODEL, contents="Hello")
    assert len("".join(next(stream).text or "" for _ in range(3))) == 120
    with pytest.raises(Exception, match=r"(?i)incomplete|connection|premature"):
        next(stream)
    provider.wait_for_sync(lambda: provider.requests[0].done)
    assert provider.requests[0].output_tokens == 30


def test_embeddings(provider: LoopbackProvider, client: genai.Client) -> None:
    provider.script(Answer(input_tokens=9))
    settings = types.EmbedContentConfig(output_dimensionality=24)
    answer = client.models.embed_content(model="text-embedding-005", contents=["one", "two"], config=settings)
    vectors = [each.values or [] for each in answer.embeddings or []]
    assert [len(each) for each in vectors] == [24, 24]
    assert vectors[0] != vectors[1]
    (request,) = provider.requests
    assert (request.api, request.input_tokens, request.output_tokens) == ("embed_content", 9, 0)
    if request.platform == "vertex":
        statistics: list[Any] = [each.statistics for each in answer.embeddings or []]
        assert [each.token_count for each in statistics] == [5, 4]


def test_newer_embedding_models_report_their_usage(provider: LoopbackProvider, client: genai.Client) -> None:
    provider.script(Answer(input_tokens=9))
    answer = client.models.embed_content(model="gemini-embedding-2", contents="one two")
    assert len(answer.embeddings or []) == 1
    usage: Any = getattr(answer, "usage_metadata", None)
    assert usage is None or usage.prompt_token_count == 9
    assert "/gemini-embedding-2:" in provider.requests[0].path
    assert provider.billed.input_tokens == 9


def test_free_operations(provider: LoopbackProvider, client: genai.Client) -> None:
    assert client.models.count_tokens(model=MODEL, contents="Hello there").total_tokens == 4
    provider.script(Answer(text="kept"))
    assert client.models.count_tokens(model=MODEL, contents="Hello there").total_tokens == 4
    assert (provider.pending, provider.billed.calls) == (1, 0)


def test_unknown_paths_answer_404_in_googles_shape(provider: LoopbackProvider, client: genai.Client) -> None:
    with pytest.raises(errors.ClientError, match="NOT_FOUND"):
        client.files.get(name="files/nothing") if not client.vertexai else client.tunings.get(name="nothing")
    assert provider.requests[0].api == "unknown"


async def test_async(aprovider: LoopbackProvider) -> None:
    for client in (aprovider.google(), aprovider.vertex()):
        answer = await client.aio.models.generate_content(model=MODEL, contents="Hello")
        assert answer.text == "You said: Hello"
        stream = await client.aio.models.generate_content_stream(model=MODEL, contents="Hello")
        assert "".join([chunk.text or "" async for chunk in stream]) == "You said: Hello"


@pytest.mark.skipif(genai.__version__.startswith("0."), reason="this SDK reads async streams with blocking calls")
async def test_an_async_stream_is_billed_up_to_where_its_client_left(aprovider: LoopbackProvider) -> None:
    gate, all_seen, seen = Gate(), asyncio.Event(), 0
    aprovider.script(Answer(generate=1_000, chunks=100, gate=gate, gate_after=7))
    client = aprovider.google()

    async def read() -> None:
        nonlocal seen
        async for _ in await client.aio.models.generate_content_stream(model=MODEL, contents="Hello"):
            seen += 1
            if seen == 7:
                all_seen.set()

    reader = asyncio.create_task(read())
    await aprovider.wait_for(lambda: gate.held == 1)
    await all_seen.wait()
    # Cancelled, not closed: closing the SDK's outer generator leaves the connection open until it is collected.
    reader.cancel()
    await asyncio.wait([reader])
    await aprovider.wait_for(lambda: aprovider.requests[0].done)
    (request,) = aprovider.requests
    assert (request.disconnected, request.completed, request.output_tokens) == (True, False, 70)
