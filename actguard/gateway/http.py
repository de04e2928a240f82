"""Talking to the gateway over HTTP: one keep-alive pool per client, bounded in time and in size.

`Transport.attempt` is one request, `Transport.call` a request with its retries. Whatever goes wrong is a
`GatewayFailure`; nothing here knows what a failure means to a run. All of it lives on the hub. aiohttp is imported
by `load` and not before, so a client without a gateway never pays for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from actguard.gateway.backoff import Backoff, read_retry_after
from actguard.gateway.failures import GatewayFailure, of_status
from actguard.gateway.reach import Resolver, failure_of
from actguard.gateway.redaction import Redactor
from actguard.settings import Settings

if TYPE_CHECKING:
    import aiohttp
    from aiohttp import ClientSession
    from aiohttp.abc import AbstractResolver

logger = logging.getLogger("actguard.gateway")

LONGEST_ANSWER = 1024 * 1024
"""Bytes of an answer that are read; a longer one counts as truncated."""
CONNECTIONS = 512
"""The most connections at once: as many runs can be entered in one answer time."""
KEEP_ALIVE_S = 15.0
SHORT_ANSWER = 16 * 1024
"""Bytes of an answer nobody needs that are read all the same: an answer not read to its end costs the connection."""
UNNEEDED_READ_S = 0.25
"""How long the text of an answer that nobody needs may take."""
SHORTEST_TRY_S = 0.005
"""With less time than this left, another try is pointless."""


@dataclass(frozen=True, slots=True)
class Call:
    """One logical request: however often it is tried, it keeps its key."""

    path: str
    body: bytes | None = None
    """None: a GET."""
    key: str | None = None
    """The Idempotency-Key."""
    reads_answer: bool = True
    """False: the status alone decides."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A 2xx answer."""

    status: int
    payload: Any
    """The JSON, when it was asked for."""
    date: str | None = None
    """The gateway's clock, as its Date header says it."""


class Transport:
    """The connection pool of one client; used on the hub only."""

    def __init__(self, settings: Settings) -> None:
        assert settings.gateway_url is not None
        assert settings.api_key is not None
        self._base = settings.gateway_url
        self._key = settings.api_key
        self._debug = settings.debug
        self._redact = Redactor(settings.api_key.get_secret_value())
        self.backoff = Backoff(base_s=settings.backoff_base_ms / 1000, longest_s=settings.backoff_max_ms / 1000)
        self._resolver: Resolver | None = None
        self._session: ClientSession | None = None
        self._opening = asyncio.Lock()
        self._closed = False

    async def open(self, path: str = "") -> ClientSession:
        """The pool, which is opened by the first who needs it.

        Raises:
            GatewayFailure: the certificates of authorities cannot be read, or the pool is closed.
        """
        if self._session is None:
            async with self._opening:
                if self._session is None:
                    self._session = await self._open(path)
        return self._session

    async def close(self) -> None:
        """Close the pool and the connections in it, for good."""
        self._closed = True
        if self._resolver is not None:
            await self._resolver.close()
        session, self._session = self._session, None
        if session is not None:
            await session.close()
            await asyncio.sleep(0)  # transports close their sockets in the loop's next round

    async def _open(self, path: str) -> ClientSession:
        if self._closed:
            raise GatewayFailure("closed", "The client is closed.", path=path, retryable=True)
        import aiohttp

        resolver = self._resolver = self._resolver or Resolver()
        context: ssl.SSLContext | bool = True
        if urlsplit(self._base).scheme == "https":
            # Reading certificates takes its time, which the hub's other residents must not wait for. They are read here
            # and not when aiohttp is imported: SSL_CERT_FILE may be set in between.
            context = await resolver.worker.run(_certificates, path)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=CONNECTIONS,
                keepalive_timeout=KEEP_ALIVE_S,
                resolver=cast("AbstractResolver", resolver),
                ssl=context,
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={
                "Authorization": f"Bearer {self._key.get_secret_value()}",
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "User-Agent": f"actguard-python/{_version()}",
            },
        )

    async def call(self, call: Call, *, deadline: float, retries: int, linger_s: float = 0.0) -> Answer:
        """Try ``call`` at most ``retries + 1`` times, starting no try after ``deadline`` (the loop's clock).

        A try that is under way at the deadline may go on for ``linger_s`` seconds.

        Raises:
            GatewayFailure: the last one; at once when another try would be of no use or come too late.
        """
        now = asyncio.get_running_loop().time
        tries = 0
        while True:
            try:
                return await self.attempt(call, deadline - now() + linger_s)
            except GatewayFailure as failure:
                if not failure.retryable or tries >= retries:
                    raise
                pause = self.backoff.pause(tries, failure.retry_after)
                if now() + pause + SHORTEST_TRY_S >= deadline:
                    raise
            await asyncio.sleep(pause)
            tries += 1

    async def attempt(self, call: Call, timeout_s: float) -> Answer:
        """Send ``call`` once; everything, connecting and reading included, takes at most ``timeout_s`` seconds.

        Raises:
            GatewayFailure: no 2xx, or no usable answer.
        """
        self._log_request(call)
        headers: dict[str, str] = {}
        if call.body is not None:
            headers["Content-Type"] = "application/json"
        if call.key is not None:
            headers["Idempotency-Key"] = call.key
        received: list[aiohttp.ClientResponse] = []
        try:
            async with (
                asyncio.timeout(max(timeout_s, 0.001)),
                (await self.open(call.path)).request(
                    "GET" if call.body is None else "POST",
                    self._base + call.path,
                    data=call.body,
                    headers=headers,
                    allow_redirects=False,
                ) as response,
            ):
                received.append(response)
                return await self._read(call, response)
        except GatewayFailure as error:
            failure = error
        except (OSError, ValueError, _client_error()) as error:
            failure = self._broken(call, received, error)
        if failure.accepted and not call.reads_answer:
            return Answer(received[0].status, None, received[0].headers.get("Date"))
        self._log_failure(call, failure)
        # Raised outside the except blocks: errors of aiohttp know the headers of the request, and so the key.
        raise failure

    async def _read(self, call: Call, response: aiohttp.ClientResponse) -> Answer:
        """Decide by the status, and by the body where that is what the caller came for."""
        status, headers = response.status, response.headers
        if 200 <= status < 300:
            payload = None
            if call.reads_answer:
                payload = {} if status == 204 else _parsed(call.path, status, await _body(call.path, response))
            else:
                await _read_short(call.path, response)
            self._log_answer(call, status, payload)
            return Answer(status, payload, headers.get("Date"))
        payload = None
        if call.reads_answer and status == 402:
            payload = self._loosely_parsed(await _body(call.path, response))
        elif self._debug:
            with contextlib.suppress(TimeoutError, GatewayFailure):
                async with asyncio.timeout(UNNEEDED_READ_S):
                    payload = self._loosely_parsed(await _body(call.path, response))
        raise self._refusal(call, response, payload)

    def _refusal(self, call: Call, response: aiohttp.ClientResponse, payload: Any) -> GatewayFailure:
        """What an answer outside 2xx means. A gateway that repeats the key must not bring it into errors and logs."""
        headers = {name: self._redact.text(response.headers.get(name, "")) for name in ("Location", "Date")}
        retry_after = read_retry_after(response.headers.get("Retry-After"))
        return of_status(call.path, response.status, headers, payload, retry_after)

    def _loosely_parsed(self, body: bytes) -> Any:
        """The JSON of a refusal, without the key; None when it is none."""
        try:
            return json.loads(self._redact.text(body.decode(json.detect_encoding(body))))
        except (ValueError, RecursionError):
            return None

    def _broken(self, call: Call, received: list[aiohttp.ClientResponse], error: Exception) -> GatewayFailure:
        """The failure behind an exception of the network. A refusal stays one, even if its text never came."""
        if received and not 200 <= received[0].status < 300:
            return self._refusal(call, received[0], None)
        return failure_of(error, call.path, self._base, status=received[0].status if received else None)

    def _log_request(self, call: Call) -> None:
        if self._debug:
            verb = "GET" if call.body is None else "POST"
            body = "" if call.body is None else self._redact.json(call.body)
            logger.debug("%s %s%s, Idempotency-Key %s: %s", verb, self._base, call.path, call.key, body)

    def _log_answer(self, call: Call, status: int, payload: Any) -> None:
        if self._debug:
            logger.debug("%s answered %s: %s", call.path, status, self._redact.value(payload))

    def _log_failure(self, call: Call, failure: GatewayFailure) -> None:
        if self._debug:
            said = "" if failure.payload is None else f": {self._redact.value(failure.payload)}"
            logger.debug("%s failed, %s (%s)%s", call.path, failure.kind, failure.status or "no answer", said)


def load() -> None:
    """Import aiohttp, for the first client that has a gateway.

    In the thread that makes the client: a fork while another thread imports leaves the child with a lock that nobody
    holds and nobody will release.
    """
    import_module("aiohttp")


def _certificates(path: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context()
    except OSError:
        pass
    summary = "The certificates of authorities cannot be read: check SSL_CERT_FILE and SSL_CERT_DIR."
    raise GatewayFailure("certificate", summary, path=path, retryable=False)


def _client_error() -> type[Exception]:
    from aiohttp import ClientError

    return ClientError


async def _read_short(path: str, response: aiohttp.ClientResponse) -> None:
    """Read an answer that nobody needs, if it is short and comes soon, so that its connection can be used again."""
    if (response.content_length or 0) <= SHORT_ANSWER:
        async with asyncio.timeout(UNNEEDED_READ_S):
            await _body(path, response, SHORT_ANSWER)


async def _body(path: str, response: aiohttp.ClientResponse, most: int = LONGEST_ANSWER) -> bytes:
    """What the gateway said, at most ``most`` bytes of it."""
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > most:
            raise GatewayFailure(
                "truncated",
                f"The gateway's answer is longer than {most} bytes and was not read to its end.",
                path=path,
                status=response.status,
                retryable=True,
                accepted=True,
            )
    return bytes(body)


def _parsed(path: str, status: int, body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        pass
    # Raised outside the except block: the parser's error holds the whole text.
    raise GatewayFailure(
        "not_json", "The gateway's answer is not JSON.", path=path, status=status, retryable=True, accepted=True
    )


def _version() -> str:
    try:
        return metadata.version("actguard")
    except metadata.PackageNotFoundError:
        return "unknown"
