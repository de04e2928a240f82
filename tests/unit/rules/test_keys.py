"""Idempotency keys under interleavings, cancellation and expiry."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actguard.exceptions import InvalidIdempotentToolError
from actguard.rules import keys
from actguard.rules.keys import KeyState, Verdict

ARGUMENTS = keys.fingerprint({"amount": 5})
OTHERS = keys.fingerprint({"amount": 6})
TTL = 100.0


class Call:
    """One call; calls are told apart by identity."""


def started(now: float = 0.0) -> tuple[KeyState, Call]:
    call = Call()
    state, decision = keys.begin(None, call, ARGUMENTS, now)
    assert decision.verdict is Verdict.START
    return state, call


def verdict(state: KeyState | None, now: float, arguments: bytes = ARGUMENTS) -> Verdict:
    return keys.begin(state, Call(), arguments, now)[1].verdict


def test_a_running_key_does_not_expire() -> None:
    state, call = started()
    assert state.expires_at == math.inf
    _, decision = keys.begin(state, Call(), ARGUMENTS, 1e12)
    assert decision.verdict is Verdict.IN_PROGRESS
    assert decision.owner is call


def test_a_result_is_kept_for_ttl_after_the_end() -> None:
    state, call = started(now=0.0)
    kept, wake = keys.finish(state, call, {"paid": True}, 500.0, TTL)
    assert wake == ()
    _, decision = keys.begin(kept, Call(), ARGUMENTS, 599.9)
    assert (decision.verdict, decision.result) == (Verdict.REPLAY, {"paid": True})
    assert verdict(kept, 600.0) is Verdict.START


def test_a_call_that_ended_half_way_blocks_the_key_for_ttl() -> None:
    state, call = started()
    kept, _ = keys.lose(state, call, 10.0, TTL)
    assert verdict(kept, 109.9) is Verdict.UNKNOWN
    assert verdict(kept, 110.0) is Verdict.START


def test_a_call_without_effect_frees_the_key() -> None:
    state, call = started()
    assert keys.release(state, call) == (None, ())


def test_other_arguments_under_the_same_key_are_refused_in_every_phase() -> None:
    state, call = started()
    assert verdict(state, 0.0, OTHERS) is Verdict.REUSED
    _, decision = keys.begin(state, Call(), OTHERS, 0.0, True)
    assert decision.verdict is Verdict.REUSED
    assert not state.waiting
    keys.lose(state, call, 0.0, TTL)
    assert verdict(state, 0.0, OTHERS) is Verdict.REUSED
    state, call = started()
    keys.finish(state, call, None, 0.0, TTL)
    assert verdict(state, 0.0, OTHERS) is Verdict.REUSED
    assert verdict(state, TTL, OTHERS) is Verdict.START  # expired: the key is free for anything


def test_those_who_wait_are_woken_once_and_see_what_became_of_it() -> None:
    state, call = started()
    waiters = [Call(), Call(), Call()]
    for waiter in waiters:
        assert keys.begin(state, waiter, ARGUMENTS, 0.0, True)[1].verdict is Verdict.IN_PROGRESS
    keys.leave(state, waiters[1])
    kept, wake = keys.finish(state, call, "receipt", 1.0, TTL)
    assert list(wake) == [waiters[0], waiters[2]]
    for waiter in wake:
        assert keys.begin(kept, waiter, ARGUMENTS, 1.0, True)[1].result == "receipt"
    assert keys.finish(kept, call, "again", 2.0, TTL)[1] == ()


def test_of_those_who_wait_for_a_freed_key_one_starts() -> None:
    state, call = started()
    waiters = [Call(), Call()]
    for waiter in waiters:
        keys.begin(state, waiter, ARGUMENTS, 0.0, True)
    freed, wake = keys.release(state, call)
    assert list(wake) == waiters
    freed, first = keys.begin(freed, waiters[1], ARGUMENTS, 1.0, True)
    freed, second = keys.begin(freed, waiters[0], ARGUMENTS, 1.0, True)
    assert (first.verdict, second.verdict) == (Verdict.START, Verdict.IN_PROGRESS)
    assert second.owner is waiters[1]


def test_only_the_call_that_started_a_key_can_end_it() -> None:
    state, call = started()
    stranger = Call()
    keys.finish(state, stranger, "forged", 0.0, TTL)
    keys.lose(state, stranger, 0.0, TTL)
    assert keys.release(state, stranger) == (state, ())
    assert verdict(state, 0.0) is Verdict.IN_PROGRESS
    freed, _ = keys.release(state, call)
    again, _ = keys.begin(freed, stranger, ARGUMENTS, 0.0)
    keys.lose(again, call, 0.0, TTL)  # ending twice touches nobody else's call
    assert verdict(again, 0.0) is Verdict.IN_PROGRESS


def test_a_key_that_is_free_has_nothing_to_end() -> None:
    assert keys.finish(None, Call(), "late", 0.0, TTL) == (None, ())
    assert keys.lose(None, Call(), 0.0, TTL) == (None, ())
    assert keys.release(None, Call()) == (None, ())
    assert keys.leave(None, Call()) == (None, None)


def test_the_key_itself_is_no_part_of_the_fingerprint() -> None:
    one = keys.fingerprint({"amount": 5, "idempotency_key": "a", "client": object()})
    other = keys.fingerprint({"amount": 5, "idempotency_key": "b", "client": object()})
    assert one == other != keys.fingerprint({"amount": 6, "idempotency_key": "a", "client": object()})


@pytest.mark.parametrize("ttl", [0, -1, math.nan, math.inf, True, "60", None])
def test_a_wrong_ttl_names_the_parameter(ttl: Any) -> None:
    with pytest.raises(InvalidIdempotentToolError, match="ttl_s") as caught:
        keys.checked_ttl(ttl)
    assert caught.value.field == "ttl_s"
    assert keys.checked_ttl(60) == 60.0


class OneKey(RuleBasedStateMachine):
    """Calls that begin, wait, are cancelled and end, in any order, against a plain model of one key."""

    def __init__(self) -> None:
        super().__init__()
        self.state: KeyState | None = None
        self.now = 0.0
        self.running: Call | None = None
        self.arguments = ARGUMENTS
        self.past: tuple[str, Any, float] | None = None  # what is remembered: phase, result, until when
        self.waiting: list[Call] = []
        self.results = 0

    def expected(self, arguments: bytes) -> Verdict:
        if self.running is None and (self.past is None or self.past[2] <= self.now):
            return Verdict.START
        if arguments != self.arguments:
            return Verdict.REUSED
        if self.running is not None:
            return Verdict.IN_PROGRESS
        assert self.past is not None
        return Verdict.REPLAY if self.past[0] == "done" else Verdict.UNKNOWN

    def begin(self, call: Call, arguments: bytes, wait: bool) -> None:
        expected = self.expected(arguments)
        self.state, decision = keys.begin(self.state, call, arguments, self.now, wait)
        assert decision.verdict is expected
        if expected is Verdict.START:
            self.running, self.arguments, self.past = call, arguments, None
        elif expected is Verdict.IN_PROGRESS:
            assert decision.owner is self.running
            if wait:
                self.waiting.append(call)
        elif expected is Verdict.REPLAY:
            assert self.past is not None
            assert decision.result == self.past[1]

    @rule(arguments=st.sampled_from([ARGUMENTS, OTHERS]), wait=st.booleans())
    def a_call_begins(self, arguments: bytes, wait: bool) -> None:
        self.begin(Call(), arguments, wait)

    @precondition(lambda self: self.running is not None)
    @rule(how=st.sampled_from(["done", "lost", "freed"]), ttl=st.sampled_from([1.0, 50.0]))
    def the_running_call_ends(self, how: str, ttl: float) -> None:
        assert self.running is not None
        self.results += 1
        if how == "done":
            self.state, wake = keys.finish(self.state, self.running, self.results, self.now, ttl)
        elif how == "lost":
            self.state, wake = keys.lose(self.state, self.running, self.now, ttl)
        else:
            self.state, wake = keys.release(self.state, self.running)
        assert list(wake) == self.waiting
        self.past = None if how == "freed" else (how, self.results, self.now + ttl)
        self.running, self.waiting = None, []
        for call in wake:
            assert isinstance(call, Call)
            self.begin(call, self.arguments, wait=True)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def a_waiter_is_cancelled(self, data: st.DataObject) -> None:
        call = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        self.state, _ = keys.leave(self.state, call)

    @rule()
    def a_stranger_ends_it(self) -> None:
        self.state, wake = keys.finish(self.state, Call(), "forged", self.now, 50.0)
        assert wake == ()

    @rule(step=st.sampled_from([0.5, 1.0, 49.0, 1_000.0]))
    def time_passes(self, step: float) -> None:
        self.now += step

    @invariant()
    def at_most_one_call_is_running_and_it_never_expires(self) -> None:
        if self.running is not None:
            assert self.state is not None
            assert self.state.owner is self.running
            assert self.state.expires_at == math.inf

    @invariant()
    def what_is_remembered_expires_when_it_should(self) -> None:
        if self.running is None and self.past is not None and self.state is not None:
            assert self.state.expires_at == self.past[2]
            assert not self.state.waiting


TestOneKey = OneKey.TestCase
TestOneKey.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
