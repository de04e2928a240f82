"""OpenAI's free bookkeeping: models, files, batches. As much of it as a client needs to go through the motions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from actguard.testing._openai import OpenAIOperation, openai_error
from actguard.testing._wire import CREATED, Whole, path_value

MODELS = ("gpt-4o", "gpt-4o-mini", "text-embedding-3-small")


class Models(OpenAIOperation):
    """GET /models and /models/{id}."""

    api = "models"
    free = True

    def serve(self) -> Whole:
        name = self.call.path.removeprefix("/models").strip("/")
        if name:
            return Whole.of(_model(name))
        return Whole.of({"object": "list", "data": [_model(each) for each in MODELS]})


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "loopback"}


@dataclass(slots=True)
class StoredObject:
    """A file or a batch."""

    kind: str
    value: dict[str, Any]


class StoredObjects(OpenAIOperation):
    """Create, list, retrieve and delete for one kind of object."""

    free = True

    def serve(self) -> Whole:
        object_id, _, action = self.call.path.removeprefix("/" + self.api).strip("/").partition("/")
        if not object_id:
            return Whole.of(self._create() if self.call.method == "POST" else self._list())
        stored: StoredObject | None = self.call.shelf.get(object_id)
        if stored is None or stored.kind != self.api:
            return Whole.of(openai_error(404, f"No such {self.api} object: {object_id}"), 404)
        if self.call.method == "DELETE":
            self.call.shelf.drop(object_id)
            return Whole.of({"id": object_id, "object": stored.value["object"], "deleted": True})
        return self.act(stored.value, action)

    def act(self, value: dict[str, Any], action: str) -> Whole:
        """What follows the id in the path."""
        raise NotImplementedError

    def new(self) -> dict[str, Any]:
        """A new object."""
        raise NotImplementedError

    def _create(self) -> Mapping[str, Any]:
        value = self.new()
        self.call.shelf.put(value["id"], StoredObject(self.api, value))
        return value

    def _list(self) -> Mapping[str, Any]:
        data = [each.value for each in self.call.shelf.all(StoredObject) if each.kind == self.api]
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
        return {"object": "list", "data": data, "has_more": False, **ends}


class Files(StoredObjects):
    """/files. What is uploaded is not kept, so its content is empty."""

    api = "files"

    def new(self) -> dict[str, Any]:
        return {
            "id": f"file-{self.number:06d}",
            "object": "file",
            "bytes": path_value(self.body, "file", "bytes") or 0,
            "created_at": CREATED,
            "filename": path_value(self.body, "file", "filename") or "file",
            "purpose": self.body.get("purpose") or "assistants",
            "status": "processed",
        }

    def act(self, value: dict[str, Any], action: str) -> Whole:
        if action == "content":
            return Whole(b"", content_type="application/octet-stream")
        return Whole.of(value)


class Batches(StoredObjects):
    """/batches. A batch is validating when it is made and completed when it is asked for; it runs nothing."""

    api = "batches"

    def new(self) -> dict[str, Any]:
        return {
            "id": f"batch_{self.number:06d}",
            "object": "batch",
            "endpoint": self.body.get("endpoint"),
            "input_file_id": self.body.get("input_file_id"),
            "completion_window": self.body.get("completion_window") or "24h",
            "status": "validating",
            "created_at": CREATED,
            "metadata": self.body.get("metadata"),
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
        }

    def act(self, value: dict[str, Any], action: str) -> Whole:
        if action == "cancel":
            value.update(status="cancelled", cancelled_at=CREATED)
        elif value["status"] == "validating":
            value.update(status="completed", completed_at=CREATED)
        return Whole.of(value)
