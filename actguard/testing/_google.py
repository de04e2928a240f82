"""Google's GenAI API on AI Studio's and Vertex's paths: generate_content, embeddings, token counts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from actguard.testing._generation import Generation, Meter, last_text, tokens_of_prompt
from actguard.testing._wire import DIMENSIONS, Call, Frame, Operation, Whole, as_limit, path_value, sse, vector
from actguard.testing.answers import Failure
from actguard.testing.received import Provider

FINISH_REASONS = {"stop": "STOP", "tool_calls": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}
STATUSES: Mapping[int, str] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
MODEL_PATH = re.compile(r"^/v1[a-z0-9]*/(?:projects/.+/)?(?:publishers/[^/]+/)?(?:models|tunedModels)/([^/:]+):(\w+)$")
MODELS_PATH = re.compile(r"^/v1[a-z0-9]*/(?:projects/.+/)?(?:publishers/[^/]+/)?models(?:/[^/:]+)?$")


def google_error(status: int, message: str, code: str | None = None) -> dict[str, Any]:
    """An error body as Google words it."""
    return {"error": {"code": status, "message": message, "status": code or STATUSES.get(status, "INTERNAL")}}


class GoogleOperation(Operation):
    """An operation of Google's API. The model is part of the path."""

    provider: ClassVar[Provider] = "google"

    def __init__(self, call: Call, model: str = "") -> None:
        super().__init__(call)
        self._model = model

    @property
    def model(self) -> str:
        return self._model

    def failure(self, failure: Failure) -> Whole:
        return Whole.of(google_error(failure.status, failure.message, failure.code), failure.status)

    def setting(self, name: str) -> Any:
        """A field of generationConfig, in either spelling."""
        config = self.body.get("generationConfig") or self.body.get("generation_config")
        snake = re.sub(r"[A-Z]", lambda found: "_" + found[0].lower(), name)
        value = path_value(config, name)
        return path_value(config, snake) if value is None else value


class GenerateContent(GoogleOperation):
    """POST …:generateContent and …:streamGenerateContent."""

    api = "generate_content"

    @property
    def stream(self) -> bool:
        return self.call.path.endswith(":streamGenerateContent")

    @property
    def output_limit(self) -> int | None:
        return as_limit(self.setting("maxOutputTokens"))

    @property
    def choices(self) -> int:
        return max(as_limit(self.setting("candidateCount")) or 1, 1)

    def prompt(self) -> object:
        keys = ("systemInstruction", "system_instruction", "tools", "contents")
        return [self.body.get(key) for key in keys]

    def schema(self) -> Mapping[str, Any] | None:
        for name in ("responseJsonSchema", "responseSchema"):
            schema = self.setting(name)
            if isinstance(schema, Mapping):
                return schema
        return None

    def usage(self, generation: Generation, output_tokens: int) -> Mapping[str, Any] | None:
        """Usage so far: the prompt includes what came from the cache, thoughts are beside the candidates."""
        answer = generation.answer
        if not answer.usage:
            return None
        if answer.raw_usage is not None:
            return answer.raw_usage
        thoughts = min(generation.reasoning_tokens, output_tokens)
        prompt_details = [{"modality": "TEXT", "tokenCount": generation.input_tokens}]
        usage: dict[str, Any] = {
            "promptTokenCount": generation.input_tokens,
            "candidatesTokenCount": output_tokens - thoughts,
            "totalTokenCount": generation.input_tokens + output_tokens,
            "promptTokensDetails": prompt_details,
        }
        if thoughts:
            usage["thoughtsTokenCount"] = thoughts
        if answer.cached_input_tokens:
            usage["cachedContentTokenCount"] = answer.cached_input_tokens
        if self.call.platform == "vertex":
            usage["trafficType"] = answer.service_tier or "ON_DEMAND"
        elif answer.service_tier:
            usage["serviceTier"] = answer.service_tier
        return usage

    def body_of(
        self, generation: Generation, index: int, parts: list[dict[str, Any]], output_tokens: int, finish: str | None
    ) -> dict[str, Any]:
        """A response object: the whole answer, or one chunk of it."""
        candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": index}
        if finish is not None:
            candidate["finishReason"] = finish
            if generation.answer.web_searches:
                queries = [f"search {each + 1}" for each in range(generation.answer.web_searches)]
                candidate["groundingMetadata"] = {"webSearchQueries": queries}
        return self._with_usage(generation, [candidate], output_tokens)

    def _with_usage(self, generation: Generation, candidates: list[Any], output_tokens: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "candidates": candidates,
            "modelVersion": generation.model,
            "responseId": f"loopback-{generation.number:06d}",
        }
        usage = self.usage(generation, output_tokens)
        if usage is not None:
            body["usageMetadata"] = usage
        return body

    @staticmethod
    def calls(generation: Generation) -> list[dict[str, Any]]:
        """Function calls as parts; they are never sent in pieces."""
        return [
            {
                "functionCall": {
                    "name": call.name,
                    "args": {} if isinstance(call.arguments, str) else dict(call.arguments),
                    **({"id": call.id} if call.id else {}),
                }
            }
            for call in generation.tool_calls
        ]

    def whole(self, generation: Generation) -> Whole:
        if generation.finish == "failed":
            return self.failure(Failure(500, "The model failed."))
        parts: list[dict[str, Any]] = []
        if generation.thinking:
            parts.append({"text": generation.thinking, "thought": True})
        if generation.text:
            parts.append({"text": generation.text})
        parts.extend(self.calls(generation))
        finish, output = FINISH_REASONS[generation.finish], generation.output_tokens
        bodies = [self.body_of(generation, index, parts, output, finish) for index in range(generation.choices)]
        candidates = [body["candidates"][0] for body in bodies]
        return Whole.of(self._with_usage(generation, candidates, output))

    def frames(self, generation: Generation) -> Iterator[Frame]:
        calls = self.calls(generation)
        arguments = "".join(call.json for call in generation.tool_calls)
        shown = len(generation.thinking) + len(generation.text) + len(arguments)
        meter = Meter(generation, shown * generation.choices, thinking_shown=True)

        def chunk(index: int, parts: list[dict[str, Any]], tokens: int, finish: str | None = None) -> bytes:
            return sse(self.body_of(generation, index, parts, tokens, finish))

        for text, mark in ((generation.thinking, {"thought": True}), (generation.text, {})):
            for piece in generation.pieces(text):
                for index in range(generation.choices):
                    tokens = meter.after(piece)
                    yield Frame(chunk(index, [{"text": piece, **mark}], tokens), tokens)
        if calls:
            for index in range(generation.choices):
                tokens = meter.after(arguments)
                yield Frame(chunk(index, calls, tokens), tokens)
        if generation.finish == "failed":
            yield Frame(sse(google_error(500, "The model failed.")))
            return
        finish = FINISH_REASONS[generation.finish]
        for index in range(generation.choices):
            yield Frame(chunk(index, [{"text": ""}], generation.output_tokens, finish))


class EmbedContent(GoogleOperation):
    """POST …:embedContent, …:batchEmbedContents and, on Vertex, …:predict."""

    api = "embed_content"

    @property
    def items(self) -> list[Any]:
        """What is to be embedded."""
        several = self.body.get("requests") or self.body.get("instances")
        return several if isinstance(several, list) else [self.body]

    def prompt(self) -> object:
        return [path_value(item, "content") for item in self.items if isinstance(item, Mapping)]

    def default_output_tokens(self) -> int | None:
        return 0

    def whole(self, generation: Generation) -> Whole:
        values = [vector(last_text(item), self._dimensions(item)) for item in self.items]
        method = self.call.path.rpartition(":")[2]
        if method == "predict":
            # The tokens of all instances together are what was scripted; the first takes what does not divide.
            share, rest = divmod(generation.input_tokens, len(values))
            counts = [share + rest, *[share] * (len(values) - 1)]
            statistics = [{"truncated": False, "token_count": count} for count in counts]
            pairs = zip(values, statistics, strict=True)
            return Whole.of({"predictions": [{"embeddings": {"values": v, "statistics": s}} for v, s in pairs]})
        body: dict[str, Any] = {"embedding": {"values": values[0]}}
        if method == "batchEmbedContents":
            body = {"embeddings": [{"values": each} for each in values]}
        usage = self._usage(generation)
        if usage is not None:
            body["usageMetadata"] = usage
        return Whole.of(body)

    def _dimensions(self, item: object) -> int:
        places = (item, self.body.get("parameters"), self.body.get("embedContentConfig"))
        found = (as_limit(path_value(place, "outputDimensionality")) for place in places)
        return next((each for each in found if each), DIMENSIONS)

    def _usage(self, generation: Generation) -> Mapping[str, Any] | None:
        if generation.answer.raw_usage is not None:
            return generation.answer.raw_usage
        # Older models say nothing about tokens outside Vertex.
        silent = self.call.platform == "google" and not self.model.startswith("gemini-embedding-2")
        if silent or not generation.answer.usage:
            return None
        details = [{"modality": "TEXT", "tokenCount": generation.input_tokens}]
        return {"promptTokenCount": generation.input_tokens, "promptTokenDetails": details}


class CountTokens(GoogleOperation):
    """POST …:countTokens."""

    api = "count_tokens"
    free = True

    def serve(self) -> Whole:
        prompt = self.body.get("generateContentRequest") or self.body
        return Whole.of({"totalTokens": tokens_of_prompt(prompt)})


class Models(GoogleOperation):
    """GET …/models and …/models/{name}."""

    api = "models"
    free = True

    def serve(self) -> Whole:
        name = self.call.path.partition("/models")[2].strip("/")
        if name:
            return Whole.of(_model(name))
        return Whole.of({"models": [_model(each) for each in ("gemini-2.5-flash", "gemini-2.5-pro")]})


def _model(name: str) -> dict[str, Any]:
    return {"name": f"models/{name}", "displayName": name, "inputTokenLimit": 1_048_576, "outputTokenLimit": 65_536}


class UnknownGoogle(GoogleOperation):
    """Any other path."""

    api = "unknown"
    free = True

    def serve(self) -> Whole:
        return Whole.of(google_error(404, f"Not found: {self.call.method} {self.call.path}"), 404)


METHODS: Mapping[str, type[GoogleOperation]] = {
    "generateContent": GenerateContent,
    "streamGenerateContent": GenerateContent,
    "countTokens": CountTokens,
    "embedContent": EmbedContent,
    "batchEmbedContents": EmbedContent,
    "predict": EmbedContent,
}


def google_operation(call: Call) -> Operation:
    """The operation that a request to Gemini or to Vertex (Google's models) asks for."""
    found = MODEL_PATH.match(call.path)
    if call.method == "POST" and found and found[2] in METHODS:
        return METHODS[found[2]](call, found[1])
    if call.method == "GET" and MODELS_PATH.match(call.path):
        return Models(call)
    return UnknownGoogle(call)
