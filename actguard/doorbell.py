"""Sending work to an event loop from other threads: one signal for many, and a bounded part of it in each round.

A signal writes to a socket, and so lets go of the interpreter, which a busy thread gives back only after milliseconds;
a loop that does all at once keeps its other tasks waiting. Hundreds who wait would feel both.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context


class Doorbell:
    """Runs callbacks on an asyncio loop, in the order they are sent, each in a context of its own: the sender's would
    say that this is the sender's run, and the sender's kind of event loop. At most ``per_round`` of them run in one
    round of the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, per_round: int) -> None:
        self._loop = loop
        self._per_round = per_round
        self._waiting: deque[Callable[[], object]] = deque()
        self._rung = False

    def send(self, callback: Callable[[], object]) -> None:
        """Run ``callback`` soon; from any thread.

        Raises:
            RuntimeError: the loop is closed.
        """
        self._waiting.append(callback)
        if not self._rung:
            self._rung = True
            self._loop.call_soon_threadsafe(self._answer, context=Context())

    def empty(self) -> None:
        """Run all that was sent, now; on the loop's thread."""
        while self._waiting:
            self._run(self._waiting.popleft())

    def _answer(self) -> None:
        # Cleared before reading: what comes in from now on rings anew, what came earlier is read below.
        self._rung = False
        for _ in range(min(len(self._waiting), self._per_round)):
            self._run(self._waiting.popleft())
        if self._waiting and not self._rung:
            self._rung = True
            self._loop.call_soon(self._answer, context=Context())

    def _run(self, callback: Callable[[], object]) -> None:
        try:
            Context().run(callback)
        except Exception as error:  # noqa: BLE001  as the loop does with a callback of its own
            self._loop.call_exception_handler({"message": "A callback from another thread failed", "exception": error})
