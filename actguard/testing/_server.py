"""The HTTP side of the loopback provider: one thread, one event loop, one listening socket on 127.0.0.1."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from aiohttp import BodyPartReader, web

from actguard.testing._generation import Generation, generate
from actguard.testing._log import RequestLog
from actguard.testing._openai import UnknownOpenAI
from actguard.testing._routes import ROUTES
from actguard.testing._script import Script
from actguard.testing._wire import Call, Operation, Shelf, Whole
from actguard.testing.answers import Answer, Failure, Hang, Reset
from actguard.testing.received import SECRET_HEADERS, SECRET_QUERY, ReceivedRequest, without_secrets

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER that makes closing a socket send RST instead of FIN."""
STOP_SECONDS = 5.0
BACKLOG = 1_024
LONGEST_BODY = 2**30


class LoopbackServer:
    """Receives, records and answers requests until it is stopped."""

    def __init__(self, script: Script, deployments: Mapping[str, str]) -> None:
        self.script = script
        self.log = RequestLog()
        self._deployments = deployments
        self._shelf = Shelf()
        self._number = 0
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._ready: Future[int] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    def start(self) -> Future[int]:
        """Start the thread; the port, once it listens."""
        if self._thread is not None:
            raise RuntimeError("The loopback provider is running already.")
        self._stopping = False
        self._ready = Future()
        self._thread = threading.Thread(target=self._run, args=(self._ready,), name="actguard-loopback", daemon=True)
        self._thread.start()
        return self._ready

    def stop(self) -> None:
        """Drop all connections and end the thread. Stopping twice does nothing."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._stopping = True
        if self._ready.exception() is None and self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        thread.join(STOP_SECONDS)

    def _run(self, ready: Future[int]) -> None:
        with asyncio.Runner() as runner:
            runner.run(self._serve(ready))

    async def _serve(self, ready: Future[int]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        # handler_cancellation: a client that leaves ends its handler at once, wherever it waits.
        http = web.Server(self._handle, request_factory=_request, handler_cancellation=True, access_log=None)
        try:
            listening = await self._loop.create_server(http, "127.0.0.1", 0, backlog=BACKLOG)
        except OSError as error:
            ready.set_exception(error)
            return
        ready.set_result(listening.sockets[0].getsockname()[1])
        await self._stop.wait()
        listening.close()
        for connection in http.connections:
            if connection.transport is not None:
                connection.transport.abort()
        await http.shutdown(0)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        operation, received, refusal = await self._receive(request)
        exchange = Exchange(request, received, self.log)
        try:
            if refusal is not None:
                return await exchange.send(operation.failure(refusal))
            return await self._answer(operation, exchange)
        except (asyncio.CancelledError, ConnectionError):
            received.disconnected = not (self._stopping or received.completed or exchange.cut)
            raise
        finally:
            received.done = True
            self.log.changed()

    async def _receive(self, request: web.BaseRequest) -> tuple[Operation, ReceivedRequest, Failure | None]:
        body, refusal = await _read_body(request)
        self._number += 1
        first, _, rest = request.path.lstrip("/").partition("/")
        platform, router = ROUTES.get(first, ("openai", UnknownOpenAI))
        path = "/" + rest if first in ROUTES else request.path
        query = dict(request.query)
        call = Call(
            self._number, platform, request.method, path, query, body, self._shelf, deployments=self._deployments
        )
        operation = router(call)
        received = ReceivedRequest(
            number=self._number,
            provider=operation.provider,
            platform=platform,
            api=operation.api,
            method=request.method,
            path=path,
            query=without_secrets(query.items(), SECRET_QUERY),
            headers=without_secrets(((k.lower(), v) for k, v in request.headers.items()), SECRET_HEADERS),
            body=body,
            model=operation.model,
            stream=operation.stream,
            output_limit=operation.output_limit,
        )
        self.log.requests.append(received)
        self.log.changed()
        return operation, received, refusal

    async def _answer(self, operation: Operation, exchange: Exchange) -> web.StreamResponse:
        reply = self.script.take(exchange.received, operation.free)
        if isinstance(reply, Reset):
            return exchange.reset()
        if isinstance(reply, Hang):
            await asyncio.Event().wait()
        if isinstance(reply, Failure):
            failure = operation.failure(reply)
            headers = {} if reply.retry_after is None else {"Retry-After": f"{reply.retry_after:g}"}
            return await exchange.send(Whole(failure.body, failure.status, headers=headers))
        if operation.free:
            return await exchange.send(operation.serve())
        answer = reply if isinstance(reply, Answer) else Answer()
        generation = generate(answer, operation)
        if operation.in_pieces:
            await exchange.wait(answer, 0)
            exchange.bill(operation, generation)
            return await exchange.send_stream(operation, generation)
        whole = operation.whole(generation)
        if whole.status < 400:
            # A provider finishes a plain answer whether or not its client waits for it.
            exchange.bill(operation, generation)
            exchange.received.output_tokens = exchange.invoiced(generation.output_tokens)
        await exchange.wait(answer, 0)
        return await exchange.send(whole, cut=answer.cut_after is not None)


class Exchange:
    """One request and the sending of its answer."""

    def __init__(self, request: web.BaseRequest, received: ReceivedRequest, log: RequestLog) -> None:
        self.request = request
        self.received = received
        self.cut = False
        self._log = log
        self._counts_tokens = True

    def bill(self, operation: Operation, generation: Generation) -> None:
        """Put the call and its input on the invoice."""
        received, answer = self.received, generation.answer
        received.billed = True
        self._counts_tokens = operation.counts_tokens
        if not operation.counts_tokens:
            return
        received.input_tokens = generation.input_tokens
        received.cached_input_tokens = answer.cached_input_tokens
        received.cache_write_tokens = generation.cache_write_tokens

    def invoiced(self, output_tokens: int) -> int:
        """Output tokens as far as they are what is paid for."""
        return output_tokens if self._counts_tokens else 0

    async def wait(self, answer: Answer, sent: int) -> None:
        """Keep the pace that the script asks for, before the piece after ``sent``."""
        pause = answer.chunk_delay if sent else answer.delay
        if pause:
            await asyncio.sleep(pause)
        if answer.gate is not None and answer.gate_after == sent:
            await answer.gate._pass(self._log.changed)

    async def send(self, whole: Whole, cut: bool = False) -> web.StreamResponse:
        """Send an answer in one piece, or its first half."""
        headers = {"Content-Type": whole.content_type, **whole.headers}
        self.received.status = whole.status
        if cut:
            response = web.StreamResponse(status=whole.status, headers=headers)
            response.content_length = len(whole.body)
            await response.prepare(self.request)
            await response.write(whole.body[: len(whole.body) // 2])
            return self._lose(response)
        plain = web.Response(body=whole.body, status=whole.status, headers=headers)
        self._complete()
        await plain.prepare(self.request)
        await plain.write_eof()
        return plain

    async def send_stream(self, operation: Operation, generation: Generation) -> web.StreamResponse:
        """Send an answer in pieces and keep count of what was generated until the client left."""
        answer, received = generation.answer, self.received
        headers = {"Content-Type": operation.stream_type, "Cache-Control": "no-cache"}
        response = web.StreamResponse(headers=headers)
        response.enable_chunked_encoding()
        received.status = 200
        await response.prepare(self.request)
        waits = bool(answer.chunk_delay) or bool(answer.gate)
        sent = 0
        pending = bytearray()
        for frame in operation.frames(generation):
            if frame.output_tokens is None:
                pending += frame.data
                continue
            if sent == answer.cut_after:
                return await self._cut(response, pending)
            if waits and sent:
                if pending:
                    await response.write(bytes(pending))
                    pending.clear()
                await self.wait(answer, sent)
            received.output_tokens = self.invoiced(frame.output_tokens)
            sent += 1
            await response.write(bytes(pending) + frame.data)
            pending.clear()
            self._log.changed()
            await asyncio.sleep(0)  # lets a client's leaving be noticed between two pieces
        if answer.cut_after is not None:
            return await self._cut(response, b"")
        if answer.gate is not None and sent and answer.gate_after >= sent:
            await answer.gate._pass(self._log.changed)
        received.output_tokens = self.invoiced(generation.output_tokens)
        self._complete()
        await response.write_eof(bytes(pending))
        return response

    def _complete(self) -> None:
        """Mark the request before its last byte is out: its client may look as soon as it has read that."""
        self.received.completed = True
        self.received.done = True
        self._log.changed()

    async def _cut(self, response: web.StreamResponse, pending: bytes | bytearray) -> web.StreamResponse:
        if pending:
            await response.write(bytes(pending))
        return self._lose(response)

    def _lose(self, response: web.StreamResponse) -> web.StreamResponse:
        """Close the connection in the middle of a body: what was written still arrives, the end never does."""
        self.cut = self.received.done = True
        if self.request.transport is not None:
            self.request.transport.close()
        return response

    def reset(self) -> web.StreamResponse:
        """Close the connection before the first byte."""
        self.cut = self.received.done = True
        transport = self.request.transport
        if isinstance(transport, asyncio.Transport):
            sock: socket.socket | None = transport.get_extra_info("socket")
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            transport.abort()
        return web.Response()


def _request(message: Any, payload: Any, protocol: Any, writer: Any, task: asyncio.Task[None]) -> web.BaseRequest:
    """aiohttp's request with a higher limit than 1 MiB: prompts can be long, recordings too."""
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=LONGEST_BODY)


async def _read_body(request: web.BaseRequest) -> tuple[dict[str, Any], Failure | None]:
    """The body as a mapping, and an error answer when it cannot be read."""
    if request.content_type.startswith("multipart/"):
        return await _read_form(request), None
    raw = await request.read()
    if not raw:
        return {}, None
    try:
        body = json.loads(raw)
    except ValueError:
        return {}, Failure(400, "The body of the request is not JSON.")
    if not isinstance(body, dict):
        return {}, Failure(400, "The body of the request is not a JSON object.")
    return body, None


async def _read_form(request: web.BaseRequest) -> dict[str, Any]:
    """The fields of a form. Files are noted by name and size, not kept."""
    form: dict[str, Any] = {}
    async for part in await request.multipart():
        if isinstance(part, BodyPartReader):
            data = bytes(await part.read())
            file = {"filename": part.filename, "bytes": len(data)}
            form[part.name or ""] = data.decode() if part.filename is None else file
    return form
