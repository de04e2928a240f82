"""Reading server-sent events along, from bytes as they come."""

from __future__ import annotations

from collections.abc import Iterator


class EventReader:
    """Cuts a byte stream into the data of its events. Lines may end in LF or CR LF; chunks may end anywhere."""

    __slots__ = ("_data", "_partial")

    def __init__(self) -> None:
        self._partial: list[bytes] = []
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The data of each event that ``chunk`` completes."""
        if b"\n" not in chunk:
            self._partial.append(chunk)
            return
        lines = b"".join((*self._partial, chunk)).split(b"\n")
        self._partial = [lines.pop()]
        for ended in lines:
            line = ended.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                yield self._take()

    def finish(self) -> Iterator[bytes]:
        """The data of an event that the end of the stream completes."""
        yield from self.feed(b"\n")
        if self._data:
            yield self._take()

    def _take(self) -> bytes:
        data, self._data = b"\n".join(self._data), []
        return data
