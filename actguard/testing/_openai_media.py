"""OpenAI's pictures and sounds: images, speech, transcriptions."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any

from actguard.testing._generation import Generation, Meter, tokens_in
from actguard.testing._openai import OpenAIOperation
from actguard.testing._wire import CREATED, Frame, Whole, as_limit, path_value, sse
from actguard.testing.answers import Failure

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mP4DwABAQEAHLCMmQAAAABJRU5ErkJggg=="
"""One pixel."""
TOKENS_PER_IMAGE = 272
"""What a low-quality square picture costs."""
AUDIO_BYTES_PER_TOKEN = 64
AUDIO_BYTES_PER_SECOND = 16_000
AUDIO_TOKENS_PER_SECOND = 10


def token_usage(generation: Generation, details: Mapping[str, int] | None, key: str) -> dict[str, Any]:
    """Usage as images and audio report it."""
    usage: dict[str, Any] = {
        "input_tokens": generation.input_tokens,
        "output_tokens": generation.output_tokens,
        "total_tokens": generation.total_tokens,
    }
    return usage if details is None else {**usage, key: dict(details)}


class Images(OpenAIOperation):
    """POST /images/generations and /images/edits, streamed too."""

    api = "images"

    @property
    def counts_tokens(self) -> bool:
        return not self.model.startswith("dall-e")

    @property
    def pictures(self) -> int:
        """Pictures wanted."""
        return max(as_limit(self.body.get("n")) or 1, 1)

    def prompt(self) -> object:
        return self.body.get("prompt")

    def default_output_tokens(self) -> int | None:
        return self.pictures * TOKENS_PER_IMAGE

    def usage(self, generation: Generation) -> Mapping[str, Any] | None:
        """Token usage; models that are paid by the picture report none."""
        answer = generation.answer
        if answer.raw_usage is not None or not answer.usage or not self.counts_tokens:
            return answer.raw_usage
        details = {"text_tokens": generation.input_tokens, "image_tokens": 0}
        return token_usage(generation, details, "input_tokens_details")

    def whole(self, generation: Generation) -> Whole:
        if generation.finish == "failed":
            return self.failure(Failure(500, "The model failed."))
        as_url = not self.counts_tokens and self.body.get("response_format") != "b64_json"
        picture = {"url": "http://127.0.0.1/picture.png"} if as_url else {"b64_json": PNG}
        body: dict[str, Any] = {"created": CREATED, "data": [picture] * self.pictures}
        usage = self.usage(generation)
        return Whole.of(body if usage is None else {**body, "usage": usage})

    def frames(self, generation: Generation) -> Iterator[Frame]:
        kind = "image_edit" if self.call.path.endswith("edits") else "image_generation"
        looks = {"background": "auto", "output_format": "png", "quality": "low", "size": "1024x1024"}
        common = {"b64_json": PNG, "created_at": CREATED, **looks}
        partial = as_limit(self.body.get("partial_images")) or 0
        for index in range(partial):
            event: dict[str, Any] = {"type": f"{kind}.partial_image", **common, "partial_image_index": index}
            tokens = generation.output_tokens * (index + 1) // (partial + 1)
            yield Frame(sse(event, event["type"]), tokens)
        end: dict[str, Any] = {"type": f"{kind}.completed", **common}
        usage = self.usage(generation)
        if usage is not None:
            end["usage"] = usage
        yield Frame(sse(end, end["type"]), generation.output_tokens)


class Speech(OpenAIOperation):
    """POST /audio/speech: bytes, always in pieces, or events that end with the usage."""

    api = "audio.speech"

    @property
    def stream(self) -> bool:
        return self.body.get("stream_format") == "sse"

    @property
    def in_pieces(self) -> bool:
        return True

    @property
    def counts_tokens(self) -> bool:
        return not self.model.startswith("tts-")

    @property
    def stream_type(self) -> str:
        return super().stream_type if self.stream else "audio/mpeg"

    def prompt(self) -> object:
        return [self.body.get("input"), self.body.get("instructions")]

    def default_output_tokens(self) -> int | None:
        return tokens_in(str(self.body.get("input") or ""))

    def frames(self, generation: Generation) -> Iterator[Frame]:
        answer = generation.answer
        audio = bytes(generation.output_tokens * AUDIO_BYTES_PER_TOKEN) if answer.data is None else answer.data
        count = max(answer.chunks or 4, 1)
        size = max(-(-len(audio) // count), 1)
        for start in range(0, len(audio), size):
            piece = audio[start : start + size]
            tokens = generation.output_tokens * min(start + size, len(audio)) // len(audio)
            data = piece
            if self.stream:
                data = sse({"type": "speech.audio.delta", "audio": base64.b64encode(piece).decode()})
            yield Frame(data, tokens)
        if self.stream:
            end: dict[str, Any] = {"type": "speech.audio.done"}
            if answer.usage:
                end["usage"] = answer.raw_usage or token_usage(generation, None, "")
            yield Frame(sse(end))


class Transcriptions(OpenAIOperation):
    """POST /audio/transcriptions and /audio/translations."""

    api = "audio.transcriptions"

    @property
    def counts_tokens(self) -> bool:
        return not self.model.startswith("whisper")

    @property
    def seconds(self) -> float:
        """Length of the recording, taken from its size."""
        return max(round((path_value(self.body, "file", "bytes") or 0) / AUDIO_BYTES_PER_SECOND, 1), 0.1)

    def prompt(self) -> object:
        return self.body.get("prompt")

    def further_input_tokens(self) -> int:
        return max(round(self.seconds * AUDIO_TOKENS_PER_SECOND), 1)

    def usage(self, generation: Generation) -> Mapping[str, Any] | None:
        """Tokens, or seconds where those are what is paid for."""
        answer = generation.answer
        if answer.raw_usage is not None or not answer.usage:
            return answer.raw_usage
        if not self.counts_tokens:
            return {"type": "duration", "seconds": self.seconds}
        audio = min(self.further_input_tokens(), generation.input_tokens)
        details = {"audio_tokens": audio, "text_tokens": generation.input_tokens - audio}
        return {"type": "tokens", **token_usage(generation, details, "input_token_details")}

    def whole(self, generation: Generation) -> Whole:
        if generation.finish == "failed":
            return self.failure(Failure(500, "The model failed."))
        wanted = self.body.get("response_format") or "json"
        if wanted in ("text", "srt", "vtt"):
            return Whole(generation.text.encode() + b"\n", content_type="text/plain; charset=utf-8")
        body: dict[str, Any] = {"text": generation.text}
        if wanted == "verbose_json":
            body.update(task="transcribe", language="english", duration=self.seconds, segments=[])
        usage = self.usage(generation)
        return Whole.of(body if usage is None else {**body, "usage": usage})

    def frames(self, generation: Generation) -> Iterator[Frame]:
        meter = Meter(generation, len(generation.text), thinking_shown=False)
        for piece in generation.pieces(generation.text):
            event = {"type": "transcript.text.delta", "delta": piece}
            yield Frame(sse(event, event["type"]), meter.after(piece))
        end: dict[str, Any] = {"type": "transcript.text.done", "text": generation.text}
        usage = self.usage(generation)
        if usage is not None:
            end["usage"] = usage
        yield Frame(sse(end, end["type"]))
