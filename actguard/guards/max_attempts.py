"""``max_attempts``: a tool may be called so many times in a run."""

from __future__ import annotations

from actguard.exceptions import MaxAttemptsExceeded
from actguard.guards.guarding import Guard
from actguard.guards.protocol import refused
from actguard.guards.state import run_of
from actguard.guards.tools import Call
from actguard.rules import attempts


class MaxAttempts(Guard[None]):
    """What `max_attempts` returns."""

    name = "max_attempts"
    once = True

    def __init__(self, calls: int) -> None:
        super().__init__()
        self._limit = attempts.checked_limit(calls)

    def enter(self, call: Call) -> None:
        run, tool = run_of("max_attempts"), call.tool
        # In direct use the guard object is what is counted.
        key = self if tool is None else tool.name
        used = run.store.apply(("attempts", key), attempts.attempt)
        if used > self._limit:
            error = MaxAttemptsExceeded(run_id=run.run_id, tool_name=call.tool_name, limit=self._limit, used=used)
            raise refused(self, call, error)


def max_attempts(calls: int) -> MaxAttempts:
    """Allow a tool ``calls`` calls in each run; refused ones count as well.

    Raises:
        MaxAttemptsConfigurationError: ``calls`` is not a whole number of at least 1 (when decorating).
        MissingRuntimeContextError: no run is active (when called).
        MaxAttemptsExceeded: the tool was called more than ``calls`` times in this run (when called).

    Example::

        @actguard.max_attempts(calls=3)
        def search(query: str) -> str: ...
    """
    return MaxAttempts(calls)
