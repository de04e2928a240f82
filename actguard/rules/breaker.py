"""The circuit breaker: a dependency that keeps failing is left alone for a while, then tried with a single call.

    closed     calls go on; ``max_fails`` counted failures in a row, with no success between, open it
    open       calls are refused for ``reset_timeout`` seconds
    half open  one call, the probe, goes on; all others are refused until it has ended
               success closes, a counted failure opens again, anything else lets the next call be the probe

Each call that goes on carries a permit. It names the opening that it began after, so the outcome of a call that began
before the last opening changes nothing; and it names the probe that it is, so only the probe's own end ends the probe.

A dependency that has not failed has no state (None). The methods change the state that they are given, and hand it
back with the decision.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Set
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from actguard.exceptions import CircuitBreakerConfigurationError
from actguard.rules import checks
from actguard.rules.failures import FAIL_ON_DEFAULT, IGNORE_ON_DEFAULT, FailureKind, classify

_ASK_AGAIN = 1.0
"""Seconds after which it is worth asking again while a probe is under way."""


class Permit(NamedTuple):
    """Leave to call the dependency; `Breaker.settle` wants it back with the outcome."""

    opening: int
    """How often the breaker had opened when the call began."""
    probe: int = 0
    """The number of this probe, or 0 for a call that is none."""


class Refusal(NamedTuple):
    """The call does not go on. It is worth asking again in ``retry_after`` seconds."""

    retry_after: float


class Outcome(Enum):
    """How a call ended, for the breaker."""

    SUCCESS = "success"
    FAILURE = "failure"
    """It failed in a way that is counted."""
    NEITHER = "neither"
    """It says nothing about the dependency: an uncounted kind of failure, cancelled, refused by an inner guard."""


class Change(Enum):
    """What an outcome did to the breaker."""

    NONE = "none"
    OPENED = "opened"
    CLOSED = "closed"


FIRST_PERMIT = Permit(0)
"""What a call gets of a dependency that has not failed: one without a state."""


class BreakerState:
    """One dependency. It is kept once it has opened: permits count on the number of openings."""

    __slots__ = ("closed", "fails", "open_until", "permit", "probe", "probes")
    expires_at = math.inf

    def __init__(self) -> None:
        self.closed = True
        self.fails = 0
        """Counted failures since the last success."""
        self.open_until = 0.0
        self.permit = FIRST_PERMIT
        """What calls get while closed; its ``opening`` is the number of openings so far."""
        self.probe = 0
        """The number of the probe that is under way, or 0."""
        self.probes = 0
        """The number of the last probe."""


@dataclass(frozen=True)
class Breaker:
    """The rule and its settings. ``reset_timeout`` is in seconds. Equal settings compare equal.

    Raises:
        CircuitBreakerConfigurationError: a setting is wrong; ``.field`` names it.

    Example:
        ``state, permit = breaker.admit(state, now)``, then the call, then
        ``state, change = breaker.settle(state, permit, breaker.outcome_of_error(error), now)``
    """

    max_fails: int = 3
    reset_timeout: float = 60.0
    fail_on: Set[FailureKind] = FAIL_ON_DEFAULT
    ignore_on: Set[FailureKind] = IGNORE_ON_DEFAULT

    def __post_init__(self) -> None:
        error = CircuitBreakerConfigurationError
        checks.whole_number(self.max_fails, "max_fails", "circuit_breaker", error)
        timeout = checks.duration(self.reset_timeout, "reset_timeout", "circuit_breaker", error)
        object.__setattr__(self, "reset_timeout", timeout)
        for field in ("fail_on", "ignore_on"):
            object.__setattr__(self, field, _kinds(getattr(self, field), field))
        both = sorted(kind.name for kind in self.fail_on & self.ignore_on)
        if both:
            raise error(f"circuit_breaker: fail_on and ignore_on both contain {', '.join(both)}", field="ignore_on")

    def outcome_of_error(self, failure: BaseException) -> Outcome:
        """How a call ended that raised ``failure``. It never counts as a success."""
        return Outcome.FAILURE if classify(failure) in self.fail_on else Outcome.NEITHER

    def outcome_of_result(self, result: object) -> Outcome:
        """How a call ended that returned ``result``, which can say that it failed (an HTTP status)."""
        kind = classify(result)
        if kind is None:
            return Outcome.SUCCESS
        return Outcome.FAILURE if kind in self.fail_on else Outcome.NEITHER

    def admit(self, state: BreakerState | None, now: float) -> tuple[BreakerState | None, Permit | Refusal]:
        """Let a call go on, with a permit, or refuse it."""
        if state is None:
            return None, FIRST_PERMIT
        if state.closed:
            return state, state.permit
        if now < state.open_until:
            return state, Refusal(state.open_until - now)
        if state.probe:
            return state, Refusal(min(_ASK_AGAIN, self.reset_timeout))
        state.probes += 1
        state.probe = state.probes
        return state, Permit(state.permit.opening, state.probe)

    def settle(
        self, state: BreakerState | None, permit: Permit, outcome: Outcome, now: float
    ) -> tuple[BreakerState | None, Change]:
        """Take the outcome of a call that `admit` let go on. Every permit must come back, whatever happened."""
        if state is None:
            if outcome is not Outcome.FAILURE or permit.opening:
                return None, Change.NONE
            state = BreakerState()
        if permit.opening != state.permit.opening:
            return state, Change.NONE
        if permit.probe:
            return state, self._settle_probe(state, permit, outcome, now)
        if not state.closed:
            return state, Change.NONE
        if outcome is Outcome.SUCCESS:
            state.fails = 0
            return (state if state.permit.opening else None), Change.NONE
        if outcome is Outcome.FAILURE:
            state.fails += 1
            if state.fails >= self.max_fails:
                return state, self._open(state, now)
        return state, Change.NONE

    def _settle_probe(self, state: BreakerState, permit: Permit, outcome: Outcome, now: float) -> Change:
        if permit.probe != state.probe:
            return Change.NONE
        state.probe = 0
        if outcome is Outcome.FAILURE:
            return self._open(state, now)
        if outcome is Outcome.SUCCESS:
            state.fails = 0
            state.closed = True
            return Change.CLOSED
        return Change.NONE

    def _open(self, state: BreakerState, now: float) -> Change:
        state.permit = Permit(state.permit.opening + 1)
        state.open_until = now + self.reset_timeout
        state.closed = False
        return Change.OPENED


def _kinds(value: object, field: str) -> frozenset[FailureKind]:
    kinds: frozenset[FailureKind] | None = None
    if isinstance(value, Iterable) and not isinstance(value, str):  # a single kind is a str, letter by letter
        with contextlib.suppress(TypeError):  # something unhashable among them
            kinds = frozenset(value)
    if kinds is None or not all(isinstance(kind, FailureKind) for kind in kinds):
        raise CircuitBreakerConfigurationError(
            f"circuit_breaker: {field} must be a set of FailureKind, such as FAIL_ON_DEFAULT", field=field
        )
    return kinds
