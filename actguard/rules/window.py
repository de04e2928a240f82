"""The sliding window of a rate limit: at most ``max_calls`` admissions in any window of ``period`` seconds.

The times of admissions are kept in a ring. The slot that the next admission would take holds the time of the
admission ``max_calls`` before it, so one comparison decides, whatever ``max_calls`` is and however many entries are
alive; nothing is ever swept. The ring starts small and doubles while it is full of entries that still count, so a key
costs memory for what it uses: 8 bytes for each admission within one period, up to ``max_calls``.

Waiting is a queue. A waiter holds a place, never a slot: it takes a slot at the moment it goes on, so the times in the
ring are the times at which calls really went on. Only the first in the queue has a time to sleep until (the next slot
is free then); the others sleep until they are woken, which happens when they become the first. So nobody polls, nobody
overtakes, and one who gives up leaves nothing behind.

    while isinstance(turn := window.turn(state, me, now), Waiting): sleep(turn.delay) or until woken
    wake(turn.wake)

The methods change the state that they are given, and hand it back with the decision; None is the state of a key that
has never been used. What may be seen half-done after an interrupt refuses a call too many, never too few.
"""

from __future__ import annotations

import math
from array import array
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from actguard.exceptions import ScopeValidationError
from actguard.rules import checks

_FIRST_SIZE = 4
_NEVER = -math.inf


@dataclass(frozen=True, slots=True)
class Admitted:
    """The call goes on now. ``wake`` is the waiter who is first in the queue now and must be woken, or None."""

    wake: Hashable = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The call does not go on; it can in ``retry_after`` seconds, if nobody else is faster."""

    retry_after: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """The call has a place in the queue: sleep for ``delay`` seconds, or until woken (None: only until woken)."""

    delay: float | None


ADMITTED = Admitted()
_BEHIND = Waiting(None)


class WindowState:
    """Admissions of one key. ``expires_at``: from then on it is as good as new."""

    __slots__ = ("expires_at", "head", "queue", "times")

    def __init__(self, size: int) -> None:
        self.times = array("d", (_NEVER,)) * size
        """A ring of admission times; slots that were never used hold minus infinity."""
        self.head = 0
        """Where the oldest time is, which the next admission takes the place of."""
        self.queue: OrderedDict[Hashable, None] | None = None
        """Those who wait, in the order in which they came."""
        self.expires_at = math.inf


@dataclass(frozen=True, slots=True)
class Window:
    """The rule: at most ``max_calls`` admissions in any window of ``period`` seconds. Refused calls do not count.

    Raises:
        ScopeValidationError: a setting is out of range; ``.field`` names it.

    Example:
        ``state, decision = Window(max_calls=10, period=60.0).admit(None, now)``
    """

    max_calls: int
    period: float

    def __post_init__(self) -> None:
        checks.whole_number(self.max_calls, "max_calls", "rate_limit", ScopeValidationError)
        period = checks.duration(self.period, "period", "rate_limit", ScopeValidationError)
        object.__setattr__(self, "period", period)

    def admit(self, state: WindowState | None, now: float) -> tuple[WindowState, Admitted | Refused]:
        """Let the call go on at ``now`` or refuse it. Free slots belong to those who wait, as far as they need them."""
        if state is None:
            state = WindowState(min(_FIRST_SIZE, self.max_calls))
        if state.queue:
            free_at = self._free_at(state, len(state.queue), now)
            if free_at > now or not self._take(state, now):
                return state, Refused(_until(free_at, now))
            return state, ADMITTED
        times = state.times
        head = state.head
        newest = times[head - 1]
        if now < newest:  # two threads read the clock in one order and came here in the other
            now = newest
        # The same as _take, without the call: this is the path of nearly every call.
        if now - times[head] >= self.period:
            state.expires_at = now + self.period
            times[head] = now
            head += 1
            state.head = head if head < len(times) else 0
            return state, ADMITTED
        if self._take(state, now):
            return state, ADMITTED
        return state, Refused(_until(self._free_at(state, 0, now), now))

    def turn(self, state: WindowState | None, waiter: Hashable, now: float) -> tuple[WindowState, Admitted | Waiting]:
        """Let ``waiter`` go on when it is its turn, else give it (or leave it) its place in the queue.

        Called to begin with and again after every sleep. ``waiter`` is any object that stands for this call.
        """
        if state is None:
            state = WindowState(min(_FIRST_SIZE, self.max_calls))
        queue = state.queue
        if queue is None:
            queue = state.queue = OrderedDict()
        if not queue or next(iter(queue)) is waiter:
            if self._take(state, now):
                queue.pop(waiter, None)
                return state, self._next_in(state)
            decision = Waiting(_until(self._free_at(state, 0, now), now))
        else:
            decision = _BEHIND
        queue[waiter] = None
        state.expires_at = math.inf  # a key that someone waits for is not idle
        return state, decision

    def leave(self, state: WindowState | None, waiter: Hashable) -> tuple[WindowState | None, Hashable]:
        """``waiter`` gives up its place. The decision is who must be woken now, or None."""
        if state is None or not state.queue or waiter not in state.queue:
            return state, None
        was_first = next(iter(state.queue)) is waiter
        del state.queue[waiter]
        first = self._next_in(state).wake
        return state, first if was_first else None

    def _next_in(self, state: WindowState) -> Admitted:
        if state.queue:
            return Admitted(next(iter(state.queue)))
        newest = state.times[state.head - 1]
        state.expires_at = newest + self.period
        return ADMITTED

    def _take(self, state: WindowState, now: float) -> bool:
        """Record an admission at ``now`` if there is a slot for it."""
        now = max(now, state.times[state.head - 1])
        if now - state.times[state.head] < self.period and not self._grow(state):
            return False
        times, head = state.times, state.head
        if not state.queue:
            state.expires_at = now + self.period
        times[head] = now
        state.head = (head + 1) % len(times)
        return True

    def _grow(self, state: WindowState) -> bool:
        """Make room in a ring that is full of entries that count, up to ``max_calls``."""
        times, head = state.times, state.head
        more = min(len(times), self.max_calls - len(times))
        if more:
            state.times, state.head = array("d", (_NEVER,)) * more + times[head:] + times[:head], 0
        return more > 0

    def _free_at(self, state: WindowState, ahead: int, now: float) -> float:
        """When a slot is free for one who comes after ``ahead`` others, each going on as early as it can."""
        times = state.times
        rounds, slot = divmod(ahead, self.max_calls)
        unused = self.max_calls - len(times)
        oldest = _NEVER if slot < unused else times[(state.head + slot - unused) % len(times)]
        free_at = oldest + self.period
        if free_at - oldest < self.period:  # the sum was rounded down: a call at that very time would be too early
            free_at = math.nextafter(free_at, math.inf)
        return max(free_at, now) + rounds * self.period


def _until(moment: float, now: float) -> float:
    """The shortest duration with ``now + duration >= moment``, in spite of rounding."""
    delay = max(moment - now, 0.0)
    return delay if now + delay >= moment else delay + math.ulp(moment)
