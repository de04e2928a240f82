"""The HTTP side of the loopback provider: one thread, one event loop, one listening socket on 127.0.0.1."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from email.message import Message
from email.parser import BytesHeaderParser
from typing import Any

from aiohttp import web

from actguard.testing._exchange import Exchange
from actguard.testing._generation import generate
from actguard.testing._log import RequestLog
from actguard.testing._openai import UnknownOpenAI
from actguard.testing._proxies import Bypass
from actguard.testing._routes import ROUTES
from actguard.testing._script import Script
from actguard.testing._wire import Call, Operation, Shelf, Whole
from actguard.testing.answers import Answer, Failure, Hang, Reset
from actguard.testing.received import SECRET_HEADERS, SECRET_QUERY, ReceivedRequest, without_secrets

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
        self._bypass: Bypass | None = None

    def start(self) -> Future[int]:
        """Start the thread; the port, once it listens."""
        if self._thread is not None:
            raise RuntimeError("The loopback provider is running already.")
        self._stopping = False
        self._ready = Future()
        self._thread = threading.Thread(target=self._run, args=(self._ready,), name="actguard-loopback", daemon=True)
        self._thread.start()
        self._bypass = Bypass()
        return self._ready

    def stop(self) -> None:
        """Drop all connections and end the thread. Stopping twice does nothing."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._stopping = True
        if self._bypass is not None:
            self._bypass.close()
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
        except (asyncio.CancelledError, ConnectionError) as left:
            received.disconnected = not (self._stopping or received.completed or exchange.cut)
            if isinstance(left, ConnectionError):
                return web.Response()  # to nobody: raised, it would be logged as an error of this server
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


def _request(message: Any, payload: Any, protocol: Any, writer: Any, task: asyncio.Task[None]) -> web.BaseRequest:
    """aiohttp's request with a higher limit than 1 MiB: prompts can be long, recordings too."""
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=LONGEST_BODY)


async def _read_body(request: web.BaseRequest) -> tuple[dict[str, Any], Failure | None]:
    """The body as a mapping, and an error answer when it cannot be read."""
    raw = await request.read()
    if request.content_type.startswith("multipart/"):
        return _form(request.headers["Content-Type"], raw), None
    if not raw:
        return {}, None
    try:
        body = json.loads(raw)
    except ValueError:
        return {}, Failure(400, "The body of the request is not JSON.")
    if not isinstance(body, dict):
        return {}, Failure(400, "The body of the request is not a JSON object.")
    return body, None


def _form(content_type: str, body: bytes) -> dict[str, Any]:
    """The fields of a multipart form. Files are noted by name and size, not kept."""
    headers = Message()
    headers["Content-Type"] = content_type
    form: dict[str, Any] = {}
    for part in body.split(f"--{headers.get_boundary()}".encode())[1:-1]:
        head, _, data = part.removeprefix(b"\r\n").removesuffix(b"\r\n").partition(b"\r\n\r\n")
        about = BytesHeaderParser().parsebytes(head)
        name = about.get_param("name", header="content-disposition")
        filename = about.get_filename()
        form[str(name)] = data.decode() if filename is None else {"filename": filename, "bytes": len(data)}
    return form
