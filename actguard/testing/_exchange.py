"""One request and the sending of its answer: pace, loss, and how much of it goes on the invoice."""

from __future__ import annotations

import asyncio
import socket
import struct

from aiohttp import web

from actguard.testing._generation import Generation
from actguard.testing._log import RequestLog
from actguard.testing._wire import Operation, Whole
from actguard.testing.answers import TOKENS_PER_SECOND, Answer
from actguard.testing.received import ReceivedRequest

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER that makes closing a socket send RST instead of FIN."""


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

    async def wait(self, answer: Answer, sent: int, tokens: int = 0) -> None:
        """Keep the pace that the script asks for, before the piece after ``sent``, which has so many ``tokens``."""
        pause = answer.delay
        if sent:
            pause = tokens / TOKENS_PER_SECOND if answer.chunk_delay is None else answer.chunk_delay
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
        waits = answer.chunk_delay != 0 or bool(answer.gate)
        sent = generated = 0
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
                await self.wait(answer, sent, frame.output_tokens - generated)
            generated = frame.output_tokens
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
