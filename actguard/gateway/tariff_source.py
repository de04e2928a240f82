"""The gateway's tariff, fetched once per client, when the first cost limit meets the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pydantic import ValidationError

from actguard.gateway.failures import GatewayFailure
from actguard.gateway.http import Call, Transport
from actguard.gateway.wire import TARIFF_PATH
from actguard.money.tariff import Tariff

INSTEAD = "Cost units are counted as USD × 1,000 meanwhile."


class TariffSource:
    """Shares one fetch among all who ask. A failure that may pass is tried again by the next who asks; one that will
    not pass is not.
    """

    def __init__(
        self, transport: Transport, *, timeout_s: float, retries: int, failed: Callable[[GatewayFailure], None]
    ) -> None:
        self._transport = transport
        self._timeout_s = timeout_s
        self._retries = retries
        self._failed = failed
        self._fetching: asyncio.Task[Tariff | None] | None = None
        self._final = False

    async def get(self, timeout_s: float) -> Tariff | None:
        """The tariff; None when it cannot be had within ``timeout_s`` seconds. Never raises."""
        done, _ = await asyncio.wait({self.start()}, timeout=max(timeout_s, 0))
        for task in done:
            return task.result()
        return None

    def start(self) -> asyncio.Task[Tariff | None]:
        """Begin to fetch it, unless that is done or under way."""
        if self._fetching is None or (self._fetching.done() and not self._final):
            self._fetching = asyncio.get_running_loop().create_task(self._fetch())
        return self._fetching

    async def _fetch(self) -> Tariff | None:
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        try:
            answer = await self._transport.call(Call(TARIFF_PATH), deadline=deadline, retries=self._retries)
            self._final = True
            return Tariff.model_validate(answer.payload)
        except GatewayFailure as error:
            failure = error
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"][:6])
            summary = (
                f"The gateway's tariff cannot be read: {where or 'it'} {first['msg'][:1].lower()}{first['msg'][1:]}."
            )
            failure = GatewayFailure("malformed", summary, path=TARIFF_PATH, status=200, retryable=False)
        self._final = not failure.retryable
        self._failed(failure)
        return None
