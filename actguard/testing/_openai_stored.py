"""OpenAI's responses after they were made: retrieve, cancel, delete; and the compaction of conversations."""

from __future__ import annotations

from typing import Any

from actguard.testing._generation import Generation
from actguard.testing._openai import OpenAIOperation, openai_error
from actguard.testing._openai_responses import StoredResponse, response_usage
from actguard.testing._wire import CREATED, Whole


class StoredResponseOperation(OpenAIOperation):
    """GET, DELETE and cancel of /responses/{id}: a background answer is ready the first time it is asked for."""

    api = "responses.retrieve"
    free = True

    def serve(self) -> Whole:
        response_id, _, action = self.call.path.removeprefix("/responses/").partition("/")
        stored: StoredResponse | None = self.call.shelf.get(response_id)
        if stored is None:
            return Whole.of(openai_error(404, f"Response with id '{response_id}' not found."), 404)
        if self.call.method == "DELETE":
            self.call.shelf.drop(response_id)
            return Whole.of({"id": response_id, "object": "response", "deleted": True})
        if action == "cancel":
            stored.cancelled = True
        elif self.call.query.get("stream") == "true":
            body = b"".join(frame.data for frame in stored.operation.events(stored.generation))
            return Whole(body, content_type="text/event-stream; charset=utf-8")
        return Whole.of(stored.finished())


class Compact(OpenAIOperation):
    """POST /responses/compact."""

    api = "responses.compact"

    def prompt(self) -> object:
        return [self.body.get("instructions"), self.body.get("input")]

    def whole(self, generation: Generation) -> Whole:
        item = {
            "id": f"cmp_{generation.number:06d}",
            "type": "compaction",
            "encrypted_content": generation.text,
        }
        body: dict[str, Any] = {
            "id": f"resp_{generation.number:06d}",
            "object": "response.compaction",
            "created_at": CREATED,
            "output": [item],
        }
        usage = response_usage(generation)
        if usage is not None:
            body["usage"] = usage
        return Whole.of(body)
