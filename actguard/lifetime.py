"""The end of a client's parts: on ``close()``, when the client is dropped, or when the interpreter exits.

Whichever comes first delivers what is queued and stops the background thread; the others find it done, or wait for it.
Nothing here refers to the client itself, so that it can be dropped.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time

from actguard.bus import Bus
from actguard.hub import Hub
from actguard.scope import step
from actguard.subscribers.link import GatewayLink

LONGEST_STOP_S = 1.0
"""How much of the time for closing is kept for stopping the thread."""


class Lifetime:
    """Ends hub, bus and link, once, in at most ``seconds``."""

    def __init__(self, hub: Hub, bus: Bus, link: GatewayLink | None, seconds: float) -> None:
        self._hub = hub
        self._bus = bus
        self._link = link
        self._seconds = seconds
        self._stop_s = min(LONGEST_STOP_S, seconds / 4)
        self._lock = threading.Lock()
        self._ending = False
        self._ended = threading.Event()
        self._process = os.getpid()
        atexit.register(self._at_exit)

    async def flush(self, timeout: float, *, leave_durable: bool = False) -> bool:
        """Wait until all that was published is exported and handled; False when ``timeout`` seconds passed."""
        until = time.monotonic() + timeout
        # The gateway first: a handler of the user's that hangs must not take the time for the deliveries.
        delivered = self._link is None or await self._link.flush(timeout, leave_durable=leave_durable)
        return await self._bus.aflush(max(until - time.monotonic(), 0.0)) and delivered

    async def end(self) -> None:
        """Deliver what is queued, end all subscriptions, stop the thread. Ending twice waits for the first.

        Written for `step`: it blocks while the thread stops.
        """
        here = self._hub.is_here
        if not self._begin():
            self._ended.wait(0 if here else self._seconds)
            return
        try:
            if not here:
                await self.flush(self._seconds - self._stop_s, leave_durable=True)
        finally:
            self._finish(self._stop_s)

    def end_soon(self) -> None:
        """The same on the hub, without waiting here."""
        if not self._begin():
            return

        async def deliver_and_stop() -> None:
            try:
                await self.flush(self._seconds - self._stop_s, leave_durable=True)
            finally:
                self._finish(0)

        if self._hub.running:
            with contextlib.suppress(RuntimeError):  # it has stopped by now
                self._hub.spawn(deliver_and_stop)
                return
        self._finish(0)

    def _begin(self) -> bool:
        with self._lock:
            first, self._ending = not self._ending, True
        return first

    def _finish(self, timeout: float) -> None:
        atexit.unregister(self._at_exit)
        if self._link is not None:
            self._link.report_undelivered()
        self._bus.close()
        self._hub.stop(timeout)
        self._ended.set()

    def _at_exit(self) -> None:
        # A forked child inherits this, but not the thread; what was queued belongs to the parent.
        if os.getpid() == self._process or self._hub.running:
            step(self.end())
