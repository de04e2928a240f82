"""The one clock that rules and guards ask: ``clock.monotonic()`` and ``clock.epoch()``, both in seconds.

Tests put a clock of their own in its place with `use`, for the whole process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Read = Callable[[], float]

monotonic: Read = time.monotonic
"""Seconds of a clock that never goes back; for durations."""
epoch: Read = time.time
"""Seconds since 1970; for moments that people or other machines are told."""


@contextmanager
def use(new_monotonic: Read, new_epoch: Read) -> Iterator[None]:
    """Ask these clocks instead, in the whole process, until the context is left. For tests."""
    global monotonic, epoch
    before = monotonic, epoch
    monotonic, epoch = new_monotonic, new_epoch
    try:
        yield
    finally:
        monotonic, epoch = before
