"""How often a tool was called in a run."""

from __future__ import annotations

import math

from actguard.exceptions import MaxAttemptsConfigurationError
from actguard.rules import checks


class Attempts:
    """The count of one tool in one run. It lives as long as the run."""

    __slots__ = ("used",)
    expires_at = math.inf

    def __init__(self) -> None:
        self.used = 0


def checked_limit(calls: object) -> int:
    """The setting ``calls``: a whole number of at least 1.

    Raises:
        MaxAttemptsConfigurationError: it is anything else.
    """
    return checks.whole_number(calls, "calls", "max_attempts", MaxAttemptsConfigurationError)


def attempt(state: Attempts | None) -> tuple[Attempts, int]:
    """Count a call. The decision is the number of calls so far, this one and refused ones included."""
    if state is None:
        state = Attempts()
    state.used += 1
    return state, state.used


def used(state: Attempts | None) -> tuple[Attempts | None, int]:
    """The number of calls so far. Changes nothing."""
    return state, 0 if state is None else state.used
