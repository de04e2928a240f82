"""A local server that speaks the HTTP APIs of OpenAI, Anthropic and Google GenAI.

    with LoopbackProvider() as provider:
        client = provider.openai()              # the real SDK, pointed at 127.0.0.1
        client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "Hi"}])
        assert provider.billed.output_tokens > 0

Nothing of the SDKs is replaced, so what works here works with the provider: streams, retries, errors, lost
connections. What a model would answer is scripted; what is not scripted is a short echo of the request.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

import anyio
import anyio.to_thread

from actguard.testing._clients import Clients
from actguard.testing._script import Line, Script
from actguard.testing._server import LoopbackServer
from actguard.testing.answers import Reply, ReplyFunction
from actguard.testing.received import Billed, Provider, ReceivedRequest

T = TypeVar("T")

WAIT_SECONDS = 5.0


def root_url(port: int) -> str:
    """Where a server on this port is found."""
    return f"http://127.0.0.1:{port}"


class LoopbackProvider(Clients):
    """OpenAI, Anthropic and Gemini on 127.0.0.1, Azure, Bedrock and Vertex included.

    Runs in a thread of its own, so it serves scripts, asyncio and trio alike, and many clients at once. Give the SDK
    one of the ``*_url`` properties, or let `openai`, `async_openai`, `anthropic`, `google` … make the client; clients
    made here have no retries, a made-up key, and are closed with the provider (asynchronous ones by ``async with``).
    Where the environment names a proxy, ``no_proxy`` names 127.0.0.1 while the provider runs.

    Billing is honest. Four bytes of text are a token, input is counted from the request, and a stream is billed for
    what was generated until its client left. A plain answer is billed in full, also when nobody waits for it.

    Parameters:
        default: the reply to requests that no script answers; None: a short echo.
        azure_deployments: model names by deployment name. Azure's answers name the model behind the deployment.

    Example:
        async with LoopbackProvider() as provider:
            provider.script(Answer(tool_calls=[ToolCall("get_weather", {"city": "Oslo"})]), "It is sunny.")
            ...
            await provider.wait_for(lambda: provider.requests[-1].done)
    """

    def __init__(
        self,
        *,
        default: Reply | str | ReplyFunction | None = None,
        azure_deployments: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._root = ""
        self._script = Script(default)
        self._server = LoopbackServer(self._script, dict(azure_deployments or {}))

    def script(
        self,
        *replies: Reply | str | ReplyFunction,
        provider: Provider | None = None,
        api: str | None = None,
        model: str | None = None,
        when: Callable[[ReceivedRequest], object] | None = None,
    ) -> None:
        """Queue replies: each is used once, by the first request that it is meant for, in the order given.

        A text stands for ``Answer(text=...)``. A function answers every request that it is meant for once its turn
        has come, and passes a request on to the next in line by returning None; what stands behind it is reached
        only that way. Requests that cost nothing (model lists, token counts, files) are scripted by their ``api`` only.

        Parameters:
            provider, api, model: only requests with this value, as in `ReceivedRequest`.
            when: only requests for which this is true.

        Raises:
            TypeError, ValueError: a reply is none, or nothing could match; the message names the argument.

        Example:
            provider.script(Failure(429, retry_after=0.1), "Hello", provider="anthropic")
        """
        self._script.add([Line(reply, provider, api, model, when) for reply in replies])

    @property
    def pending(self) -> int:
        """Number of scripted replies that no request has used yet."""
        return self._script.pending

    @property
    def requests(self) -> list[ReceivedRequest]:
        """Everything received so far, oldest first: a new list of live records."""
        return list(self._server.log.requests)

    @property
    def billed(self) -> Billed:
        """Totals over all requests."""
        return Billed.of(self._server.log.requests)

    def reset(self) -> None:
        """Forget scripts and requests. Answers on their way go on."""
        self._script.clear()
        self._server.log.requests.clear()

    async def wait_for(self, predicate: Callable[[], T], timeout: float = WAIT_SECONDS) -> T:
        """Wait until ``predicate()`` is true, and return its value. It is asked again whenever a request moves on.

        It is asked from another thread. ``timeout`` is in seconds and only a watchdog. Raises: TimeoutError.

        Example: ``await provider.wait_for(lambda: provider.requests and provider.requests[0].disconnected)``.
        """
        given_up = threading.Event()
        wait = partial(self._server.log.wait_for, predicate, timeout, given_up)
        try:
            return await anyio.to_thread.run_sync(wait, abandon_on_cancel=True)
        finally:
            given_up.set()
            self._server.log.changed()

    def wait_for_sync(self, predicate: Callable[[], T], timeout: float = WAIT_SECONDS) -> T:
        """`wait_for` in a plain script or a thread."""
        return self._server.log.wait_for(predicate, timeout, threading.Event())

    def __enter__(self) -> Self:
        ready = self._server.start()
        try:
            self._root = root_url(ready.result())
        except BaseException:
            self._server.stop()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._close_clients()
        finally:
            self._server.stop()
            self._root = ""

    async def __aenter__(self) -> Self:
        ready = self._server.start()
        try:
            self._root = root_url(await anyio.to_thread.run_sync(ready.result))
        except BaseException:
            self._server.stop()  # cancelled before it was ready: nobody would leave what was never entered
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with anyio.CancelScope(shield=True):
            try:
                await self._aclose_clients()
            finally:
                await anyio.to_thread.run_sync(self.__exit__, exc_type, exc, traceback)
