"""``max_attempts``: a tool may be called so many times in a run."""

from __future__ import annotations

from typing import Any

from actguard.context import current_run
from actguard.exceptions import MaxAttemptsExceeded
from actguard.guards.guarding import Guard
from actguard.guards.protocol import Quick, refused
from actguard.guards.state import run_of
from actguard.guards.tools import Call, Tool, shown_name
from actguard.rules import attempts
from actguard.stores.memory import Key


class MaxAttempts(Guard[None]):
    """What `max_attempts` returns."""

    name = "max_attempts"
    once = True

    def __init__(self, calls: int) -> None:
        super().__init__()
        self._limit = attempts.checked_limit(calls)

        self._key: Key = ("attempts", self)  # in direct use the guard object is what is counted

    def bind(self, tool: Tool) -> MaxAttempts:
        bound = super().bind(tool)
        bound._key = ("attempts", tool.name)
        return bound

    def enter(self, call: Call) -> None:
        self._count(call.args, call.kwargs)

    def quick(self) -> Quick:
        return self._count

    def _count(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        run = current_run.get()
        if run is None or run.closed:
            run = run_of("max_attempts")
        used = run.store.apply(self._key, attempts.attempt)
        if used > self._limit:
            name = shown_name(self.tool)
            raise refused(self, MaxAttemptsExceeded(run_id=run.run_id, tool_name=name, limit=self._limit, used=used))


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
