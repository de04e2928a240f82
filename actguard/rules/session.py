"""What a rule of `enforce` sees of the session, and what it may hold for the call it is asked about.

A rule checks before the body runs, but what it takes (a single-use fact, an amount) is only used up when the call
succeeds. So the `CallSession` takes note of everything that was held through it: `CallSession.commit` uses it up,
`CallSession.release` gives it back. A rule has nothing to do for that, and one that holds nothing works the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple, Protocol

from actguard.rules import facts
from actguard.rules.facts import SessionKey

Apply = Callable[..., Any]
"""``apply(key, transition, *facts)`` of a store: the state behind a key goes through a transition, atomically."""


class Session(Protocol):
    """The session, as a rule sees it during the check of one call."""

    @property
    def id(self) -> str:
        """What ``actguard.session(id)`` was given."""

    @property
    def scope(self) -> Mapping[str, str]:
        """What ``actguard.session(id, scope)`` was given; empty without."""

    @property
    def tool(self) -> str:
        """The tool that is about to be called."""

    def has_fact(self, kind: str, value: object) -> bool:
        """Whether a tool or the user vouched for ``value`` as a ``kind`` in this session."""

    def hold_fact(self, kind: str, value: object) -> bool:
        """The same for a single-use fact: it is reserved for this call, and spent when the call succeeds."""

    def has_succeeded(self, tool: str) -> bool:
        """Whether ``tool`` has succeeded in this session before."""

    def hold_amount(self, tally: tuple[str, ...], amount: Decimal, limit: Decimal) -> bool:
        """Whether the sum ``tally`` has room for ``amount``; it is reserved, and added when the call succeeds."""

    def mark(self) -> int:
        """A point to go back to with `release`."""

    def release(self, mark: int = 0) -> None:
        """Give back what was held since ``mark``."""


class _Hold(NamedTuple):
    """Something held: where it is, how it is used up, how it is given back, and what that takes."""

    key: Any
    use: Callable[..., Any]
    undo: Callable[..., Any]
    amount: Decimal | None = None


class CallSession:
    """A `Session` for one call. ``apply`` is a store's, ``now`` the time of the call in seconds.

    Example:
        ``call = CallSession(session_key("chat-7"), "module:refund", store.apply, clock())``, then
        ``rule.check(arguments, call)``, then ``call.commit(clock())`` when the body returned, else ``call.release()``
    """

    __slots__ = ("_apply", "_holds", "_key", "_now", "id", "tool")

    def __init__(self, key: SessionKey, tool: str, apply: Apply, now: float) -> None:
        self.id = key[0]
        self.tool = tool
        self._key = key
        self._apply = apply
        self._now = now
        self._holds: list[_Hold] = []

    def __repr__(self) -> str:
        return f"CallSession(tool={self.tool!r})"

    @property
    def scope(self) -> Mapping[str, str]:
        return dict(self._key[1])

    def has_fact(self, kind: str, value: object) -> bool:
        key = facts.fact_key(self._key, kind, value)
        return key is not None and self._apply(key, facts.has, self._now) is True

    def hold_fact(self, kind: str, value: object) -> bool:
        key = facts.fact_key(self._key, kind, value)
        if key is None:
            return False
        if any(hold.key == key for hold in self._holds):  # by another rule; it goes back with that one
            return self.has_fact(kind, value)
        # Noted before it is done: giving back what is not held changes nothing, forgetting a hold would keep it.
        self._holds.append(_Hold(key, facts.spend, facts.give_back))
        if self._apply(key, facts.hold, self, self._now):
            return True
        self._holds.pop()
        return False

    def has_succeeded(self, tool: str) -> bool:
        return self._apply(facts.step_key(self._key, tool), facts.has_succeeded, self._now) is True

    def hold_amount(self, tally: tuple[str, ...], amount: Decimal, limit: Decimal) -> bool:
        key = facts.tally_key(self._key, tally)
        self._holds.append(_Hold(key, facts.keep_amount, facts.return_amount, amount))
        if self._apply(key, facts.hold_amount, self, amount, limit, self._now):
            return True
        self._holds.pop()
        return False

    def mark(self) -> int:
        return len(self._holds)

    def release(self, mark: int = 0) -> None:
        while len(self._holds) > mark:
            hold = self._holds[-1]
            facts_of_call = (self,) if hold.amount is None else (self, hold.amount, self._now)
            self._apply(hold.key, hold.undo, *facts_of_call)
            self._holds.pop()

    def commit(self, now: float) -> None:
        """The call succeeded: everything held is used up."""
        while self._holds:
            hold = self._holds[-1]
            self._apply(hold.key, hold.use, *((self,) if hold.amount is None else (self, now)))
            self._holds.pop()
