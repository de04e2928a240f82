"""From a path to the operation that it asks for. Each API has a prefix of its own on the loopback server."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from actguard.testing._anthropic import anthropic_operation
from actguard.testing._google import google_operation
from actguard.testing._openai import ChatCompletions, OpenAIOperation, UnknownOpenAI
from actguard.testing._openai_files import Batches, Files, Models
from actguard.testing._openai_media import Images, Speech, Transcriptions
from actguard.testing._openai_responses import Responses
from actguard.testing._openai_stored import Compact, StoredResponseOperation
from actguard.testing._openai_text import Completions, Embeddings, Moderations
from actguard.testing._wire import Call, Operation
from actguard.testing.received import Platform

OPENAI_POSTS: Mapping[str, type[OpenAIOperation]] = {
    "/chat/completions": ChatCompletions,
    "/responses": Responses,
    "/responses/compact": Compact,
    "/completions": Completions,
    "/embeddings": Embeddings,
    "/moderations": Moderations,
    "/images/generations": Images,
    "/images/edits": Images,
    "/audio/speech": Speech,
    "/audio/transcriptions": Transcriptions,
    "/audio/translations": Transcriptions,
}
OPENAI_OBJECTS: Mapping[str, type[OpenAIOperation]] = {
    "batches": Batches,
    "files": Files,
    "models": Models,
    "responses": StoredResponseOperation,
}
"""By the first segment of the path, whatever follows."""
OPENAI_BASE = re.compile(r"^(?:/openai)?(?:/v1)?(?:/deployments/([^/]+))?(/.+)$")


def openai_operation(call: Call) -> Operation:
    """The operation that a request to OpenAI or Azure asks for."""
    found = OPENAI_BASE.match(call.path)
    if found is None:
        return UnknownOpenAI(call)
    call = replace(call, path=found[2].rstrip("/"), deployment=found[1] or "")
    if call.method == "POST" and call.path in OPENAI_POSTS:
        return OPENAI_POSTS[call.path](call)
    first = call.path.split("/")[1]
    if first in OPENAI_OBJECTS and (call.path != "/responses"):
        return OPENAI_OBJECTS[first](call)
    return UnknownOpenAI(call)


ROUTES: Mapping[str, tuple[Platform, Callable[[Call], Operation]]] = {
    "openai": ("openai", openai_operation),
    "azure": ("azure", openai_operation),
    "anthropic": ("anthropic", anthropic_operation),
    "bedrock": ("bedrock", anthropic_operation),
    "vertex-anthropic": ("vertex", anthropic_operation),
    "google": ("google", google_operation),
    "vertex": ("vertex", google_operation),
}
"""By the first segment of the path."""


def _names(kind: type[Operation]) -> set[str]:
    own = {kind.api} if "api" in vars(kind) else set()
    return own.union(*map(_names, kind.__subclasses__()))


APIS = tuple(sorted(_names(Operation)))
"""What the APIs are called in scripts and records."""
