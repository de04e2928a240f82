"""What all three APIs share: a request as an operation, its answer whole or in frames, SSE.

Nothing here waits or touches a socket: an operation says what to send, the server sends it.
"""

from __future__ import annotations

import json
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from actguard.testing._generation import Generation
from actguard.testing.answers import Failure
from actguard.testing.received import Platform, Provider

CREATED = 1_750_000_000
"""The time that answers carry, in epoch seconds: always the same, as everything here."""
KEPT_OBJECTS = 1_000
DIMENSIONS = 16
"""Of embeddings, where the request does not say."""


_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def dumps(value: object) -> bytes:
    """JSON as it goes over the wire."""
    return _encode(value).encode()


def sse(payload: object, event: str | None = None) -> bytes:
    """One server-sent event."""
    name = b"" if event is None else b"event: " + event.encode() + b"\n"
    return name + b"data: " + dumps(payload) + b"\n\n"


@dataclass(frozen=True, slots=True)
class Frame:
    """A part of a stream that is sent in one go."""

    data: bytes
    output_tokens: int | None = None
    """Tokens generated so far, where this frame carries generated content: only such frames are paced and counted."""


@dataclass(frozen=True, slots=True)
class Whole:
    """An answer that is sent in one piece."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, value: object, status: int = 200) -> Whole:
        """A JSON answer."""
        return cls(dumps(value), status)


def vector(text: str, dimensions: int) -> list[float]:
    """A made-up embedding, always the same for the same text; its numbers are exact as 32-bit floats."""
    seed = zlib.crc32(text.encode())
    return [((seed >> index % 24) + index & 255) / 256 - 0.5 for index in range(dimensions)]


class Shelf:
    """What a provider remembers between requests: stored responses, files, batches. The oldest go first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Any] = OrderedDict()

    def put(self, key: str, value: Any) -> None:
        """Keep ``value``."""
        self._kept[key] = value
        if len(self._kept) > KEPT_OBJECTS:
            self._kept.popitem(last=False)

    def get(self, key: str) -> Any:
        """What was kept, or None."""
        return self._kept.get(key)

    def drop(self, key: str) -> None:
        """Forget ``key``."""
        self._kept.pop(key, None)

    def all(self, kind: type) -> list[Any]:
        """Everything of one kind, oldest first."""
        return [value for value in self._kept.values() if isinstance(value, kind)]


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request as the routers see it."""

    number: int
    platform: Platform
    method: str
    path: str
    """Without the prefix that names the platform; routers take more off."""
    query: Mapping[str, str]
    body: Mapping[str, Any]
    shelf: Shelf
    deployments: Mapping[str, str]
    """Azure: deployment names and the models behind them."""
    deployment: str = ""
    """Azure: the deployment that the path names."""


class Operation:
    """One request of a known kind. Subclasses say how their API words it."""

    provider: ClassVar[Provider]
    api: ClassVar[str]
    free: ClassVar[bool] = False
    """Costs nothing: not scripted unless a script names its api, answered by `serve`."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.body = call.body
        self.number = call.number

    @property
    def model(self) -> str:
        """The model that is asked for."""
        return str(self.body.get("model") or "")

    @property
    def answering_model(self) -> str:
        """The model that the answer names when the script does not."""
        return self.model

    @property
    def stream(self) -> bool:
        """The client wants its answer in pieces."""
        return str(self.body.get("stream") or "").lower() == "true"

    @property
    def in_pieces(self) -> bool:
        """The answer goes out in pieces."""
        return self.stream

    @property
    def counts_tokens(self) -> bool:
        """The price depends on tokens, not on seconds, characters or pictures."""
        return True

    @property
    def output_limit(self) -> int | None:
        """The most tokens of one choice."""
        return None

    @property
    def choices(self) -> int:
        """Answers wanted."""
        return 1

    @property
    def stream_type(self) -> str:
        """Content type of a stream."""
        return "text/event-stream; charset=utf-8"

    def prompt(self) -> object:
        """The parts of the body that are billed as input."""
        return None

    def schema(self) -> Mapping[str, Any] | None:
        """The JSON schema that the answer has to keep to."""
        return None

    def further_input_tokens(self) -> int:
        """Input tokens beside the text of the request: media, and what the provider remembers of a conversation."""
        return 0

    def default_output_tokens(self) -> int | None:
        """Output of an answer that has no text; None: it has text."""
        return None

    def serve(self) -> Whole:
        """The answer of a free operation."""
        raise NotImplementedError

    def whole(self, generation: Generation) -> Whole:
        """The answer in one piece."""
        raise NotImplementedError

    def frames(self, generation: Generation) -> Iterator[Frame]:
        """The answer in pieces."""
        raise NotImplementedError

    def failure(self, failure: Failure) -> Whole:
        """An error in the shape of this API."""
        raise NotImplementedError


def path_value(mapping: object, *path: str) -> Any:
    """``mapping[path[0]][path[1]]…``, None where something is missing or is no mapping."""
    for name in path:
        if not isinstance(mapping, Mapping):
            return None
        mapping = mapping.get(name)
    return mapping


def as_limit(value: object) -> int | None:
    """A number of the request as an int, also from the text of a form; None when there is none."""
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
