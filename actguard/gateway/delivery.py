"""Delivering what waits in an outbox: what settlements and events have in common."""

from __future__ import annotations

import asyncio
import contextlib

from actguard.gateway.outbox import Outbox

UNREADABLE_PAUSE_S = 0.2
"""The pause before a spool that could not be read is read again."""


class Delivery:
    """Pauses that can be cut short, and word of every try, for those who wait until all is delivered."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self._hurry = asyncio.Event()
        self._tried = asyncio.Event()
        self._failed_tries = 0

    async def pause(self, seconds: float) -> None:
        """Wait before the next try; a `flush` that began since the last pause ends it at once."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        self._hurry.clear()

    def tried(self, *, failed: bool) -> None:
        """Tell those who wait that letters were delivered or dropped, or that it failed for now."""
        self._failed_tries += failed
        self._tried.set()

    async def flush(self, *, leave_durable: bool = False) -> None:
        """Try at once, and wait until the outbox is empty.

        With ``leave_durable`` a failure ends the wait when what is left survives this process.
        """
        before = self._failed_tries
        if self.outbox.waiting:
            self._hurry.set()
        try:
            while self.outbox.waiting:
                if leave_durable and self.outbox.durable and self._failed_tries > before:
                    return
                self._tried.clear()
                await self._tried.wait()
        finally:
            self._hurry.clear()
