"""The memory store: atomic updates, amortised freeing of idle keys."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from actguard.rules.window import Refused, Window
from actguard.scope import step
from actguard.stores.memory import MemoryStore, Store


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Note(NamedTuple):
    text: str
    expires_at: float


def write(state: Note | None, text: str, expires_at: float) -> tuple[Note | None, Note | None]:
    """The transition of these tests: replace the note; the decision is the old one."""
    return (Note(text, expires_at) if text else None), state


def read(state: Note | None) -> tuple[Note | None, str | None]:
    return state, state.text if state else None


class Counter:
    def __init__(self) -> None:
        self.count = 0
        self.expires_at = math.inf


def test_update_never_suspends() -> None:
    store: Store = MemoryStore()
    assert step(store.update(("note",), write, "kept", math.inf)) is None
    assert step(store.update(("note",), read)) == "kept"


async def test_update_and_apply_see_the_same_state() -> None:
    store = MemoryStore()
    store.apply(("note",), write, "kept", math.inf)
    assert await store.update(("note",), read) == "kept"


def test_a_state_of_none_frees_the_key() -> None:
    store = MemoryStore()
    store.apply(("note",), write, "kept", math.inf)
    store.apply(("note",), write, "", 0.0)
    assert len(store) == 0
    store.apply(("never seen",), read)
    assert len(store) == 0


def test_a_transition_that_raises_leaves_everything_as_it_was() -> None:
    def fail(state: Note | None) -> tuple[Note | None, None]:
        raise ZeroDivisionError

    store = MemoryStore()
    for key in (("note",), ("other",)):
        if key == ("note",):
            store.apply(key, write, "kept", math.inf)
        with pytest.raises(ZeroDivisionError):
            store.apply(key, fail)
    assert store.apply(("note",), read) == "kept"
    assert len(store) == 1


@pytest.fixture
def threads_take_turns_often() -> Iterator[None]:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


def test_updates_from_many_threads_are_atomic(threads_take_turns_often: None) -> None:
    def increment(state: Counter | None) -> tuple[Counter, None]:
        state = state or Counter()
        seen = state.count
        for _ in range(20):  # room for another thread to get in between
            pass
        state.count = seen + 1
        return state, None

    def count(state: Counter | None) -> tuple[Counter | None, int]:
        return state, state.count if state else 0

    store = MemoryStore()
    threads = [
        threading.Thread(target=lambda: [store.apply(("counter",), increment) for _ in range(500)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.apply(("counter",), count) == 2_000


def test_an_update_inside_an_update_does_not_deadlock() -> None:
    store = MemoryStore()

    def nested(state: Note | None) -> tuple[Note | None, str | None]:
        return Note("outer", math.inf), store.apply(("inner",), read)

    store.apply(("inner",), write, "seen", math.inf)
    assert store.apply(("outer",), nested) == "seen"


def test_idle_keys_are_freed_a_few_with_each_update() -> None:
    clock, window = Clock(), Window(10, 60.0)
    store = MemoryStore(clock)
    for number in range(100_000):
        store.apply(("rate_limit", number), window.admit, clock.now)
    clock.now = 61.0
    fewest = math.inf
    for _ in range(20_000):
        before = len(store)
        store.apply(("rate_limit", "busy"), window.admit, clock.now)
        fewest = min(fewest, len(store) - before)
        if len(store) == 1:
            break
    assert len(store) == 1
    assert fewest >= -8  # no update pays for many


def test_sweep_frees_all_that_is_due_and_nothing_else() -> None:
    clock = Clock()
    store = MemoryStore(clock)
    for number in range(1_000):
        store.apply(("note", number), write, "kept", float(number))
    clock.now = 500.0
    assert store.sweep() <= 500
    assert store.apply(("note", 501), read) == "kept"
    clock.now = 2_000.0
    assert store.sweep() == 0


def test_a_key_in_use_lives_on_and_costs_one_timer() -> None:
    clock = Clock()
    store = MemoryStore(clock)
    for second in range(1_000):
        clock.now = float(second)
        store.apply(("note",), write, "kept", clock.now + 60.0)
    assert store.sweep() == 1
    assert store._timers == 1


def test_timers_of_freed_keys_do_not_pile_up() -> None:
    store = MemoryStore(Clock())
    for number in range(10_000):
        store.apply(("note", number), write, "kept", 3_600.0)
        store.apply(("note", number), write, "", 0.0)
    assert len(store) == 0
    assert store._timers < 200


# --- slots ----------------------------------------------------------------------------------------------------------


def note_at(state: Note | None, now: float) -> tuple[Note, Note | None]:
    return Note("slot", now + 60.0), state


def test_slots_and_the_store_see_the_same_state() -> None:
    store = MemoryStore(Clock())
    one, other = store.slot(("note",)), store.slot(("note",))
    assert len(store) == 0
    assert one.apply(note_at, 0.0) is None
    assert other.apply(note_at, 1.0) == Note("slot", 60.0)
    assert one.apply(note_at, 2.0) == Note("slot", 61.0)
    assert store.apply(("note",), read) == "slot"
    store.apply(("note",), write, "", 0.0)
    assert store.is_free(("note",))
    assert one.apply(note_at, 3.0) is None
    assert other.apply(note_at, 4.0) == Note("slot", 63.0)
    assert len(store) == 1


def test_the_key_of_a_slot_is_freed_like_others_and_comes_back() -> None:
    clock, window = Clock(), Window(2, 10.0)
    store = MemoryStore(clock)
    slot, busy = store.slot(("limit",)), store.slot(("busy",))
    for _ in range(3):
        for _ in range(2):
            assert not isinstance(slot.apply(window.admit, clock.now), Refused)
        assert isinstance(slot.apply(window.admit, clock.now), Refused)
        clock.now += 12.0
        busy.apply(window.admit, clock.now)
        assert store.is_free(("limit",))


def test_what_a_transition_of_a_slot_raises_changes_nothing_and_lets_the_lock_go() -> None:
    store = MemoryStore(Clock())
    slot = store.slot(("note",))
    slot.apply(note_at, 0.0)

    def interrupted(state: Note | None, now: float) -> tuple[Note, None]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        slot.apply(interrupted, 0.0)
    with pytest.raises(KeyboardInterrupt):
        store.apply(("note",), interrupted, 0.0)
    seen: list[str | None] = []
    thread = threading.Thread(target=lambda: seen.append(store.apply(("note",), read)))
    thread.start()
    thread.join(30)
    assert seen == ["slot"]


def test_a_key_that_is_freed_while_its_slot_is_updated_is_kept() -> None:
    """The garbage collector may finalise a guarded generator in the middle, which comes back to the same key."""
    store = MemoryStore(Clock())
    slot = store.slot(("note",))
    slot.apply(note_at, 0.0)

    def freed_meanwhile(state: Note, now: float) -> tuple[Note, None]:
        store.apply(("note",), write, "", 0.0)
        return state, None

    slot.apply(freed_meanwhile, 0.0)
    assert store.apply(("note",), read) == "slot"
    assert slot.apply(note_at, 1.0) == Note("slot", 60.0)


class Expiry(RuleBasedStateMachine):
    """Against a plain dict: what has not expired is there, what has expired is gone after a sweep."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.store = MemoryStore(self.clock)
        self.model: dict[int, float] = {}

    @rule(key=st.integers(0, 5), life=st.sampled_from([0.2, 0.5, 1.0, 7.0, math.inf]))
    def write(self, key: int, life: float) -> None:
        self.store.apply(("note", key), write, "kept", self.clock.now + life)
        self.model[key] = self.clock.now + life

    @rule(key=st.integers(0, 5))
    def free(self, key: int) -> None:
        self.store.apply(("note", key), write, "", 0.0)
        self.model.pop(key, None)

    @rule(step=st.sampled_from([0.1, 0.5, 1.0, 3.0, 50.0]), sweep=st.booleans())
    def time_passes(self, step: float, sweep: bool) -> None:
        self.clock.now += step
        if sweep:
            self.store.sweep()
            overdue = [until for until in self.model.values() if until + 1.0 <= self.clock.now]
            assert len(self.store) <= len(self.model) - len(overdue)

    @invariant()
    def what_has_not_expired_is_there(self) -> None:
        for key, until in self.model.items():
            if until > self.clock.now:
                assert self.store.apply(("note", key), read) == "kept"


TestExpiry = Expiry.TestCase
TestExpiry.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
