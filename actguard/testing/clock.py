"""A clock that tests move by hand."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType

from actguard import clock
from actguard.guards.arguments import time_span
from actguard.scope import Scope


class HandClock(Scope["HandClock"]):
    """Time that stands still until it is moved, for everything that ActGuard's guards measure: windows of rate limits,
    resting breakers, facts and idempotency keys that expire.

    Entered (``with`` or ``async with``) it takes the place of the real clock in the whole process, and starts later
    than every clock before it: windows and breakers live as long as the process. Timeouts and the times of events stay
    real.

    Args:
        epoch: seconds since 1970 at which it starts.

    Example::

        with HandClock() as clock:
            search()              # @rate_limit(max_calls=1, period=60)
            clock.advance(60)
            search()
    """

    _latest = 0.0
    """Where the last of these clocks stopped."""

    def __init__(self, epoch: float = 1_700_000_000.0) -> None:
        self._started_at = epoch
        self._base = 0.0
        self._elapsed = 0.0
        self._in_place: AbstractContextManager[None] | None = None

    @property
    def elapsed(self) -> float:
        """How far it was moved, in seconds."""
        return self._elapsed

    @property
    def epoch(self) -> float:
        """Its time in seconds since 1970."""
        return self._started_at + self._elapsed

    def advance(self, seconds: float) -> None:
        """Move it on by ``seconds``.

        Raises:
            ActGuardUsageError: ``seconds`` is negative or no number: this clock never goes back.
        """
        self._elapsed += time_span(seconds, "seconds", "HandClock.advance")

    async def __aenter__(self) -> HandClock:
        if self._in_place is not None:
            raise RuntimeError("this clock is in place already")
        self._base = max(clock.monotonic(), HandClock._latest) - self._elapsed
        self._in_place = clock.use(lambda: self._base + self._elapsed, lambda: self.epoch)
        self._in_place.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        in_place, self._in_place = self._in_place, None
        if in_place is not None:
            HandClock._latest = self._base + self._elapsed
            in_place.__exit__(None, None, None)
