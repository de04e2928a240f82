"""Where the state of tool guards lives.

Rate limits and breakers belong to a tool or a dependency, not to a client, so their state is the process's: one memory
store here. Attempts and idempotency keys belong to the run, which has a store of its own.
"""

from __future__ import annotations

import math
from typing import TypeVar, cast

from actguard.context import active_run
from actguard.exceptions import MissingRuntimeContextError
from actguard.guards.run import Run
from actguard.stores.memory import MemoryStore

S = TypeVar("S")

shared = MemoryStore()
"""State that outlives runs."""


def run_of(what: str) -> Run:
    """The active run, which ``what`` needs.

    Raises:
        MissingRuntimeContextError: there is none here.
    """
    run = active_run()
    if run is None or run.closed:
        raise MissingRuntimeContextError(what)
    return cast(Run, run)


class _Definition:
    """Settings that everybody who names the same thing must agree on."""

    __slots__ = ("settings",)
    expires_at = math.inf

    def __init__(self, settings: object) -> None:
        self.settings = settings


def define(state: _Definition | None, settings: S) -> tuple[_Definition, S]:
    """The first definition holds; the decision is what that is."""
    state = state or _Definition(settings)
    return state, cast(S, state.settings)
