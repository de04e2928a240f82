"""Anthropic's API: messages, whole and streamed, as Anthropic, Bedrock and Vertex serve them; token counts, models."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from actguard.testing._eventstream import bedrock_chunk
from actguard.testing._generation import Generation, Meter, tokens_of_prompt
from actguard.testing._wire import Call, Frame, Operation, Whole, as_limit, path_value, sse
from actguard.testing.answers import Failure
from actguard.testing.received import Provider

STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
ERROR_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
SIGNATURE = "bG9vcGJhY2s="


def anthropic_error(status: int, message: str, code: str | None = None) -> dict[str, Any]:
    """An error body as Anthropic words it."""
    kind = code or ERROR_TYPES.get(status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_loopback"}


class AnthropicOperation(Operation):
    """An operation of Anthropic's API."""

    provider: ClassVar[Provider] = "anthropic"

    def __init__(self, call: Call, model: str | None = None) -> None:
        super().__init__(call)
        self._model = model

    @property
    def model(self) -> str:
        return self._model or super().model

    def prompt(self) -> object:
        return [self.body.get(key) for key in ("system", "tools", "messages")]

    def failure(self, failure: Failure) -> Whole:
        return Whole.of(anthropic_error(failure.status, failure.message, failure.code), failure.status)


class Messages(AnthropicOperation):
    """POST /v1/messages, and what Bedrock and Vertex make of it."""

    api = "messages"

    @property
    def stream(self) -> bool:
        return self.call.path.endswith("-stream") or super().stream

    @property
    def answering_model(self) -> str:
        """Without what Bedrock (region, vendor, version) and Vertex (date after @) add to the name."""
        name = re.sub(r"^.*anthropic\.", "", self.model)
        return re.sub(r"-v\d+(:\d+)?$", "", name).replace("@", "-")

    @property
    def output_limit(self) -> int | None:
        return as_limit(self.body.get("max_tokens"))

    @property
    def stream_type(self) -> str:
        if self.call.platform == "bedrock":
            return "application/vnd.amazon.eventstream"
        return super().stream_type

    def further_input_tokens(self) -> int:
        """A thread that is continued is input again, though its request holds the new messages only."""
        previous = path_value(self.body, "thread", "previous_message_id")
        return self.call.shelf.get(str(previous)) or 0

    def schema(self) -> Mapping[str, Any] | None:
        formats = (path_value(self.body, "output_config", "format"), self.body.get("output_format"))
        return next((each["schema"] for each in formats if isinstance(each, Mapping) and "schema" in each), None)

    def usage(self, generation: Generation) -> dict[str, Any]:
        """Usage in disjoint parts."""
        answer = generation.answer
        if answer.raw_usage is not None:
            return dict(answer.raw_usage)
        usage: dict[str, Any] = {
            "input_tokens": generation.uncached_input_tokens,
            "cache_creation_input_tokens": generation.cache_write_tokens,
            "cache_read_input_tokens": answer.cached_input_tokens,
            "cache_creation": {
                "ephemeral_5m_input_tokens": answer.cache_write_5m_tokens,
                "ephemeral_1h_input_tokens": answer.cache_write_1h_tokens,
            },
            "output_tokens": generation.output_tokens,
            "service_tier": answer.service_tier or "standard",
        }
        if generation.reasoning_tokens:
            usage["output_tokens_details"] = {"thinking_tokens": generation.reasoning_tokens}
        if answer.web_searches:
            usage["server_tool_use"] = {"web_search_requests": answer.web_searches, "web_fetch_requests": 0}
        return usage

    def content(self, generation: Generation) -> list[dict[str, Any]]:
        """The finished content blocks. Tool input is the mapping that the model's JSON stands for."""
        blocks: list[dict[str, Any]] = []
        if generation.thinking:
            blocks.append({"type": "thinking", "thinking": generation.thinking, "signature": SIGNATURE})
        if generation.text:
            blocks.append({"type": "text", "text": generation.text, "citations": None})
        for index, call in enumerate(generation.tool_calls):
            given = {} if isinstance(call.arguments, str) else dict(call.arguments)
            block_id = generation.call_id(index, "toolu")
            blocks.append({"type": "tool_use", "id": block_id, "name": call.name, "input": given})
        return blocks

    def message(self, generation: Generation, content: list[dict[str, Any]], reason: str | None) -> dict[str, Any]:
        """The message object."""
        message_id = f"msg_{generation.number:06d}"
        if "thread" in self.body:
            self.call.shelf.put(message_id, generation.total_tokens)
        return {
            "id": message_id,
            "type": "message",
            "role": "assistant",
            "model": generation.model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": None,
        }

    def whole(self, generation: Generation) -> Whole:
        if generation.finish == "failed":
            return self.failure(Failure(529, "Overloaded"))
        message = self.message(generation, self.content(generation), STOP_REASONS[generation.finish])
        if generation.answer.usage:
            message["usage"] = self.usage(generation)
        return Whole.of(message)

    def frames(self, generation: Generation) -> Iterator[Frame]:
        send = bedrock_chunk if self.call.platform == "bedrock" else _named_event
        usage = self.usage(generation) if generation.answer.usage else None
        start = self.message(generation, [], None)
        if usage is not None:
            # Some of the output was generated by the time the stream starts: providers say 1 here.
            start["usage"] = {**usage, "output_tokens": min(usage.get("output_tokens") or 0, 1)}
            start["usage"].pop("output_tokens_details", None)
        yield Frame(send({"type": "message_start", "message": start}))
        yield Frame(send({"type": "ping"}))
        texts = [generation.thinking, generation.text, *(call.json for call in generation.tool_calls)]
        meter = Meter(generation, sum(map(len, texts)), thinking_shown=True)
        written = [text for text in texts[:2] if text] + texts[2:]
        for index, (block, text) in enumerate(zip(self.content(generation), written, strict=True)):
            yield Frame(send({"type": "content_block_start", "index": index, "content_block": _begun(block)}))
            for piece in generation.pieces(text):
                delta = _delta(block["type"], piece)
                payload = {"type": "content_block_delta", "index": index, "delta": delta}
                yield Frame(send(payload), meter.after(piece))
            if block["type"] == "thinking":
                delta = {"type": "signature_delta", "signature": SIGNATURE}
                yield Frame(send({"type": "content_block_delta", "index": index, "delta": delta}))
            yield Frame(send({"type": "content_block_stop", "index": index}))
        if generation.finish == "failed":
            yield Frame(send(anthropic_error(529, "Overloaded")))
            return
        end: dict[str, Any] = {
            "type": "message_delta",
            "delta": {"stop_reason": STOP_REASONS[generation.finish], "stop_sequence": None},
        }
        if usage is not None:
            end["usage"] = {key: usage[key] for key in usage if key not in ("cache_creation", "service_tier")}
        yield Frame(send(end))
        yield Frame(send({"type": "message_stop"}))


def _named_event(payload: Mapping[str, Any]) -> bytes:
    return sse(payload, payload["type"])


def _begun(block: Mapping[str, Any]) -> dict[str, Any]:
    empty: dict[str, dict[str, Any]] = {
        "thinking": {"thinking": "", "signature": ""},
        "text": {"text": ""},
        "tool_use": {"input": {}},
    }
    return {**block, **empty[block["type"]]}


def _delta(kind: str, piece: str) -> dict[str, str]:
    if kind == "tool_use":
        return {"type": "input_json_delta", "partial_json": piece}
    return {"type": f"{kind}_delta", kind: piece}


class CountTokens(AnthropicOperation):
    """POST /v1/messages/count_tokens."""

    api = "messages.count_tokens"
    free = True

    def serve(self) -> Whole:
        return Whole.of({"input_tokens": tokens_of_prompt(self.prompt())})


class Models(AnthropicOperation):
    """GET /v1/models and /v1/models/{id}."""

    api = "models"
    free = True

    def serve(self) -> Whole:
        name = self.call.path.removeprefix("/v1/models").strip("/")
        if name:
            return Whole.of(_model(name))
        models = [_model(each) for each in ("claude-opus-4-5", "claude-sonnet-4-5", "claude-haiku-4-5")]
        ends = {"first_id": models[0]["id"], "last_id": models[-1]["id"]}
        return Whole.of({"data": models, "has_more": False, **ends})


def _model(name: str) -> dict[str, Any]:
    return {"type": "model", "id": name, "display_name": name, "created_at": "2025-09-29T00:00:00Z"}


class UnknownAnthropic(AnthropicOperation):
    """Any other path."""

    api = "unknown"
    free = True

    def serve(self) -> Whole:
        return Whole.of(anthropic_error(404, f"Not found: {self.call.method} {self.call.path}"), 404)


VERTEX_PATH = re.compile(r"^(?:/v1)?/projects/.+/publishers/anthropic/models/([^/]+):(rawPredict|streamRawPredict)$")
BEDROCK_PATH = re.compile(r"^/model/(.+)/invoke(-with-response-stream)?$")


def anthropic_operation(call: Call) -> Operation:
    """The operation that a request to Anthropic, Bedrock or Vertex (Anthropic's models) asks for."""
    if call.method == "POST":
        if call.path == "/v1/messages":
            return Messages(call)
        if call.path == "/v1/messages/count_tokens":
            return CountTokens(call)
        elsewhere = {"bedrock": BEDROCK_PATH, "vertex": VERTEX_PATH}.get(call.platform)
        found = elsewhere.match(call.path) if elsewhere else None
        if found:
            model = urllib.parse.unquote(found[1])
            return CountTokens(call) if model == "count-tokens" else Messages(call, model)
    elif call.path.startswith("/v1/models"):
        return Models(call)
    return UnknownAnthropic(call)
