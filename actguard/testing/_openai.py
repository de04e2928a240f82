"""OpenAI's API: what its operations share, and chat completions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from actguard.testing._generation import Generation, Meter
from actguard.testing._wire import CREATED, Frame, Operation, Whole, as_limit, path_value, sse
from actguard.testing.answers import Failure
from actguard.testing.received import Provider

ERROR_CODES: Mapping[int, tuple[str, str | None]] = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", "unsupported_country_region_territory"),
    404: ("invalid_request_error", None),
    429: ("requests", "rate_limit_exceeded"),
}
CHAT_FINISH = {"stop": "stop", "length": "length", "tool_calls": "tool_calls", "content_filter": "content_filter"}
BEHIND_A_DEPLOYMENT = "gpt-4o-mini-2024-07-18"
"""The model behind an Azure deployment that the provider was told nothing about."""
DONE = b"data: [DONE]\n\n"


def openai_error(status: int, message: str, code: str | None = None) -> dict[str, Any]:
    """An error body as OpenAI words it."""
    kind, usual = ERROR_CODES.get(status, ("server_error", None))
    return {"error": {"message": message, "type": kind, "param": None, "code": code or usual}}


class OpenAIOperation(Operation):
    """An operation of OpenAI's API, asked of OpenAI itself or of Azure."""

    provider: ClassVar[Provider] = "openai"

    @property
    def model(self) -> str:
        return str(self.body.get("model") or self.call.deployment)

    @property
    def answering_model(self) -> str:
        if self.call.platform != "azure":
            return self.model
        return self.call.deployments.get(self.model, BEHIND_A_DEPLOYMENT)

    def failure(self, failure: Failure) -> Whole:
        return Whole.of(openai_error(failure.status, failure.message, failure.code), failure.status)


def service_tier(generation: Generation, body: Mapping[str, Any]) -> str:
    """The tier that the answer names: as scripted, else as asked for."""
    asked = body.get("service_tier")
    return generation.answer.service_tier or (asked if isinstance(asked, str) and asked != "auto" else "default")


def completion_usage(generation: Generation) -> Mapping[str, Any] | None:
    """Usage as chat completions report it: cached input and reasoning are parts of the totals."""
    answer = generation.answer
    if not answer.usage:
        return None
    if answer.raw_usage is not None:
        return answer.raw_usage
    prompt_details = {"cached_tokens": answer.cached_input_tokens, "audio_tokens": 0}
    if generation.cache_write_tokens:
        prompt_details["cache_write_tokens"] = generation.cache_write_tokens
    return {
        "prompt_tokens": generation.input_tokens,
        "completion_tokens": generation.output_tokens,
        "total_tokens": generation.total_tokens,
        "prompt_tokens_details": prompt_details,
        "completion_tokens_details": {
            "reasoning_tokens": generation.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


class ChatCompletions(OpenAIOperation):
    """POST /chat/completions."""

    api = "chat.completions"

    @property
    def output_limit(self) -> int | None:
        limit = as_limit(self.body.get("max_completion_tokens"))
        return as_limit(self.body.get("max_tokens")) if limit is None else limit

    @property
    def choices(self) -> int:
        return max(as_limit(self.body.get("n")) or 1, 1)

    def prompt(self) -> object:
        return [self.body.get(key) for key in ("messages", "tools", "functions", "response_format")]

    def schema(self) -> Mapping[str, Any] | None:
        schema: Mapping[str, Any] | None = path_value(self.body, "response_format", "json_schema", "schema")
        return schema

    def whole(self, generation: Generation) -> Whole:
        if generation.finish == "failed":
            return self.failure(Failure(500, "The model failed."))
        message: dict[str, Any] = {"role": "assistant", "content": generation.text or None, "refusal": None}
        if generation.tool_calls:
            message["tool_calls"] = [
                {
                    "id": generation.call_id(index),
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.json},
                }
                for index, call in enumerate(generation.tool_calls)
            ]
        choices = [
            {"index": index, "message": message, "logprobs": None, "finish_reason": CHAT_FINISH[generation.finish]}
            for index in range(generation.choices)
        ]
        body = {**self._head(generation, "chat.completion"), "choices": choices}
        usage = completion_usage(generation)
        if usage is not None:
            body["usage"] = usage
        return Whole.of(body)

    def frames(self, generation: Generation) -> Iterator[Frame]:
        wants_usage = path_value(self.body, "stream_options", "include_usage") is True and generation.answer.usage
        head = self._head(generation, "chat.completion.chunk")
        if wants_usage:
            head["usage"] = None

        def chunk(index: int, delta: dict[str, Any], finish: str | None = None) -> bytes:
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
            return sse({**head, "choices": [choice]})

        arguments = [call.json for call in generation.tool_calls]
        shown = (len(generation.text) + sum(map(len, arguments))) * generation.choices
        meter = Meter(generation, shown, thinking_shown=False)
        choices = range(generation.choices)
        if self.call.platform == "azure":
            # Azure speaks first about its content filter, in a chunk without choices.
            empty = {"id": "", "object": "", "created": 0, "model": "", "choices": []}
            yield Frame(sse({**empty, "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}]}))
        for index in choices:
            yield Frame(chunk(index, {"role": "assistant", "content": "", "refusal": None}))
        for piece in generation.pieces(generation.text):
            for index in choices:
                yield Frame(chunk(index, {"content": piece}), meter.after(piece))
        for index in choices:
            for position, call in enumerate(generation.tool_calls):
                opening = {"name": call.name, "arguments": ""}
                entry = {"index": position, "id": generation.call_id(position), "type": "function"}
                yield Frame(chunk(index, {"tool_calls": [{**entry, "function": opening}]}))
                for piece in generation.pieces(arguments[position]):
                    delta = {"index": position, "function": {"arguments": piece}}
                    yield Frame(chunk(index, {"tool_calls": [delta]}), meter.after(piece))
        if generation.finish == "failed":
            yield Frame(sse(openai_error(500, "The model failed.")))
            return
        for index in choices:
            yield Frame(chunk(index, {}, CHAT_FINISH[generation.finish]))
        if wants_usage:
            yield Frame(sse({**head, "choices": [], "usage": completion_usage(generation)}))
        yield Frame(DONE)

    def _head(self, generation: Generation, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{generation.number:06d}",
            "object": kind,
            "created": CREATED,
            "model": generation.model,
            "service_tier": service_tier(generation, self.body),
            "system_fingerprint": "fp_loopback",
        }


class UnknownOpenAI(OpenAIOperation):
    """Any other path."""

    api = "unknown"
    free = True

    def serve(self) -> Whole:
        return Whole.of(openai_error(404, f"Unknown request URL: {self.call.method} {self.call.path}."), 404)
