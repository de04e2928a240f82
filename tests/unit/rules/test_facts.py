"""Facts, steps and tallies: nothing crosses sessions, scopes or kinds; nothing is spent twice or overshot."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actguard.rules import facts
from actguard.rules.facts import REMEMBERED_S, fact_key, session_key
from actguard.rules.session import CallSession, Session
from actguard.rules.values import fact_id
from actguard.stores.memory import MemoryStore

CHAT = session_key("chat-1")
D = Decimal


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Table:
    """A store with a clock, and calls of sessions in it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(self.clock)

    def mint(self, kind: str, value: Any, ttl: float = 300.0, session: Any = CHAT) -> None:
        key = fact_key(session, kind, value)
        assert key is not None
        self.store.apply(key, facts.mint, self.clock.now + ttl)

    def call(self, session: Any = CHAT, tool: str = "module:refund") -> CallSession:
        return CallSession(session, tool, self.store.apply, self.clock.now)


def test_a_session_is_its_id_and_its_scope_in_any_order() -> None:
    assert session_key("a", {"x": "1", "y": "2"}) == session_key("a", {"y": "2", "x": "1"})
    assert len({session_key("a"), session_key("b"), session_key("a", {"x": "1"}), session_key("a", {"x": "2"})}) == 4
    assert session_key("a", {}) == session_key("a", None)


def test_facts_of_one_session_scope_or_kind_are_invisible_to_others() -> None:
    table = Table()
    table.mint("order", "7")
    assert table.call().has_fact("order", "7")
    assert table.call().has_fact("order", 7)
    for kind, value, session in (
        ("invoice", "7", CHAT),
        ("order", "8", CHAT),
        ("order", True, CHAT),
        ("order", None, CHAT),
        ("order", ["7"], CHAT),
        ("order", b"7", CHAT),
        ("order", "7", session_key("chat-2")),
        ("order", "7", session_key("chat-1", {"tenant": "a"})),
        ("order", "7", session_key("")),
    ):
        assert not table.call(session).has_fact(kind, value)
        assert not table.call(session).hold_fact(kind, value)


names = st.text(max_size=3) | st.sampled_from(["a", "order", "a:b", "a\x00b", "('a',)"])
sessions = st.builds(session_key, names, st.dictionaries(names, names, max_size=2))
ids = names | st.integers(-2, 200) | st.binary(max_size=3) | st.booleans() | st.floats(allow_nan=False)


@settings(max_examples=100, deadline=None)
@given(sessions, names, ids, sessions, names, ids)
def test_two_facts_share_a_key_only_when_all_their_parts_are_the_same(
    session: Any, kind: str, value: Any, other_session: Any, other_kind: str, other_value: Any
) -> None:
    one, other = fact_key(session, kind, value), fact_key(other_session, other_kind, other_value)
    same = (session, kind, fact_id(value)) == (other_session, other_kind, fact_id(other_value))
    assert (one == other) is same or (one is None and other is None)


def test_no_fact_is_a_step_or_a_tally() -> None:
    keys = {fact_key(CHAT, "x", "y"), facts.step_key(CHAT, "x"), facts.tally_key(CHAT, ("x",))}
    assert len({key[0] for key in keys if key}) == 3


def test_facts_expire_and_are_freed() -> None:
    table = Table()
    for number in range(100):
        table.mint("order", number, ttl=300.0)
    table.clock.now = 299.9
    assert table.call().has_fact("order", 5)
    table.clock.now = 300.0
    assert not table.call().has_fact("order", 5)
    table.clock.now = 302.0
    assert table.store.sweep() == 0


def test_minting_again_prolongs_and_never_shortens() -> None:
    table = Table()
    table.mint("order", 1, ttl=100.0)
    table.mint("order", 1, ttl=10.0)
    table.clock.now = 50.0
    assert table.call().has_fact("order", 1)
    table.mint("order", 1, ttl=100.0)
    table.clock.now = 149.0
    assert table.call().has_fact("order", 1)


def test_a_single_use_fact_is_spent_by_the_first_call_that_succeeds() -> None:
    table = Table()
    table.mint("order", 1)
    first, second = table.call(), table.call()
    assert first.hold_fact("order", 1)
    assert not second.hold_fact("order", 1)
    assert second.has_fact("order", 1)  # not spent yet
    first.commit(table.clock.now)
    assert not second.has_fact("order", 1)
    assert not table.call().hold_fact("order", 1)
    assert len(table.store) == 0


def test_a_call_that_fails_gives_its_fact_back() -> None:
    table = Table()
    table.mint("order", 1)
    first, second = table.call(), table.call()
    assert first.hold_fact("order", 1)
    first.release()
    assert second.hold_fact("order", 1)
    first.commit(0.0)  # it holds nothing any more
    assert second.has_fact("order", 1)


def test_a_fact_that_expires_while_it_is_held() -> None:
    table = Table()
    table.mint("order", 1, ttl=10.0)
    call = table.call()
    assert call.hold_fact("order", 1)
    table.clock.now = 20.0
    assert not table.call().has_fact("order", 1)
    call.release()
    table.clock.now = 30.0
    assert table.store.sweep() == 0


def test_a_fact_seen_again_while_it_is_held_is_still_spent() -> None:
    table = Table()
    table.mint("order", 1, ttl=10.0)
    call = table.call()
    assert call.hold_fact("order", 1)
    table.clock.now = 20.0  # expired by now, but not forgotten
    table.store.sweep()
    table.mint("order", 1, ttl=1_000.0)
    assert not table.call().hold_fact("order", 1)
    call.commit(0.0)
    assert not table.call().has_fact("order", 1)
    table.mint("order", 1)  # seen after that, it is a new fact
    assert table.call().hold_fact("order", 1)


def test_the_same_fact_held_twice_by_one_call_goes_back_with_the_first_hold() -> None:
    table = Table()
    table.mint("order", 1)
    call = table.call()
    assert call.hold_fact("order", 1)
    mark = call.mark()
    assert call.hold_fact("order", "1")
    call.release(mark)
    assert not table.call().hold_fact("order", 1)
    call.release()
    assert table.call().hold_fact("order", 1)


def test_steps_are_remembered_for_their_session_only() -> None:
    table = Table()
    assert not table.call().has_succeeded("kyc_check")
    table.store.apply(facts.step_key(CHAT, "kyc_check"), facts.record_step, table.clock.now)
    assert table.call().has_succeeded("kyc_check")
    assert not table.call().has_succeeded("other")
    assert not table.call(session_key("chat-2")).has_succeeded("kyc_check")
    table.clock.now = REMEMBERED_S
    assert not table.call().has_succeeded("kyc_check")


def test_concurrent_calls_cannot_overshoot_a_sum() -> None:
    table = Table()
    calls = [table.call() for _ in range(10)]
    held = [call.hold_amount(("sum",), D(100), D(500)) for call in calls]
    assert held == [True] * 5 + [False] * 5
    calls[0].release()
    assert calls[9].hold_amount(("sum",), D(100), D(500))
    for call in calls:
        call.commit(table.clock.now)
    assert table.store.apply(facts.tally_key(CHAT, ("sum",)), facts.total, 0.0) == D(500)
    assert not table.call().hold_amount(("sum",), D("0.01"), D(500))
    assert table.call().hold_amount(("sum",), D(0), D(500))
    assert not table.call().hold_amount(("sum",), D(-1), D(500))  # would make room
    assert table.call().hold_amount(("other",), D(500), D(500))
    assert table.call(session_key("chat-2")).hold_amount(("sum",), D(500), D(500))


def test_sums_are_exact() -> None:
    table = Table()
    for _ in range(10):
        call = table.call()
        assert call.hold_amount(("sum",), D("0.1"), D(1))
        call.commit(0.0)
    assert not table.call().hold_amount(("sum",), D("1e-300"), D(1))
    call = table.call()
    assert call.hold_amount(("big",), D("1e300"), D("1e301"))
    assert call.hold_amount(("big",), D("1e-300"), D("1e301"))
    call.commit(0.0)
    total = table.store.apply(facts.tally_key(CHAT, ("big",)), facts.total, 0.0)
    assert total > D("1e300")


def test_a_sum_is_forgotten_a_day_after_it_was_last_added_to() -> None:
    table = Table()
    call = table.call()
    call.hold_amount(("sum",), D(500), D(500))
    table.clock.now = 2 * REMEMBERED_S  # not while a call holds a part of it
    assert not table.call().hold_amount(("sum",), D(1), D(500))
    call.commit(table.clock.now)
    table.clock.now += REMEMBERED_S - 1
    assert not table.call().hold_amount(("sum",), D(1), D(500))
    table.clock.now += 1
    assert table.call().hold_amount(("sum",), D(500), D(500))


def test_a_sum_that_nothing_was_added_to_is_freed() -> None:
    table = Table()
    call = table.call()
    assert call.hold_amount(("sum",), D(5), D(5))
    call.release()
    assert len(table.store) == 0


def test_what_is_held_is_noted_before_it_is_held() -> None:
    """An interrupt while the store is asked leaves nothing held."""
    table = Table()
    table.mint("order", 1)

    def interrupted(key: Any, transition: Any, *arguments: Any) -> Any:
        decision = table.store.apply(key, transition, *arguments)
        if transition in (facts.hold, facts.hold_amount):
            raise KeyboardInterrupt
        return decision

    call = CallSession(CHAT, "module:refund", interrupted, 0.0)
    with pytest.raises(KeyboardInterrupt):
        call.hold_fact("order", 1)
    with pytest.raises(KeyboardInterrupt):
        call.hold_amount(("sum",), D(5), D(5))
    call.release()
    assert table.call().hold_fact("order", 1)
    assert table.call().hold_amount(("sum",), D(5), D(5))


def test_a_call_session_is_a_session_and_keeps_its_values_to_itself() -> None:
    session: Session = Table().call(session_key("chat-1", {"tenant": "a"}))
    assert (session.id, session.scope, session.tool) == ("chat-1", {"tenant": "a"}, "module:refund")
    assert "chat-1" not in repr(session)


class Custody(RuleBasedStateMachine):
    """Single-use facts and sums under any interleaving of calls, of two sessions, against a plain model."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Table()
        self.sessions = [session_key("s"), session_key("s", {"tenant": "a"})]
        self.facts: dict[tuple[int, str, str], float] = {}
        self.holders: dict[tuple[int, str, str], CallSession] = {}
        self.kept = [D(0), D(0)]
        self.pending: dict[CallSession, D] = {}
        self.calls: list[tuple[CallSession, int]] = []

    which = st.tuples(st.integers(0, 1), st.sampled_from(["order", "invoice"]), st.sampled_from(["1", "2"]))

    def valid(self, fact: tuple[int, str, str]) -> bool:
        return self.facts.get(fact, -math.inf) > self.table.clock.now

    @rule(fact=which, ttl=st.sampled_from([1.0, 10.0]))
    def mint(self, fact: tuple[int, str, str], ttl: float) -> None:
        number, kind, value = fact
        self.table.mint(kind, value, ttl, self.sessions[number])
        self.facts[fact] = max(self.facts.get(fact, 0.0), self.table.clock.now + ttl)

    @rule(number=st.integers(0, 1))
    def a_call_begins(self, number: int) -> None:
        self.calls.append((self.table.call(self.sessions[number]), number))

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), kind=st.sampled_from(["order", "invoice"]), value=st.sampled_from(["1", "2"]))
    def a_call_holds_a_fact(self, data: st.DataObject, kind: str, value: str) -> None:
        call, number = data.draw(st.sampled_from(self.calls))
        call._now = self.table.clock.now
        fact = (number, kind, value)
        free = self.holders.get(fact) in (None, call)
        held = call.hold_fact(kind, value)
        assert held is (self.valid(fact) and free)
        if held:
            self.holders[fact] = call

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), amount=st.sampled_from([D(1), D("0.1"), D(4)]))
    def a_call_holds_an_amount(self, data: st.DataObject, amount: D) -> None:
        call, number = data.draw(st.sampled_from(self.calls))
        call._now = self.table.clock.now
        pending = sum((self.pending.get(other, D(0)) for other, of in self.calls if of == number), D(0))
        held = call.hold_amount(("sum",), amount, D(5))
        assert held is (self.kept[number] + pending + amount <= 5)
        if held:
            self.pending[call] = self.pending.get(call, D(0)) + amount

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), success=st.booleans())
    def a_call_ends(self, data: st.DataObject, success: bool) -> None:
        call, number = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        if success:
            call.commit(self.table.clock.now)
        else:
            call.release()
        amount = self.pending.pop(call, D(0))
        self.kept[number] += amount if success else 0
        for fact in [fact for fact, holder in self.holders.items() if holder is call]:
            del self.holders[fact]
            if success:
                del self.facts[fact]

    @rule(step=st.sampled_from([0.5, 5.0]))
    def time_passes(self, step: float) -> None:
        self.table.clock.now += step
        self.table.store.sweep()

    @invariant()
    def facts_are_what_they_should_be(self) -> None:
        for number, session in enumerate(self.sessions):
            call = self.table.call(session)
            for kind in ("order", "invoice"):
                for value in ("1", "2"):
                    assert call.has_fact(kind, value) is self.valid((number, kind, value))
            total = self.table.store.apply(facts.tally_key(session, ("sum",)), facts.total, self.table.clock.now)
            assert total == self.kept[number] <= 5


TestCustody = Custody.TestCase
TestCustody.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
