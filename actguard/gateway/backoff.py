"""How long to pause between two tries of a request."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST_RETRY_AFTER_S = 300.0
"""A gateway that asks for more is asked again after this long: nobody can silence a client for good."""


class Backoff:
    """Exponential pauses with jitter: half of each is fixed, half is chance, so that clients do not come in step.

    Example: ``Backoff(base_s=0.2, longest_s=10).pause(0)`` is between 0.1 and 0.2 seconds.
    """

    def __init__(self, *, base_s: float, longest_s: float, chance: Callable[[], float] = random.random) -> None:
        self._base_s = base_s
        self.longest_s = longest_s
        self._chance = chance

    def pause(self, tries_before: int, retry_after: float | None = None) -> float:
        """Seconds to wait after ``tries_before + 1`` failed tries; never less than the gateway asked for."""
        full = min(self.longest_s, self._base_s * 2.0 ** min(tries_before, 32))
        return max(full / 2 + full / 2 * self._chance(), min(retry_after or 0.0, LONGEST_RETRY_AFTER_S))


def read_retry_after(value: str | None, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> float | None:
    """The seconds that a Retry-After header asks for, given as a number or as a date; None when it says nothing."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - now()).total_seconds()
    return max(seconds, 0.0) if seconds == seconds else None  # NaN is not equal to itself
