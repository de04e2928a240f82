"""The sliding window: never more than max_calls admissions in any window, waiters and cancellations included."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actguard.exceptions import ScopeValidationError
from actguard.rules.window import Admitted, Refused, Waiting, Window, WindowState

PERIODS = st.sampled_from([0.1, 0.3, 1.0, 7.5, 60.0])
STEPS = st.one_of(st.just(0.0), st.floats(0, 3), st.floats(0, 200), st.sampled_from([0.1, 0.3, 1.0, 7.5, 60.0]))


def most_in_a_window(times: list[float], period: float) -> int:
    return max((sum(1 for other in times if 0 <= other - start < period) for start in times), default=0)


@settings(max_examples=100, deadline=None)
@given(max_calls=st.integers(1, 12), period=PERIODS, start=st.floats(0, 1e9), steps=st.lists(STEPS, max_size=60))
def test_admits_exactly_what_the_window_allows(max_calls: int, period: float, start: float, steps: list[float]) -> None:
    window, state, now = Window(max_calls, period), None, start
    admitted: list[float] = []
    for step in steps:
        now += step
        room = sum(1 for time in admitted if now - time < period) < max_calls
        state, decision = window.admit(state, now)
        assert isinstance(decision, Admitted) is room
        if room:
            admitted.append(now)
    assert most_in_a_window(admitted, period) <= max_calls


@settings(max_examples=100, deadline=None)
@given(max_calls=st.integers(1, 5), period=st.floats(1e-3, 1e6), now=st.floats(0, 1e9), gaps=st.lists(st.floats(0, 1)))
def test_retry_after_is_the_time_of_the_next_admission(
    max_calls: int, period: float, now: float, gaps: list[float]
) -> None:
    window, state, decision = Window(max_calls, period), None, Admitted()
    for gap in [*gaps, *[0.0] * max_calls]:
        now += gap * period / max_calls
        state, decision = window.admit(state, now)
    assert isinstance(decision, Admitted | Refused)
    if isinstance(decision, Refused):
        assert 0 < decision.retry_after <= period + 2 * math.ulp(now + period)
        almost = now + decision.retry_after - 4 * math.ulp(now + decision.retry_after)
        if almost >= now:
            assert isinstance(window.admit(state, almost)[1], Refused)
        _, later = window.admit(state, now + decision.retry_after)
        assert isinstance(later, Admitted)


def test_a_clock_read_in_another_order_never_opens_the_window() -> None:
    window = Window(2, 10.0)
    state, _ = window.admit(None, 100.0)
    state, _ = window.admit(state, 99.9)
    assert list(state.times) == sorted(state.times)
    _, decision = window.admit(state, 109.95)  # the second admission counts from 100.0
    assert isinstance(decision, Refused)


def test_an_idle_key_expires_one_period_after_its_last_admission() -> None:
    window = Window(3, 10.0)
    state, _ = window.admit(None, 5.0)
    state, _ = window.admit(state, 8.0)
    assert state.expires_at == 18.0


def test_the_ring_holds_what_lives_and_no_more_than_max_calls() -> None:
    window = Window(1_000, 1.0)
    state: WindowState | None = None
    for call in range(500):  # ten calls per second: ten entries live
        state, _ = window.admit(state, call * 0.1)
    assert state is not None
    assert len(state.times) <= 16
    for _ in range(2_000):
        state, decision = window.admit(state, 50.0)
    assert isinstance(decision, Refused)
    assert len(state.times) == 1_000


def test_a_refused_call_does_not_count() -> None:
    window = Window(1, 10.0)
    state, _ = window.admit(None, 0.0)
    for moment in (1.0, 5.0, 9.9):
        state, decision = window.admit(state, moment)
        assert decision == Refused(pytest.approx(10.0 - moment))
    assert isinstance(window.admit(state, 10.0)[1], Admitted)


def test_waiters_go_on_in_the_order_in_which_they_came() -> None:
    window = Window(1, 10.0)
    state, _ = window.turn(None, "first", 0.0)
    state, second = window.turn(state, "second", 1.0)
    state, third = window.turn(state, "third", 2.0)
    assert (second, third) == (Waiting(9.0), Waiting(None))
    state, pushing = window.turn(state, "third", 10.0)  # awake by chance, and not its turn
    assert pushing == Waiting(None)
    state, refused = window.admit(state, 10.0)  # one who does not wait gets no slot that a waiter needs
    assert isinstance(refused, Refused)
    assert refused.retry_after == 20.0  # after second, at once, and third, at 20.0
    state, second = window.turn(state, "second", 10.5)
    assert second == Admitted(wake="third")
    state, third = window.turn(state, "third", 10.5)
    assert third == Waiting(10.0)
    state, third = window.turn(state, "third", 20.5)
    assert third == Admitted(wake=None)
    assert state.expires_at == 30.5


def test_one_who_does_not_wait_may_use_a_slot_that_no_waiter_needs() -> None:
    window = Window(3, 10.0)
    state = None
    for _ in range(3):
        state, _ = window.admit(state, 0.0)
    state, waiting = window.turn(state, "waiter", 1.0)
    assert waiting == Waiting(9.0)
    for _ in range(2):  # three slots are free now and one is needed
        state, decision = window.admit(state, 10.0)
        assert isinstance(decision, Admitted)
    state, decision = window.admit(state, 10.0)
    assert isinstance(decision, Refused)
    assert isinstance(window.turn(state, "waiter", 10.0)[1], Admitted)


def test_one_who_leaves_hands_its_place_to_the_next() -> None:
    window = Window(1, 10.0)
    state, _ = window.turn(None, "first", 0.0)
    for waiter in ("second", "third", "fourth"):
        state, _ = window.turn(state, waiter, 1.0)
    left, wake = window.leave(state, "third")
    assert wake is None  # nobody's place changed that sleeps until a time
    left, wake = window.leave(left, "second")
    assert wake == "fourth"
    left, wake = window.leave(left, "second")  # leaving twice changes nothing
    assert wake is None
    left, decision = window.turn(left, "fourth", 10.0)
    assert decision == Admitted(wake=None)


def test_a_key_with_waiters_is_not_idle() -> None:
    window = Window(1, 10.0)
    state, _ = window.turn(None, "first", 0.0)
    assert state.expires_at == 10.0
    state, _ = window.turn(state, "second", 1.0)
    assert state.expires_at == math.inf
    left, _ = window.leave(state, "second")
    assert left is not None
    assert left.expires_at == 10.0


@pytest.mark.parametrize(
    ("field", "values"),
    [("max_calls", [0, -1, 2.0, True, None, "3", math.inf]), ("period", [0, -1, math.nan, math.inf, True, None, "3"])],
)
def test_wrong_settings_name_the_field(field: str, values: list[Any]) -> None:
    for value in [*values, 10**400 if field == "period" else 0]:
        with pytest.raises(ScopeValidationError, match=field) as caught:
            Window(**{"max_calls": 1, "period": 1.0, field: value})
        assert caught.value.field == field


class Queue(RuleBasedStateMachine):
    """Callers that wait, callers that do not, cancellations, and a clock; the state only ever says what is true."""

    @initialize(max_calls=st.integers(1, 4), period=st.sampled_from([0.3, 1.0, 10.0]))
    def begin(self, max_calls: int, period: float) -> None:
        self.window, self.state, self.now = Window(max_calls, period), None, 100.0
        self.admitted: list[float] = []
        self.waiting: list[int] = []  # in the order in which they came
        self.sleeping: dict[int, float | None] = {}  # what each was told: until when it sleeps
        self.woken: set[int] = set()
        self.callers = 0

    def free_slots(self) -> int:
        live = sum(1 for time in self.admitted if self.now - time < self.window.period)
        return self.window.max_calls - live

    def take_turn(self, caller: int) -> None:
        can_go = self.free_slots() > 0 and (not self.waiting or self.waiting[0] == caller)
        self.state, decision = self.window.turn(self.state, caller, self.now)
        assert isinstance(decision, Admitted) is can_go
        self.woken.discard(caller)
        if isinstance(decision, Admitted):
            self.admitted.append(self.now)
            if caller in self.waiting:
                self.waiting.remove(caller)
                del self.sleeping[caller]
            assert decision.wake == (self.waiting[0] if self.waiting else None)
            self.wake(decision.wake)
        else:
            assert isinstance(decision, Waiting)
            if caller not in self.waiting:
                self.waiting.append(caller)
            self.sleeping[caller] = None if decision.delay is None else self.now + decision.delay

    def wake(self, caller: Any) -> None:
        if caller is not None:
            self.woken.add(caller)

    @rule()
    def someone_comes_and_waits(self) -> None:
        self.callers += 1
        self.take_turn(self.callers)

    @rule()
    def someone_comes_and_does_not_wait(self) -> None:
        can_go = self.free_slots() > len(self.waiting)
        self.state, decision = self.window.admit(self.state, self.now)
        assert isinstance(decision, Admitted) is can_go
        if can_go:
            self.admitted.append(self.now)
        else:
            assert isinstance(decision, Refused)
            assert decision.retry_after > 0 or self.waiting

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def a_waiter_looks_again(self, data: st.DataObject) -> None:
        self.take_turn(data.draw(st.sampled_from(self.waiting)))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def a_waiter_gives_up(self, data: st.DataObject) -> None:
        caller = data.draw(st.sampled_from(self.waiting))
        self.state, wake = self.window.leave(self.state, caller)
        was_first = self.waiting[0] == caller
        self.waiting.remove(caller)
        del self.sleeping[caller]
        self.woken.discard(caller)
        assert wake == (self.waiting[0] if was_first and self.waiting else None)
        self.wake(wake)

    @rule(step=st.sampled_from([0.0, 0.1, 0.3, 1.0, 5.0, 10.0, 100.0]))
    def time_passes(self, step: float) -> None:
        self.now += step

    @rule()
    def all_who_are_due_wake_up_until_nobody_is(self) -> None:
        while due := self.due():
            self.take_turn(due[0])
        if self.waiting:
            assert self.free_slots() <= 0  # nobody waits beside a free slot

    def due(self) -> list[int]:
        """Whoever was woken, or told to sleep until a time that has come."""
        return [
            caller
            for caller, until in self.sleeping.items()
            if caller in self.woken or (until is not None and until <= self.now)
        ]

    @invariant()
    def never_more_than_max_calls_in_any_window(self) -> None:
        if hasattr(self, "window"):
            assert most_in_a_window(self.admitted, self.window.period) <= self.window.max_calls

    @invariant()
    def the_first_in_the_queue_is_never_forgotten(self) -> None:
        if getattr(self, "waiting", None):
            first = self.waiting[0]
            assert first in self.woken or self.sleeping[first] is not None


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
