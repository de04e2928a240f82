"""State in this process's memory.

A `Store` applies a transition, a function of `actguard.rules`, to the state behind a key, atomically. The memory store
does it under a short lock and never suspends, so it offers the same without ``await``: `MemoryStore.apply`.

Idle keys are freed. A state says when it is worth nothing any more (``expires_at``, in seconds of the clock that the
rules are given; infinity for never). Each update frees a few keys whose time has come, so no single call pays for many.
"""

from __future__ import annotations

import contextlib
import heapq
import math
import threading
from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar, TypeVarTuple

from actguard import clock

Key = tuple[Hashable, ...]
"""Keys are tuples whose first part says what they are about, never joined strings that a value could forge."""

_NEVER = math.inf
_FREED_PER_UPDATE = 8
_SPARE_TIMERS = 64


class Expiring(Protocol):
    """A state that knows when it is worth nothing any more."""

    @property
    def expires_at(self) -> float: ...


S = TypeVar("S", bound=Expiring)
D = TypeVar("D")
Facts = TypeVarTuple("Facts")


class Store(Protocol):
    """Where the state of rules lives."""

    async def update(self, key: Key, transition: Callable[[S | None, *Facts], tuple[S | None, D]], *facts: *Facts) -> D:
        """Apply ``transition`` to the state behind ``key`` and return its decision.

        ``transition(state, *facts)`` returns the new state and a decision; a state of None is a key that is free.
        Nothing else happens to that key meanwhile.
        """


class _Entry:
    __slots__ = ("key", "state", "timer")

    def __init__(self, key: Key, state: Expiring | None) -> None:
        self.key = key
        self.state = state
        """None once the key is free."""
        self.timer = math.inf
        """The bucket (a whole second) in which this entry is looked at next. The state may live on then."""


class MemoryStore:
    """A `Store` in this process's memory; safe to use from all threads and tasks.

    ``now`` gives the time in seconds, the same that the transitions are given; `actguard.clock` when left out.

    The lock is re-entrant: the garbage collector may finalise a guarded generator in the middle of an update, and its
    guard comes back here in the same thread.

    Example:
        ``store.apply(("rate_limit", "module:search", "alice"), window.admit, time.monotonic())``
    """

    __slots__ = (
        *("_acquire", "_buckets", "_entries", "_lock", "_next_due", "_now", "_release", "_seconds", "_timers"),
        "holds",
    )

    def __init__(self, now: Callable[[], float] | None = None) -> None:
        self._now = now
        self._lock = threading.RLock()
        self._acquire = self._lock.acquire
        self._release = self._lock.release
        self._entries: dict[Key, _Entry] = {}
        self.holds: Callable[[Key], bool] = self._entries.__contains__
        """Whether a key has a state at this moment. Takes no lock: that may change a moment later."""
        # Timers by the whole second they belong to: setting and taking one costs the same however many there are.
        self._buckets: dict[float, list[_Entry]] = {}
        self._seconds: list[float] = []  # a heap of the keys of _buckets
        self._timers = 0
        self._next_due = math.inf

    def __len__(self) -> int:
        """The number of keys that have a state."""
        return len(self._entries)

    async def update(self, key: Key, transition: Callable[[S | None, *Facts], tuple[S | None, D]], *facts: *Facts) -> D:
        """`apply`, as the `Store` protocol wants it. It never suspends."""
        return self.apply(key, transition, *facts)

    def apply(self, key: Key, transition: Callable[[S | None, *Facts], tuple[S | None, D]], *facts: *Facts) -> D:
        """Apply ``transition`` to the state behind ``key``, atomically, and return its decision.

        What the transition raises is passed on, and the key keeps the state it had.
        """
        # Not `with self._lock`, which takes 0.12 µs more. The lock is taken inside of the `try`: Ctrl-C may come then.
        try:
            self._acquire()
            entry = self._entries.get(key)
            if entry is None:
                state, decision = transition(None, *facts)
                if state is not None:
                    entry = self._entries[key] = _Entry(key, state)
                    if state.expires_at < _NEVER:
                        self._set_timer(entry, state.expires_at)
            else:
                held: Any = entry.state
                # Unpacking no facts at all would take 0.1 µs.
                state, decision = transition(held, *facts) if facts else transition(held)  # type: ignore[call-arg]
                if state is None:
                    entry.state = None
                    self._entries.pop(key, None)
                else:
                    if state is not entry.state:  # a new one, or a finalizer has just come here and freed the key
                        entry.state, self._entries[key] = state, entry
                    if state.expires_at < entry.timer:
                        self._set_timer(entry, state.expires_at)
            if self._next_due < _NEVER and self._next_due <= (now := self._time()):
                self._free_expired(now, _FREED_PER_UPDATE)
        except BaseException:
            self._let_go()
            raise
        self._release()
        return decision

    def _let_go(self) -> None:
        """Release the lock, unless the waiting for it was interrupted."""
        with contextlib.suppress(RuntimeError):
            self._release()

    def slot(self, key: Key) -> Slot:
        """`key`, for one who asks for it again and again."""
        return Slot(self, key)

    def is_free(self, key: Key) -> bool:
        """The opposite of `holds`."""
        return key not in self._entries

    def _time(self) -> float:
        return clock.monotonic() if self._now is None else self._now()

    def sweep(self) -> int:
        """Free every key whose time has come, at once; return how many keys are left."""
        with self._lock:
            self._free_expired(self._time(), self._timers + len(self._seconds))
            return len(self._entries)

    def _set_timer(self, entry: _Entry, expires_at: float) -> None:
        second = expires_at // 1.0
        entry.timer = second
        bucket = self._buckets.get(second)
        if bucket is None:
            bucket = self._buckets[second] = []
            heapq.heappush(self._seconds, second)
            self._next_due = self._seconds[0] + 1.0
        bucket.append(entry)
        self._timers += 1
        if self._timers > 2 * len(self._entries) + _SPARE_TIMERS:
            self._forget_dead_timers()

    def _forget_dead_timers(self) -> None:
        """Most timers belong to keys that were freed before their time: drop those."""
        for second, bucket in self._buckets.items():
            bucket[:] = [entry for entry in bucket if self._is_live(second, entry)]
        self._timers = sum(map(len, self._buckets.values()))

    def _is_live(self, second: float, entry: _Entry) -> bool:
        return entry.timer == second and self._entries.get(entry.key) is entry

    def _free_expired(self, now: float, at_most: int) -> None:
        """Look at ``at_most`` timers that are due; a state that lives on gets a new one."""
        for _ in range(at_most):
            if self._next_due > now:
                return
            second = self._seconds[0]
            bucket = self._buckets[second]
            if bucket:
                self._timers -= 1
                entry = bucket.pop()
                if self._is_live(second, entry):
                    entry.timer = math.inf
                    state = entry.state
                    if state is None or state.expires_at <= now:
                        entry.state = None
                        del self._entries[entry.key]
                    elif state.expires_at < _NEVER:
                        self._set_timer(entry, state.expires_at)
            else:
                del self._buckets[heapq.heappop(self._seconds)]
                self._next_due = self._seconds[0] + 1.0 if self._seconds else math.inf


class Slot:
    """One key of a store, which is not looked up again and again: half of the time of `MemoryStore.apply`.

    Example:
        ``slot = store.slot(("rate_limit", "module:search"))``, then ``slot.apply(window.admit, time.monotonic())``
    """

    __slots__ = ("_entry", "_key", "_store")

    def __init__(self, store: MemoryStore, key: Key) -> None:
        self._store = store
        self._key = key
        self._entry = _Entry(key, None)

    def apply(self, transition: Callable[[Any, float], tuple[Expiring, D]], now: float) -> D:
        """Apply ``transition(state, now)`` to the state behind the key; it never frees the key."""
        store, entry = self._store, self._entry
        try:
            store._acquire()
            if entry.state is None:  # not used yet, or freed meanwhile
                decision = store.apply(self._key, transition, now)
                self._entry = store._entries[self._key]
            else:
                state, decision = transition(entry.state, now)
                if state is not entry.state:
                    entry.state, store._entries[self._key] = state, entry
                if state.expires_at < entry.timer:
                    store._set_timer(entry, state.expires_at)
                if store._next_due <= now:
                    store._free_expired(now, _FREED_PER_UPDATE)
        except BaseException:
            store._let_go()
            raise
        store._release()
        return decision
