"""OpenAI's smaller text APIs: legacy completions, embeddings, moderations."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from typing import Any

from actguard.testing._generation import Generation, Meter, last_text
from actguard.testing._openai import CHAT_FINISH, DONE, OpenAIOperation, completion_usage, openai_error
from actguard.testing._wire import CREATED, DIMENSIONS, Frame, Whole, as_limit, path_value, sse, vector
from actguard.testing.answers import Failure


def separate_inputs(value: object) -> list[Any]:
    """One text, one list of tokens, or several of either, as a list of inputs."""
    if not isinstance(value, list):
        return [value]
    return [value] if value and isinstance(value[0], int) else value


def given_tokens(inputs: list[Any]) -> int:
    """Tokens of the inputs that are lists of tokens already."""
    return sum(len(each) for each in inputs if isinstance(each, list))


class Completions(OpenAIOperation):
    """POST /completions."""

    api = "completions"

    @property
    def output_limit(self) -> int | None:
        limit = as_limit(self.body.get("max_tokens"))
        return 16 if limit is None else limit

    @property
    def choices(self) -> int:
        each = max(as_limit(self.body.get("n")) or 1, as_limit(self.body.get("best_of")) or 1)
        return each * len(separate_inputs(self.body.get("prompt")))

    @property
    def shown(self) -> int:
        """Choices that are sent; with best_of more are generated."""
        return max(as_limit(self.body.get("n")) or 1, 1) * len(separate_inputs(self.body.get("prompt")))

    def prompt(self) -> object:
        return [self.body.get("prompt"), self.body.get("suffix")]

    def further_input_tokens(self) -> int:
        return given_tokens(separate_inputs(self.body.get("prompt")))

    def whole(self, generation: Generation) -> Whole:
        if generation.finish == "failed":
            return self.failure(Failure(500, "The model failed."))
        finish = CHAT_FINISH[generation.finish]
        choices = [self._choice(index, generation.text, finish) for index in range(self.shown)]
        body = {**self._head(generation), "choices": choices}
        usage = completion_usage(generation)
        return Whole.of(body if usage is None else {**body, "usage": usage})

    def frames(self, generation: Generation) -> Iterator[Frame]:
        head = self._head(generation)
        meter = Meter(generation, len(generation.text) * self.shown, thinking_shown=False)
        for piece in generation.pieces(generation.text):
            for index in range(self.shown):
                chunk = sse({**head, "choices": [self._choice(index, piece, None)]})
                yield Frame(chunk, meter.after(piece))
        if generation.finish == "failed":
            yield Frame(sse(openai_error(500, "The model failed.")))
            return
        for index in range(self.shown):
            yield Frame(sse({**head, "choices": [self._choice(index, "", CHAT_FINISH[generation.finish])]}))
        if path_value(self.body, "stream_options", "include_usage") is True and generation.answer.usage:
            yield Frame(sse({**head, "choices": [], "usage": completion_usage(generation)}))
        yield Frame(DONE)

    @staticmethod
    def _choice(index: int, text: str, finish: str | None) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}

    @staticmethod
    def _head(generation: Generation) -> dict[str, Any]:
        head = {"id": f"cmpl-{generation.number:06d}", "object": "text_completion"}
        return {**head, "created": CREATED, "model": generation.model}


class Embeddings(OpenAIOperation):
    """POST /embeddings, as floats or in base64."""

    api = "embeddings"

    def prompt(self) -> object:
        return self.body.get("input")

    def further_input_tokens(self) -> int:
        return given_tokens(separate_inputs(self.body.get("input")))

    def default_output_tokens(self) -> int | None:
        return 0

    def whole(self, generation: Generation) -> Whole:
        dimensions = as_limit(self.body.get("dimensions")) or DIMENSIONS
        data = []
        for index, each in enumerate(separate_inputs(self.body.get("input"))):
            text = last_text(each) if not isinstance(each, list) else str(each)
            data.append({"object": "embedding", "index": index, "embedding": self._encoded(vector(text, dimensions))})
        answer = generation.answer
        body: dict[str, Any] = {"object": "list", "data": data, "model": generation.model}
        if answer.usage:
            tokens = generation.input_tokens
            body["usage"] = answer.raw_usage or {"prompt_tokens": tokens, "total_tokens": tokens}
        return Whole.of(body)

    def _encoded(self, values: list[float]) -> list[float] | str:
        if self.body.get("encoding_format") != "base64":
            return values
        return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


CATEGORIES = ("harassment", "hate", "illicit", "self-harm", "sexual", "violence")


class Moderations(OpenAIOperation):
    """POST /moderations: nothing is ever flagged."""

    api = "moderations"
    free = True

    def serve(self) -> Whole:
        result = {
            "flagged": False,
            "categories": dict.fromkeys(CATEGORIES, False),
            "category_scores": dict.fromkeys(CATEGORIES, 0.0),
            "category_applied_input_types": {name: ["text"] for name in CATEGORIES},
        }
        results = [result for _ in separate_inputs(self.body.get("input"))]
        model = self.model or "omni-moderation-latest"
        return Whole.of({"id": f"modr-{self.number:06d}", "model": model, "results": results})
