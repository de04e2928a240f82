"""Metering the body of an HTTP response that the caller has not read yet.

Nothing is read for it: the response's own `iter_bytes` (which `read`, `json`, `iter_lines` and SDK streams go through,
decompressed) is replaced on that one instance by one that reads along, and its byte stream by one that notices when it
is closed.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from pydantic_core import from_json

from actguard.guards.charging import PriceContext
from actguard.integrations.metering import Outcome, Settlement
from actguard.integrations.sse import EventReader
from actguard.integrations.streams import MeteredAsyncIterator, MeteredIterator, StreamMeter, StreamReader
from actguard.locks import when_safe
from actguard.money.usage import Usage

KEPT_BYTES = 32 * 2**20
"""The longest body that is kept to read its usage block and to hand it over with a crossing."""


class BodyReader(StreamReader):
    """Reads a body along, chunk by chunk of bytes."""

    def __init__(self, response: Any) -> None:
        self._response = weakref.ref(response)
        self._chunks: list[bytes] = []
        self._size = 0

    def feed(self, item: bytes) -> bool:
        self._size += len(item)
        if self._size <= KEPT_BYTES:
            self._chunks.append(item)
        self.read(item)
        return True

    @abstractmethod
    def read(self, chunk: bytes) -> None:
        """Read one chunk along."""

    @property
    def text(self) -> str | None:
        return None

    @property
    def body(self) -> bytes | None:
        """What arrived so far; None when it is too long to be kept."""
        return b"".join(self._chunks) if self._size <= KEPT_BYTES else None

    def crossing(self) -> None:
        """Give the response the body that was read: the error interrupts the caller who was reading it."""
        response = self._response()
        body = self.body
        if response is not None and body is not None and not hasattr(response, "_content"):
            response._content = body


class EventBodyReader(BodyReader):
    """Server-sent events: each event's JSON goes to the reader of the stream's items."""

    def __init__(self, response: Any, items: StreamReader) -> None:
        super().__init__(response)
        self._items = items
        self._events = EventReader()

    def read(self, chunk: bytes) -> None:
        for data in self._events.feed(chunk):
            self._read_event(data)

    def _read_event(self, data: bytes) -> None:
        if data.startswith(b"[DONE]"):
            return
        self._items.feed(from_json(data))
        self.output_seen = self._items.output_seen

    def bill(self, complete: bool) -> Outcome:
        if complete:
            for data in self._events.finish():
                self._read_event(data)
        return self._items.bill(complete)

    def at_least(self) -> Usage:
        return self._items.at_least()

    def contexts(self) -> tuple[PriceContext, ...]:
        return self._items.contexts()

    @property
    def text(self) -> str | None:
        return self._items.text


class JsonBodyReader(BodyReader):
    """One JSON document: read when it is complete."""

    tells_progress = False

    def __init__(self, response: Any, bill_of: Callable[[Any], Outcome], unread: Callable[[], Outcome]) -> None:
        super().__init__(response)
        self._bill_of = bill_of
        self._unread = unread

    def read(self, chunk: bytes) -> None:
        """Nothing: half a document says nothing."""

    def bill(self, complete: bool) -> Outcome:
        body = self.body if complete else None
        return self._unread() if not body else self._bill_of(from_json(body))


class OpaqueBodyReader(BodyReader):
    """A body that says nothing about its cost (audio, plain text): the bill is known beforehand."""

    tells_progress = False

    def __init__(self, response: Any, known: Callable[[], Outcome]) -> None:
        super().__init__(response)
        self._known = known

    def read(self, chunk: bytes) -> None:
        """Nothing to learn from it."""

    def bill(self, complete: bool) -> Outcome:
        return self._known()


class _Dropped:
    """Settles when the response it hangs on is dropped."""

    __slots__ = ("_meter",)

    def __init__(self, meter: StreamMeter) -> None:
        self._meter = meter

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # interpreter shutdown: modules may be gone
            when_safe(self._meter.closed)


def meter_body(response: Any, reader: BodyReader, settlement: Settlement, subject: object) -> None:
    """Have an unread HTTP response (httpx or httpx2, sync or async) charge itself while the caller reads it."""
    meter = StreamMeter(reader, settlement, subject)
    kind: Any = type(response)
    this: Callable[[], Any] = weakref.ref(response)

    def iter_bytes(chunk_size: int | None = None) -> Iterator[bytes]:
        response = this()
        source = kind.iter_bytes(response, chunk_size)
        return source if meter.over else MeteredIterator(source, meter, response.close)

    def aiter_bytes(chunk_size: int | None = None) -> AsyncIterator[bytes]:
        response = this()
        source = kind.aiter_bytes(response, chunk_size)
        return source if meter.over else MeteredAsyncIterator(source, meter, response.aclose)

    response.iter_bytes = iter_bytes
    response.aiter_bytes = aiter_bytes
    response.actguard_dropped = _Dropped(meter)
    notice_close(response, meter)


def notice_close(response: Any, meter: StreamMeter) -> None:
    """Have the closing of ``response`` settle: SDK helpers close the response, not the stream made from it.

    Its byte stream is wrapped, as nothing that hangs on the response itself may refer back to it: a dropped response
    must go at once, and close its connection from a finalizer.
    """
    bases = tuple(kind for kind in type(response.stream).__mro__ if kind.__name__ in _BYTE_STREAMS)
    response.stream = _noticing(bases)(response.stream, meter)


_BYTE_STREAMS = ("SyncByteStream", "AsyncByteStream")
"""What httpx and httpx2 call them; a response accepts those of its own library only."""


@functools.cache
def _noticing(bases: tuple[type, ...]) -> type:
    return type("NoticingByteStream", (_NoticingByteStream, *bases), {})


class _NoticingByteStream:
    """Passes everything on, and tells the meter when it is closed."""

    def __init__(self, stream: Any, meter: StreamMeter) -> None:
        self._stream = stream
        self._meter = meter

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stream)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            when_safe(self._meter.closed)

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            when_safe(self._meter.closed)


def unread(response: Any) -> bool:
    """True while the body of an HTTP response has not been read."""
    return not hasattr(response, "_content")
