"""Idempotency keys: one call per key, its result for the others.

    no state   the key is free
    running    a call is under way; never expires
    done       its result is kept for ``ttl_s`` seconds after it ended
    unknown    it failed or was cancelled half-way: whether it took effect nobody knows; kept for as long

A call is any object that stands for it; only the call that started a key can end it. Calls that wait for a running
one are handed back, to be woken, when it ends; then they begin again and see what became of it. If the key was
freed, the first of them to begin starts.

The functions change the state that they are given, and hand it back with the decision.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from enum import Enum
from typing import Any, NamedTuple

from actguard.exceptions import InvalidIdempotentToolError
from actguard.rules import checks, values


class Verdict(Enum):
    """What a call that begins has to do."""

    START = "start"
    """Run the body, then `finish`, `lose` or `release` the key."""
    REPLAY = "replay"
    """It is done: the result is in the decision."""
    IN_PROGRESS = "in progress"
    """Another call is running; the decision names it as ``owner``. One who waits has been noted down."""
    UNKNOWN = "unknown"
    """An earlier call ended half-way."""
    REUSED = "reused"
    """The key belongs to a call with other arguments."""


class Decision(NamedTuple):
    """A verdict with what belongs to it."""

    verdict: Verdict
    result: Any = None
    owner: Hashable = None


START = Decision(Verdict.START)
_REUSED = Decision(Verdict.REUSED)


class KeyState:
    """One key of one tool in one run."""

    __slots__ = ("expires_at", "fingerprint", "owner", "result", "verdict", "waiting")

    def __init__(self, owner: Hashable, fingerprint: Any) -> None:
        self.owner: Hashable = owner
        """The call that is running, or None."""
        self.fingerprint = fingerprint
        self.verdict = Verdict.UNKNOWN
        """What the next call is told when none is running, with the ``result`` of the one that was."""
        self.result: Any = None
        self.waiting: dict[Hashable, None] | None = None
        self.expires_at = math.inf


def checked_ttl(ttl_s: object) -> float:
    """The setting ``ttl_s``: seconds, above 0.

    Raises:
        InvalidIdempotentToolError: it is anything else.
    """
    return checks.duration(ttl_s, "ttl_s", "idempotent", InvalidIdempotentToolError)


def fingerprint(arguments: Mapping[str, object], leave_out: str = "idempotency_key") -> bytes:
    """What tells calls with other arguments apart: a digest of ``arguments`` without the one that holds the key.

    Objects of unknown classes (clients, connections, contexts) count only with their class, so a repeat that passes a
    new one is still a repeat.
    """
    return values.digest({name: value for name, value in arguments.items() if name != leave_out})


def begin(
    state: KeyState | None, call: Hashable, arguments: Any, now: float, wait: bool = False
) -> tuple[KeyState, Decision]:
    """A call with the fingerprint ``arguments`` (anything that can be compared) begins. With ``wait``, it is noted down
    behind one that is running."""
    if state is None or now >= state.expires_at:
        return KeyState(call, arguments), START
    if state.fingerprint != arguments:
        return state, _REUSED
    if state.owner is None:
        return state, Decision(state.verdict, state.result)
    if wait:
        state.waiting = state.waiting or {}
        state.waiting[call] = None
    return state, Decision(Verdict.IN_PROGRESS, owner=state.owner)


def finish(
    state: KeyState | None, call: Hashable, result: Any, now: float, ttl_s: float
) -> tuple[KeyState | None, tuple[Hashable, ...]]:
    """``call`` is done: keep its result for ``ttl_s`` seconds. The decision is who must be woken."""
    return _end(state, call, Verdict.REPLAY, result, now + ttl_s)


def lose(
    state: KeyState | None, call: Hashable, now: float, ttl_s: float
) -> tuple[KeyState | None, tuple[Hashable, ...]]:
    """``call`` ended half-way: its outcome is unknown for ``ttl_s`` seconds. The decision is who must be woken."""
    return _end(state, call, Verdict.UNKNOWN, None, now + ttl_s)


def release(state: KeyState | None, call: Hashable) -> tuple[KeyState | None, tuple[Hashable, ...]]:
    """``call`` had no effect (a safe exception, a refusal before its body ran): free the key.

    The decision is who must be woken.
    """
    if state is None or state.owner is not call:
        return state, ()
    return None, tuple(state.waiting or ())


def leave(state: KeyState | None, call: Hashable) -> tuple[KeyState | None, None]:
    """``call`` waits no longer."""
    if state is not None and state.waiting is not None:
        state.waiting.pop(call, None)
    return state, None


def _end(
    state: KeyState | None, call: Hashable, verdict: Verdict, result: Any, expires_at: float
) -> tuple[KeyState | None, tuple[Hashable, ...]]:
    if state is None or state.owner is not call:
        return state, ()
    wake = tuple(state.waiting) if state.waiting is not None else ()
    state.waiting = None
    state.verdict, state.result, state.expires_at, state.owner = verdict, result, expires_at, None
    return state, wake
