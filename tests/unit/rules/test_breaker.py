"""The circuit breaker against a plain model of the contract, and exactly one probe."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actguard.exceptions import CircuitBreakerConfigurationError, GuardError, ToolTimeoutError
from actguard.rules.breaker import Breaker, BreakerState, Change, Outcome, Permit, Refusal
from actguard.rules.failures import FAIL_ON_STRICT, FailureKind

SUCCESS, FAILURE, NEITHER = Outcome.SUCCESS, Outcome.FAILURE, Outcome.NEITHER


def opened(breaker: Breaker, now: float = 0.0) -> BreakerState:
    state: BreakerState | None = None
    for _ in range(breaker.max_fails):
        state, permit = breaker.admit(state, now)
        assert isinstance(permit, Permit)
        state, change = breaker.settle(state, permit, FAILURE, now)
    assert change is Change.OPENED
    assert state is not None
    return state


def test_opens_after_max_fails_in_a_row_and_rests() -> None:
    breaker = Breaker(max_fails=3, reset_timeout=60.0)
    state = opened(breaker, now=10.0)
    assert breaker.admit(state, 10.0)[1] == Refusal(60.0)
    assert breaker.admit(state, 69.0)[1] == Refusal(1.0)


def test_only_a_success_resets_the_count() -> None:
    breaker = Breaker(max_fails=2)
    state: BreakerState | None = None
    for outcome in (FAILURE, NEITHER, NEITHER):
        state, permit = breaker.admit(state, 0.0)
        state, change = breaker.settle(state, permit, outcome, 0.0)  # type: ignore[arg-type]
        assert change is Change.NONE
    state, _ = breaker.settle(state, Permit(0), SUCCESS, 0.0)
    assert state is None  # as good as new: nothing is kept
    state, change = breaker.settle(state, Permit(0), FAILURE, 0.0)
    assert change is Change.NONE
    state, change = breaker.settle(state, Permit(0), FAILURE, 0.0)
    assert change is Change.OPENED


def test_a_probe_that_succeeds_closes() -> None:
    breaker = Breaker(max_fails=1, reset_timeout=60.0)
    state, probe = breaker.admit(opened(breaker), 60.0)
    assert isinstance(probe, Permit)
    state, change = breaker.settle(state, probe, SUCCESS, 61.0)
    assert change is Change.CLOSED
    assert isinstance(breaker.admit(state, 61.0)[1], Permit)


def test_a_probe_that_fails_opens_again_for_the_whole_time() -> None:
    breaker = Breaker(max_fails=3, reset_timeout=60.0)
    state, probe = breaker.admit(opened(breaker), 60.0)
    assert isinstance(probe, Permit)
    state, change = breaker.settle(state, probe, FAILURE, 65.0)
    assert change is Change.OPENED
    assert breaker.admit(state, 65.0)[1] == Refusal(60.0)


def test_a_probe_that_says_nothing_frees_the_probe() -> None:
    breaker = Breaker(max_fails=1, reset_timeout=60.0)
    state, probe = breaker.admit(opened(breaker), 60.0)
    assert isinstance(probe, Permit)
    state, _ = breaker.settle(state, probe, NEITHER, 61.0)
    state, second = breaker.admit(state, 61.0)
    assert isinstance(second, Permit)
    assert second != probe
    state, change = breaker.settle(state, probe, SUCCESS, 61.0)  # the first one has ended already
    assert change is Change.NONE
    assert isinstance(breaker.admit(state, 61.0)[1], Refusal)


def test_an_outcome_of_a_call_that_began_before_the_last_opening_is_ignored() -> None:
    breaker = Breaker(max_fails=2, reset_timeout=60.0)
    _, early = breaker.admit(None, 0.0)
    assert isinstance(early, Permit)
    state: BreakerState | None = opened(breaker)
    for outcome in Outcome:
        state, change = breaker.settle(state, early, outcome, 1.0)
        assert change is Change.NONE
    assert isinstance(breaker.admit(state, 1.0)[1], Refusal)
    state, probe = breaker.admit(state, 60.0)
    assert isinstance(probe, Permit)
    state, _ = breaker.settle(state, early, SUCCESS, 60.0)
    assert isinstance(breaker.admit(state, 60.0)[1], Refusal)  # still half open
    state, _ = breaker.settle(state, probe, SUCCESS, 60.0)
    state, _ = breaker.settle(state, early, FAILURE, 60.0)
    state, change = breaker.settle(state, early, FAILURE, 60.0)
    assert change is Change.NONE


def test_exactly_one_of_fifty_concurrent_callers_is_the_probe() -> None:
    breaker = Breaker(max_fails=1, reset_timeout=60.0)
    state = opened(breaker)
    decisions = [breaker.admit(state, 60.0)[1] for _ in range(50)]
    assert sum(isinstance(decision, Permit) for decision in decisions) == 1
    assert all(decision.retry_after > 0 for decision in decisions if isinstance(decision, Refusal))


def test_outcomes_of_errors_and_results() -> None:
    breaker = Breaker()
    assert breaker.outcome_of_error(ConnectionError()) is FAILURE
    assert breaker.outcome_of_error(ToolTimeoutError(tool_name="search", timeout_s=1.0)) is FAILURE
    assert breaker.outcome_of_error(ValueError()) is NEITHER
    assert breaker.outcome_of_error(PermissionError(13, "")) is NEITHER
    assert Breaker(fail_on=FAIL_ON_STRICT).outcome_of_error(PermissionError(13, "")) is FAILURE
    assert breaker.outcome_of_error(GuardError("NO", "no")) is NEITHER
    assert breaker.outcome_of_error(asyncio.CancelledError()) is NEITHER
    assert breaker.outcome_of_error(GeneratorExit()) is NEITHER
    assert breaker.outcome_of_result("sunny") is SUCCESS
    assert breaker.outcome_of_result({"ResponseMetadata": {"HTTPStatusCode": 503}}) is FAILURE
    assert breaker.outcome_of_result({"ResponseMetadata": {"HTTPStatusCode": 404}}) is NEITHER


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_fails", 0),
        ("max_fails", True),
        ("max_fails", 1.5),
        ("reset_timeout", 0),
        ("reset_timeout", float("nan")),
        ("reset_timeout", float("inf")),
        ("reset_timeout", "60"),
        ("fail_on", FailureKind.TIMEOUT),
        ("fail_on", {"timeout"}),
        ("fail_on", None),
        ("fail_on", [[]]),
        ("ignore_on", "timeout"),
        ("ignore_on", {FailureKind.TIMEOUT, FailureKind.INVALID}),
    ],
)
def test_wrong_settings_name_the_field(field: str, value: Any) -> None:
    with pytest.raises(CircuitBreakerConfigurationError, match=field) as caught:
        Breaker(**{field: value})
    assert caught.value.field == field


def test_definitions_are_compared_by_their_settings() -> None:
    assert Breaker(reset_timeout=60) == Breaker(reset_timeout=60.0)
    assert Breaker(fail_on=[FailureKind.TIMEOUT]) == Breaker(fail_on={FailureKind.TIMEOUT})  # type: ignore[arg-type]
    assert Breaker() != Breaker(max_fails=4)


class Dependency(RuleBasedStateMachine):
    """Calls that begin and end in any order, against the sentences of the contract."""

    @initialize(max_fails=st.integers(1, 3))
    def begin(self, max_fails: int) -> None:
        self.breaker, self.state, self.now = Breaker(max_fails=max_fails, reset_timeout=10.0), None, 0.0
        self.mode, self.fails, self.open_until, self.openings = "closed", 0, 0.0, 0
        self.running: list[tuple[Permit, int, bool]] = []  # permit, openings at its begin, is it the probe

    @rule()
    def a_call_begins(self) -> None:
        probing = any(is_probe for _, began, is_probe in self.running if began == self.openings)
        if self.mode == "open" and self.now >= self.open_until:
            self.mode = "half open"
        may = self.mode == "closed" or (self.mode == "half open" and not probing)
        self.state, decision = self.breaker.admit(self.state, self.now)
        assert isinstance(decision, Permit) is may
        if isinstance(decision, Permit):
            self.running.append((decision, self.openings, self.mode == "half open"))
        elif self.mode == "open":
            assert decision.retry_after == self.open_until - self.now

    @precondition(lambda self: getattr(self, "running", None))
    @rule(data=st.data(), outcome=st.sampled_from(Outcome))
    def a_call_ends(self, data: st.DataObject, outcome: Outcome) -> None:
        permit, began, is_probe = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.state, change = self.breaker.settle(self.state, permit, outcome, self.now)
        expected = Change.NONE
        if began == self.openings:
            if is_probe and outcome is SUCCESS:
                self.mode, self.fails, expected = "closed", 0, Change.CLOSED
            elif is_probe and outcome is FAILURE:
                expected = Change.OPENED
            elif outcome is SUCCESS:
                self.fails = 0
            elif outcome is FAILURE and not is_probe:
                self.fails += 1
                expected = Change.OPENED if self.fails == self.breaker.max_fails else Change.NONE
        if expected is Change.OPENED:
            self.mode, self.open_until = "open", self.now + 10.0
            self.openings += 1
        assert change is expected

    @rule(step=st.sampled_from([1.0, 9.0, 10.0]))
    def time_passes(self, step: float) -> None:
        self.now += step

    @invariant()
    def never_two_probes(self) -> None:
        current = [is_probe for _, began, is_probe in getattr(self, "running", []) if began == self.openings]
        assert sum(current) <= 1


TestDependency = Dependency.TestCase
TestDependency.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
