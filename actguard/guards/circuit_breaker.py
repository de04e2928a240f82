"""``circuit_breaker``: a dependency that keeps failing is left alone for a while, then tried with one call."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from actguard import clock
from actguard.exceptions import CircuitBreakerConfigurationError, CircuitOpenError
from actguard.guards.guarding import Guard
from actguard.guards.protocol import CallScope, Quick, refused
from actguard.guards.state import define, shared
from actguard.guards.tools import Call
from actguard.rules import checks
from actguard.rules.breaker import FIRST_PERMIT, Breaker, Outcome, Permit, Refusal
from actguard.rules.failures import FAIL_ON_DEFAULT, IGNORE_ON_DEFAULT, FailureKind, classify

_SETTINGS = ("max_fails", "reset_timeout", "fail_on", "ignore_on")


class CircuitBreaker(Guard[None]):
    """What `circuit_breaker` returns."""

    name = "circuit_breaker"

    def __init__(self, dependency: str, breaker: Breaker) -> None:
        super().__init__()
        self.dependency = checks.name(dependency, "name", "circuit_breaker", CircuitBreakerConfigurationError)
        self.breaker = breaker
        self.state_key = ("circuit_breaker", dependency)
        known = shared.apply(("circuit_breaker settings", dependency), define, breaker)
        for field in _SETTINGS:
            if getattr(known, field) != getattr(breaker, field):
                raise CircuitBreakerConfigurationError(
                    f"circuit_breaker: {dependency!r} is defined twice, with different {field}: "
                    f"{_shown(getattr(known, field))} and {_shown(getattr(breaker, field))}; tools that name the same "
                    "dependency share one breaker, so give them the same settings, or another name",
                    field=field,
                )

        self._untroubled = _Passage(self, FIRST_PERMIT)

    def enter(self, call: Call) -> CallScope:
        return self._admit(call.args, call.kwargs)

    def quick(self) -> Quick:
        key, holds, untroubled, admit = self.state_key, shared.holds, self._untroubled, self._admit
        return lambda args, kwargs: admit(args, kwargs) if holds(key) else untroubled

    def _admit(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> CallScope:
        if not shared.holds(self.state_key):  # nothing has failed yet, or since the last success: half of the cost
            return self._untroubled
        permit = shared.apply(self.state_key, self.breaker.admit, clock.monotonic())
        if isinstance(permit, Refusal):
            error = CircuitOpenError(
                dependency_name=self.dependency,
                reset_at=clock.epoch() + permit.retry_after,
                retry_after=permit.retry_after,
            )
            raise refused(self, error)
        return _Passage(self, permit)


class _Passage(CallScope):
    """A call that goes on. Its permit comes back however the call ends."""

    __slots__ = ("_guard", "_permit")

    def __init__(self, guard: CircuitBreaker, permit: Permit) -> None:
        self._guard = guard
        self._permit = permit

    def returned(self, value: Any) -> Any:
        if classify(value) is not None or shared.holds(self._guard.state_key):  # else a success that changes nothing
            self._settle(self._guard.breaker.outcome_of_result(value))
        return value

    def leave(self, error: BaseException | None) -> None:
        self._settle(Outcome.NEITHER if error is None else self._guard.breaker.outcome_of_error(error))

    def _settle(self, outcome: Outcome) -> None:
        guard = self._guard
        if outcome is not Outcome.SUCCESS or shared.holds(guard.state_key):
            shared.apply(guard.state_key, guard.breaker.settle, self._permit, outcome, clock.monotonic())


def circuit_breaker(
    name: str,
    *,
    max_fails: int = 3,
    reset_timeout: float = 60.0,
    fail_on: Set[FailureKind] = FAIL_ON_DEFAULT,
    ignore_on: Set[FailureKind] = IGNORE_ON_DEFAULT,
) -> CircuitBreaker:
    """Leave a dependency alone for ``reset_timeout`` seconds after ``max_fails`` counted failures in a row.

    After that one call, the probe, is let through: its success lets all calls through again, its failure begins
    another rest. All tools that name the same dependency share one breaker. Exceptions and results are classified by
    what libraries commonly put on them (see `FailureKind`): botocore codes, HTTP status, gRPC codes, builtin
    exceptions, SQLSTATE. Works as a decorator and directly: ``async with circuit_breaker("crm"): …``

    Args:
        name: the dependency.
        max_fails: counted failures in a row, with no success between, that open the breaker.
        reset_timeout: how long it stays open, in seconds.
        fail_on: the kinds of failure that are counted.
        ignore_on: kinds that say nothing about the dependency; no kind may be in both.

    Raises:
        CircuitBreakerConfigurationError: a setting is wrong, or the same name was defined with other settings.
        CircuitOpenError: the breaker is open (when called).

    Example::

        @actguard.circuit_breaker("crm", max_fails=5, reset_timeout=30)
        async def find_customer(email: str) -> Customer: ...
    """
    return CircuitBreaker(name, Breaker(max_fails, reset_timeout, fail_on, ignore_on))


def _shown(setting: object) -> str:
    return str(sorted(kind.name for kind in setting)) if isinstance(setting, Set) else repr(setting)
