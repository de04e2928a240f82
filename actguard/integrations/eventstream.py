"""Reading Amazon's binary event streams along: how Bedrock streams what others send as server-sent events.

Every message has its length in front: four bytes of total length, four of the headers' length, a checksum, the headers,
the payload, a checksum. The payload of Bedrock's chunks is JSON with an event of the model's API in base64 under
``bytes``; messages without one (exceptions) tell nothing about usage. Checksums are the SDK's to verify.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from pydantic_core import from_json

from actguard.integrations.bodies import BodyReader
from actguard.integrations.metering import Outcome
from actguard.integrations.streams import StreamReader
from actguard.money.usage import Usage

PRELUDE_BYTES = 12
CHECKSUM_BYTES = 4


class EventStreamReader:
    """Cuts a byte stream into the events inside its messages. Chunks may end anywhere."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The JSON of each event that ``chunk`` completes."""
        buffer = self._buffer
        buffer += chunk
        while len(buffer) >= PRELUDE_BYTES:
            total = int.from_bytes(buffer[:4])
            headers = int.from_bytes(buffer[4:8])
            if total < PRELUDE_BYTES + headers + CHECKSUM_BYTES:
                raise ValueError(f"not an event stream: a message of {total} bytes with {headers} bytes of headers")
            if len(buffer) < total:
                return
            payload = bytes(buffer[PRELUDE_BYTES + headers : total - CHECKSUM_BYTES])
            del buffer[:total]
            encoded = from_json(payload).get("bytes") if payload else None
            if encoded:
                yield base64.b64decode(encoded)


class EventStreamBodyReader(BodyReader):
    """An unread body of such messages: each event goes to the reader of the stream's items."""

    def __init__(self, response: Any, items: StreamReader) -> None:
        super().__init__(response)
        self._items = items
        self._events = EventStreamReader()

    def read(self, chunk: bytes) -> None:
        for data in self._events.feed(chunk):
            self._items.feed(from_json(data))
        self.output_seen = self._items.output_seen

    def bill(self, complete: bool) -> Outcome:
        return self._items.bill(complete)

    def at_least(self) -> Usage:
        return self._items.at_least()

    @property
    def text(self) -> str | None:
        return self._items.text
