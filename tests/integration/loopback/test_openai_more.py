"""The rest of OpenAI's API, and Azure, through the real clients."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from actguard.testing import Answer, LoopbackProvider

ASK: Any = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello there"}]}
RAW_STREAM = openai.Stream[dict[str, Any]]


@pytest.fixture
def provider() -> Iterator[LoopbackProvider]:
    with LoopbackProvider(azure_deployments={"prod": "gpt-4o-2024-11-20"}) as provider:
        yield provider


@pytest.fixture
def client(provider: LoopbackProvider) -> openai.OpenAI:
    return provider.openai()


def test_completions_with_best_of_bill_what_was_generated(provider: LoopbackProvider, client: openai.OpenAI) -> None:
    provider.script(Answer(generate=100), Answer(generate=100, chunks=3))
    answer = client.completions.create(model="gpt-3.5-turbo-instruct", prompt=["a", "b"], n=2, best_of=3, max_tokens=10)
    assert [len(choice.text) for choice in answer.choices] == [40] * 4
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 60
    options: Any = {"stream_options": {"include_usage": True}}
    stream = client.completions.create(model="gpt-3.5-turbo-instruct", prompt="a", stream=True, **options)
    *chunks, last = stream
    assert len("".join(chunk.choices[0].text for chunk in chunks)) == 64
    assert last.usage is not None
    assert last.usage.completion_tokens == 16


def test_embeddings_are_the_same_in_both_encodings(provider: LoopbackProvider, client: openai.OpenAI) -> None:
    ask: Any = {"model": "text-embedding-3-small", "input": ["one", "two"], "dimensions": 24}
    packed, floats = client.embeddings.create(**ask), client.embeddings.create(**ask, encoding_format="float")
    assert [each.embedding for each in packed.data] == [each.embedding for each in floats.data]
    assert packed.data[0].embedding != packed.data[1].embedding
    assert len(packed.data[0].embedding) == 24
    assert (packed.usage.prompt_tokens, packed.usage.total_tokens) == (2, 2)
    tokens = client.embeddings.create(model="text-embedding-3-small", input=[[1, 2, 3], [4, 5]])
    assert (len(tokens.data), tokens.usage.prompt_tokens) == (2, 6)
    assert provider.billed.output_tokens == 0


def test_images(provider: LoopbackProvider, client: openai.OpenAI) -> None:
    answer = client.images.generate(model="gpt-image-1", prompt="a cat", n=2)
    assert len(answer.data or []) == 2
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (2, 544)
    by_piece = client.images.generate(model="dall-e-3", prompt="a cat")
    assert by_piece.usage is None
    assert (by_piece.data or [])[0].url
    assert (provider.requests[1].billed, provider.requests[1].output_tokens) == (True, 0)
    edited = client.images.edit(model="gpt-image-1", prompt="a dog", image=("cat.png", io.BytesIO(b"x"), "image/png"))
    assert edited.usage is not None
    assert provider.requests[2].body["image"] == {"filename": "cat.png", "bytes": 1}


def test_images_stream(provider: LoopbackProvider, client: openai.OpenAI) -> None:
    body: Any = {"model": "gpt-image-1", "prompt": "a cat", "stream": True, "partial_images": 2}
    stream = client.post("/images/generations", body=body, cast_to=dict[str, Any], stream=True, stream_cls=RAW_STREAM)
    *partial, last = (event.get("data", event) for event in stream)  # older SDKs wrap events that they do not know
    assert [event["type"] for event in partial] == ["image_generation.partial_image"] * 2
    assert last["type"] == "image_generation.completed"
    assert last["usage"]["output_tokens"] == provider.billed.output_tokens == 272


def test_speech(provider: LoopbackProvider, client: openai.OpenAI) -> None:
    provider.script(Answer(data=b"sound" * 10, chunks=5))
    with client.audio.speech.with_streaming_response.create(model="tts-1", voice="alloy", input="Hi") as response:
        assert b"".join(response.iter_bytes()) == b"sound" * 10
    assert (provider.requests[0].billed, provider.billed.total_tokens) == (True, 0)
    assert len(client.audio.speech.create(model="gpt-4o-mini-tts", voice="alloy", input="Hello").content) == 128
    assert provider.billed.output_tokens == 2
    body = {"model": "gpt-4o-mini-tts", "voice": "alloy", "input": "Hello", "stream_format": "sse"}
    *deltas, done = client.post("/audio/speech", body=body, cast_to=dict[str, Any], stream=True, stream_cls=RAW_STREAM)
    assert {event["type"] for event in deltas} == {"speech.audio.delta"}
    assert done["usage"] == {"input_tokens": 2, "output_tokens": 2, "total_tokens": 4}


def test_transcriptions(provider: LoopbackProvider, client: openai.OpenAI) -> None:
    sound = ("talk.mp3", b"\0" * 32_000, "audio/mpeg")
    provider.script(*["Good morning"] * 4)
    answer: Any = client.audio.transcriptions.create(model="gpt-4o-transcribe", file=sound).to_dict()
    assert answer["text"] == "Good morning"
    assert answer["usage"]["type"] == "tokens"
    assert (answer["usage"]["input_tokens"], answer["usage"]["output_tokens"]) == (21, 3)
    timed: Any = client.audio.transcriptions.create(model="whisper-1", file=sound).to_dict()
    assert timed["usage"] == {"type": "duration", "seconds": 2.0}
    text: Any = client.audio.transcriptions.create(model="whisper-1", file=sound, response_format="text")
    assert text.strip() == "Good morning"
    events = list(client.audio.transcriptions.create(model="gpt-4o-transcribe", file=sound, stream=True))
    assert events[-1].type == "transcript.text.done"
    assert "".join(event.delta for event in events[:-1]) == "Good morning"  # type: ignore[union-attr]
    assert [request.output_tokens for request in provider.requests] == [3, 0, 0, 3]


def test_free_operations(provider: LoopbackProvider, client: openai.OpenAI) -> None:
    assert client.models.retrieve("gpt-4o").id == "gpt-4o"
    assert not client.moderations.create(input="be nice").results[0].flagged
    file = client.files.create(file=("jobs.jsonl", b"{}\n"), purpose="batch")
    assert (file.bytes, file.filename) == (3, "jobs.jsonl")
    assert [each.id for each in client.files.list()] == [file.id]
    assert client.files.content(file.id).content == b""
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/responses", completion_window="24h")
    assert batch.status == "validating"
    assert client.batches.retrieve(batch.id).status == "completed"
    assert [each.id for each in client.batches.list()] == [batch.id]
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)
    assert provider.billed.calls == 0


def test_azure_answers_for_the_model_behind_the_deployment(provider: LoopbackProvider) -> None:
    client = provider.azure()
    answer = client.chat.completions.create(**{**ASK, "model": "prod"})
    assert answer.model == "gpt-4o-2024-11-20"
    assert client.chat.completions.create(**{**ASK, "model": "other"}).model == "gpt-4o-mini-2024-07-18"
    assert client.responses.create(model="prod", input="Hello").model == "gpt-4o-2024-11-20"
    assert client.embeddings.create(model="prod", input="Hello").model == "gpt-4o-2024-11-20"
    request = provider.requests[0]
    assert (request.platform, request.provider, request.model) == ("azure", "openai", "prod")
    assert request.path == "/openai/deployments/prod/chat/completions"
    assert request.query["api-version"]


def test_azure_streams_start_with_a_chunk_without_choices(provider: LoopbackProvider) -> None:
    chunks = list(provider.azure().chat.completions.create(**ASK, stream=True))
    assert chunks[0].choices == []
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[1:]) == "You said: Hello there"


async def test_async_azure(aprovider: LoopbackProvider) -> None:
    async with aprovider.async_azure() as client:
        assert (await client.chat.completions.create(**ASK)).choices[0].message.content == "You said: Hello there"
