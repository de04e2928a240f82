"""The HTTP side of the loopback gateway: plain asyncio, so that it can break off, drip and lie wherever it likes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER that makes closing a socket send RST instead of FIN."""
STOP_SECONDS = 5.0
BACKLOG = 1_024
LONGEST_HEAD = 64 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came in."""

    method: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """What is sent back, and how badly."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    hang: bool = False
    reset: bool = False
    cut_after: int | None = None
    drip_s: float = 0.0

    @property
    def head(self) -> bytes:
        """Status line and headers."""
        reason = HTTPStatus(self.status).phrase if self.status in HTTPStatus._value2member_map_ else "Unknown"
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(self.body)),
            "Date": formatdate(usegmt=True),
            **self.headers,
        }
        lines = [f"HTTP/1.1 {self.status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join(lines).encode() + b"\r\n\r\n"


Handle = Callable[[Request], Reply]


class GatewayServer:
    """One thread, one event loop, one listening socket on 127.0.0.1."""

    def __init__(self, handle: Handle, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self._handle = handle
        self._tls = tls
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._connections: set[asyncio.Task[Any]] = set()
        self.port = port
        """Kept over a stop and the next start."""
        self.accepted = 0
        """Connections that were made."""

    @property
    def running(self) -> bool:
        """True between `start` and `stop`."""
        return self._thread is not None

    def start(self) -> None:
        """Start the thread; returns when it listens."""
        ready: Future[int] = Future()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="actguard-loopback-gateway", daemon=True)
        self._thread.start()
        self.port = ready.result()

    def stop(self) -> None:
        """Drop all connections and end the thread. Stopping twice does nothing."""
        thread, self._thread = self._thread, None
        if thread is not None and self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join(STOP_SECONDS)

    def _run(self, ready: Future[int]) -> None:
        with asyncio.Runner() as runner:
            runner.run(self._serve(ready))

    async def _serve(self, ready: Future[int]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_exception_handler(lambda _loop, _context: None)  # clients that break off TLS are no news here
        try:
            server = await asyncio.start_server(
                self._converse, "127.0.0.1", self.port, ssl=self._tls, backlog=BACKLOG, limit=LONGEST_HEAD
            )
        except OSError as error:
            ready.set_exception(error)
            return
        ready.set_result(server.sockets[0].getsockname()[1])
        await self._stop.wait()
        server.close()
        for connection in tuple(self._connections):
            connection.cancel()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while (request := await _read(reader, writer)) is not None:
                if not await self._answer(writer, reader, self._handle(request)):
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # the client has gone, or the server stops
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _answer(self, writer: asyncio.StreamWriter, reader: asyncio.StreamReader, reply: Reply) -> bool:
        """Send ``reply``; False when the connection ends with it."""
        if reply.delay_s:
            await asyncio.sleep(reply.delay_s)
        if reply.hang:
            await reader.read(1)  # returns when the client has gone
            return False
        if reply.reset:
            return _reset(writer)
        content = reply.head + reply.body
        if reply.cut_after is not None:
            writer.write(content[: len(reply.head) + reply.cut_after])
            await writer.drain()
            return _reset(writer)
        if not reply.drip_s:
            writer.write(content)
            await writer.drain()
            return True
        writer.write(reply.head)
        for at in range(len(reply.body)):
            writer.write(reply.body[at : at + 1])
            await writer.drain()
            await asyncio.sleep(reply.drip_s)
        return True


def _reset(writer: asyncio.StreamWriter) -> bool:
    sock: socket.socket | None = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    return False


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    begins = await reader.read(1)
    if not begins.isalpha():
        if begins:  # it speaks TLS, or nothing that we know
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
        return None
    head = (begins + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, path, _ = first.split(" ", 2)
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, path, headers, body)
