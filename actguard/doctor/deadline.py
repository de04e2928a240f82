"""The time that is left for everything."""

from __future__ import annotations

from actguard import clock


class Deadline:
    """A moment after which nothing is waited for any more.

    Example: ``Deadline(30).left(most=5)``.
    """

    def __init__(self, seconds: float) -> None:
        self._ends = clock.monotonic() + seconds

    def left(self, most: float | None = None) -> float:
        """Seconds until then, at most ``most``, and never none at all: a wait of zero seconds can mean for ever."""
        left = max(self._ends - clock.monotonic(), 0.01)
        return left if most is None else min(left, most)

    @property
    def passed(self) -> bool:
        """True when the time is up."""
        return clock.monotonic() >= self._ends
