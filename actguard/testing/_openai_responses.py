"""OpenAI's Responses API: a response, whole, streamed as events, or in the background."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from actguard.testing._generation import Generation, Meter
from actguard.testing._openai import OpenAIOperation, service_tier
from actguard.testing._wire import CREATED, Frame, Whole, as_limit, path_value, sse

ENDED = {"length": "incomplete", "content_filter": "incomplete", "failed": "failed"}
"""Statuses of answers that did not simply complete; the event that ends a stream has the same name."""
INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
ECHOED = ("instructions", "max_output_tokens", "metadata", "previous_response_id", "reasoning", "temperature", "text")


def response_usage(generation: Generation) -> Mapping[str, Any] | None:
    """Usage as responses report it."""
    answer = generation.answer
    if not answer.usage:
        return None
    if answer.raw_usage is not None:
        return answer.raw_usage
    return {
        "input_tokens": generation.input_tokens,
        "input_tokens_details": {
            "cached_tokens": answer.cached_input_tokens,
            "cache_write_tokens": generation.cache_write_tokens,
        },
        "output_tokens": generation.output_tokens,
        "output_tokens_details": {"reasoning_tokens": generation.reasoning_tokens},
        "total_tokens": generation.total_tokens,
    }


class Responses(OpenAIOperation):
    """POST /responses."""

    api = "responses"

    @property
    def output_limit(self) -> int | None:
        return as_limit(self.body.get("max_output_tokens"))

    @property
    def background(self) -> bool:
        """The answer is fetched later."""
        return self.body.get("background") is True

    def prompt(self) -> object:
        return [self.body.get(key) for key in ("instructions", "tools", "text", "input")]

    def further_input_tokens(self) -> int:
        """What the previous response read and wrote is input again."""
        stored: StoredResponse | None = self.call.shelf.get(str(self.body.get("previous_response_id")))
        return 0 if stored is None else stored.generation.total_tokens

    def schema(self) -> Mapping[str, Any] | None:
        schema: Mapping[str, Any] | None = path_value(self.body, "text", "format", "schema")
        return schema

    def whole(self, generation: Generation) -> Whole:
        stored = self._store(generation)
        if self.background:
            return Whole.of(self.response(generation, "queued", []))
        return Whole.of(stored.finished())

    def frames(self, generation: Generation) -> Iterator[Frame]:
        self._store(generation)
        yield from self.events(generation)

    def _store(self, generation: Generation) -> StoredResponse:
        stored = StoredResponse(self, generation)
        if self.background or self.body.get("store") is not False:
            self.call.shelf.put(self.response_id(generation), stored)
        return stored

    @staticmethod
    def response_id(generation: Generation) -> str:
        """The id of the response."""
        return f"resp_{generation.number:06d}"

    def response(self, generation: Generation, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        """The response object in a state of its life; usage comes with the last one."""
        finish, ended = generation.finish, status in ("completed", "incomplete", "failed")
        failed = {"code": "server_error", "message": "The model failed."} if status == "failed" else None
        answer = generation.answer
        result: dict[str, Any] = {
            "id": self.response_id(generation),
            "object": "response",
            "created_at": CREATED,
            "status": status,
            "background": self.background,
            "error": failed,
            "incomplete_details": {"reason": INCOMPLETE[finish]} if status == "incomplete" else None,
            "model": generation.model,
            "output": output,
            "parallel_tool_calls": True,
            "service_tier": service_tier(generation, self.body) if ended else "auto",
            "store": self.body.get("store") is not False,
            "tool_choice": self.body.get("tool_choice", "auto"),
            "tools": self.body.get("tools") or [],
            "top_p": 1.0,
            "truncation": "disabled",
            "usage": response_usage(generation) if ended else None,
            "user": None,
        }
        result.update((key, self.body[key]) for key in ECHOED if key in self.body)
        if ended and answer.web_searches:
            result["tool_usage"] = tool_usage(answer.web_searches)
        return result

    def items(self, generation: Generation) -> list[dict[str, Any]]:
        """The output items of the finished answer, in order."""
        number = generation.number
        items: list[dict[str, Any]] = []
        if generation.thinking:
            summary = [{"type": "summary_text", "text": generation.thinking}]
            items.append({"id": f"rs_{number:06d}", "type": "reasoning", "summary": summary})
        items.extend(
            {
                "id": f"ws_{number:06d}_{index}",
                "type": "web_search_call",
                "status": "completed",
                "action": {"type": "search", "query": f"search {index + 1}"},
            }
            for index in range(generation.answer.web_searches)
        )
        if generation.text or not generation.tool_calls:
            items.append(
                {
                    "id": f"msg_{number:06d}",
                    "type": "message",
                    "status": "incomplete" if generation.finish in ENDED else "completed",
                    "role": "assistant",
                    "content": [{"type": "output_text", "text": generation.text, "annotations": [], "logprobs": []}],
                }
            )
        items.extend(
            {
                "id": f"fc_{number:06d}_{index}",
                "type": "function_call",
                "status": "completed",
                "name": call.name,
                "call_id": generation.call_id(index),
                "arguments": call.json,
            }
            for index, call in enumerate(generation.tool_calls)
        )
        return items

    def events(self, generation: Generation) -> Iterator[Frame]:
        """The stream: numbered events, the last of which carries the finished response."""
        number = 0

        def event(kind: str, **fields: Any) -> bytes:
            nonlocal number
            number += 1
            return sse({"type": f"response.{kind}", "sequence_number": number - 1, **fields}, f"response.{kind}")

        items = self.items(generation)
        shown = sum(len(text) for text in (generation.thinking, generation.text))
        meter = Meter(generation, shown + sum(len(call.json) for call in generation.tool_calls), thinking_shown=True)
        if self.background:
            yield Frame(event("queued", response=self.response(generation, "queued", [])))
        yield Frame(event("created", response=self.response(generation, "in_progress", [])))
        yield Frame(event("in_progress", response=self.response(generation, "in_progress", [])))
        for index, item in enumerate(items):
            place = {"output_index": index, "item_id": item["id"]}
            yield Frame(event("output_item.added", output_index=index, item=begun(item)))
            opening, delta, closing = item_events(item)
            for kind, fields in opening:
                yield Frame(event(kind, **place, **fields))
            if delta is not None:
                kind, text, fields = delta
                for piece in generation.pieces(text):
                    yield Frame(event(kind, **place, **fields, delta=piece), meter.after(piece))
            for kind, fields in closing:
                yield Frame(event(kind, **place, **fields))
            yield Frame(event("output_item.done", output_index=index, item=item))
        status = ENDED.get(generation.finish, "completed")
        yield Frame(event(status, response=self.response(generation, status, items)))


Fields = dict[str, Any]


def begun(item: Mapping[str, Any]) -> dict[str, Any]:
    """An output item as it is announced: nothing in it yet."""
    empty: dict[str, dict[str, Any]] = {
        "reasoning": {"summary": []},
        "message": {"content": []},
        "function_call": {"arguments": ""},
    }
    status = {} if item["type"] == "reasoning" else {"status": "in_progress"}
    return {**item, **empty.get(item["type"], {}), **status}


def item_events(
    item: Mapping[str, Any],
) -> tuple[list[tuple[str, Fields]], tuple[str, str, Fields] | None, list[tuple[str, Fields]]]:
    """The events between an item's added and done: before its text, the text and its event, after it."""
    if item["type"] == "message":
        part = item["content"][0]
        at: Fields = {"content_index": 0}
        return (
            [("content_part.added", {**at, "part": {**part, "text": ""}})],
            ("output_text.delta", part["text"], {**at, "logprobs": []}),
            [
                ("output_text.done", {**at, "text": part["text"], "logprobs": []}),
                ("content_part.done", {**at, "part": part}),
            ],
        )
    if item["type"] == "reasoning":
        part = item["summary"][0]
        at = {"summary_index": 0}
        return (
            [("reasoning_summary_part.added", {**at, "part": {**part, "text": ""}})],
            ("reasoning_summary_text.delta", part["text"], at),
            [
                ("reasoning_summary_text.done", {**at, "text": part["text"]}),
                ("reasoning_summary_part.done", {**at, "part": part}),
            ],
        )
    if item["type"] == "function_call":
        done = {"name": item["name"], "arguments": item["arguments"]}
        return [], ("function_call_arguments.delta", item["arguments"], {}), [("function_call_arguments.done", done)]
    steps: list[tuple[str, Fields]] = [(f"web_search_call.{step}", {}) for step in ("in_progress", "searching")]
    return steps, None, [("web_search_call.completed", {})]


def tool_usage(searches: int) -> dict[str, Any]:
    """What hosted tools used, beside the tokens."""
    images = {
        "input_tokens": 0,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"image_tokens": 0, "text_tokens": 0},
        "total_tokens": 0,
    }
    return {"image_gen": images, "web_search": {"num_requests": searches}}


@dataclass(slots=True)
class StoredResponse:
    """A response that can be asked for again by its id."""

    operation: Responses
    generation: Generation
    cancelled: bool = False

    def finished(self) -> dict[str, Any]:
        """The response object in its last state."""
        if self.cancelled:
            return self.operation.response(self.generation, "cancelled", [])
        status = ENDED.get(self.generation.finish, "completed")
        return self.operation.response(self.generation, status, self.operation.items(self.generation))
