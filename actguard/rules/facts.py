"""What a session knows: ids that tools or users vouched for, steps that succeeded, sums of what was spent.

Each fact, step and tally is a state of its own, behind a key that begins with what it is and names the session by its
id and scope. So nothing of one session or scope is visible to another, and no value can pass for another kind: a value
is only ever the last part of a tuple.

A single-use fact and an amount are held while a call that needs them is under way: a fact is spent, an amount kept,
when that call succeeds; otherwise both go back. ``call`` is any object that stands for the call; only the call that
holds something can spend it or give it back.

The functions change the state that they are given, and hand it back with the decision.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from decimal import Context, Decimal, Inexact
from typing import Literal

from actguard.rules.values import FactId, fact_id

SessionKey = tuple[str, tuple[tuple[str, str], ...]]
"""A session: its id and its scope, in the order of the names."""
FactKey = tuple[Literal["fact"], SessionKey, str, FactId]
StepKey = tuple[Literal["step"], SessionKey, str]
TallyKey = tuple[Literal["tally"], SessionKey, tuple[str, ...]]

REMEMBERED_S = 24 * 3600.0
"""Seconds for which steps and tallies of a session are kept after they were last added to."""

ZERO = Decimal(0)
_EXACT = Context(prec=2_000, traps=[Inexact])
"""Wide enough for any sum of amounts that pass `values.number`; it raises rather than rounds."""


def session_key(session_id: str, scope: Mapping[str, str] | None = None) -> SessionKey:
    """The key of a session. Scopes with the same names and values are the same, whatever their order."""
    return session_id, tuple(sorted((scope or {}).items()))


def fact_key(session: SessionKey, kind: str, value: object) -> FactKey | None:
    """Where the fact that ``value`` is a ``kind`` lives; None when ``value`` cannot be an id (see `values.fact_id`)."""
    identity = fact_id(value)
    return None if identity is None else ("fact", session, kind, identity)


def step_key(session: SessionKey, tool: str) -> StepKey:
    """Where it is remembered that ``tool`` succeeded."""
    return "step", session, tool


def tally_key(session: SessionKey, name: tuple[str, ...]) -> TallyKey:
    """Where the sum called ``name`` is kept."""
    return "tally", session, name


# --- facts ----------------------------------------------------------------------------------------------------------


class Fact:
    """One id that someone vouched for."""

    __slots__ = ("expires_at", "holder", "valid_until")

    def __init__(self, valid_until: float) -> None:
        self.valid_until = valid_until
        self.expires_at = valid_until
        """Later than ``valid_until`` while a call holds the fact, which must not be forgotten then."""
        self.holder: Hashable = None
        """The call that is using up this fact, or None."""


def mint(state: Fact | None, valid_until: float) -> tuple[Fact, None]:
    """The fact holds until ``valid_until``, or longer if it did before.

    A fact that a call holds stays held: seen again meanwhile, it is still spent when that call succeeds.
    """
    if state is None:
        return Fact(valid_until), None
    if valid_until > state.valid_until:
        state.valid_until = valid_until
        if state.holder is None:
            state.expires_at = valid_until
    return state, None


def has(state: Fact | None, now: float) -> tuple[Fact | None, bool]:
    """Whether the fact holds. It does while a call holds it: it is not spent before that call succeeds."""
    return state, state is not None and now < state.valid_until


def hold(state: Fact | None, call: Hashable, now: float) -> tuple[Fact | None, bool]:
    """Reserve the fact for ``call``; False when it does not hold or another call has it."""
    if state is None or now >= state.valid_until or (state.holder is not None and state.holder is not call):
        return state, False
    state.expires_at = math.inf
    state.holder = call
    return state, True


def spend(state: Fact | None, call: Hashable) -> tuple[Fact | None, None]:
    """``call`` succeeded: the fact that it holds is gone."""
    return (None if state is not None and state.holder is call else state), None


def give_back(state: Fact | None, call: Hashable) -> tuple[Fact | None, None]:
    """``call`` did not succeed: the fact that it holds is free again, until it expires."""
    if state is not None and state.holder is call:
        state.holder = None
        state.expires_at = state.valid_until
    return state, None


# --- steps ----------------------------------------------------------------------------------------------------------


class Step:
    """A tool that has succeeded in this session."""

    __slots__ = ("expires_at",)

    def __init__(self) -> None:
        self.expires_at = 0.0


def record_step(state: Step | None, now: float) -> tuple[Step, None]:
    """The tool succeeded."""
    state = state or Step()
    state.expires_at = now + REMEMBERED_S
    return state, None


def has_succeeded(state: Step | None, now: float) -> tuple[Step | None, bool]:
    """Whether the tool has succeeded in this session."""
    return state, state is not None and now < state.expires_at


# --- tallies --------------------------------------------------------------------------------------------------------


class Tally:
    """A sum over a session, exact, with what calls under way may add to it."""

    __slots__ = ("expires_at", "held", "kept", "pending")

    def __init__(self) -> None:
        self.kept = Decimal(0)
        self.held: dict[Hashable, Decimal] = {}
        """What each call under way may add."""
        self.pending = Decimal(0)
        """The sum of what is held."""
        self.expires_at = math.inf


def hold_amount(
    state: Tally | None, call: Hashable, amount: Decimal, limit: Decimal, now: float
) -> tuple[Tally | None, bool]:
    """Reserve ``amount`` for ``call`` if the sum stays within ``limit`` even when all calls under way succeed.

    A negative amount is refused: it would make room that nobody gave.
    """
    if amount < 0:
        return state, False
    tally = state if state is not None and now < state.expires_at else Tally()
    pending = _EXACT.add(tally.pending, amount)
    if _EXACT.add(tally.kept, pending) > limit:
        return state, False
    tally.expires_at = math.inf
    tally.pending = pending
    tally.held[call] = _EXACT.add(tally.held.get(call, ZERO), amount)
    return tally, True


def keep_amount(state: Tally | None, call: Hashable, now: float) -> tuple[Tally | None, None]:
    """``call`` succeeded: what it holds of this tally is part of the sum."""
    if state is not None and call in state.held:
        state.kept = _EXACT.add(state.kept, state.held[call])
        _drop(state, call, state.held[call], now)
    return state, None


def return_amount(state: Tally | None, call: Hashable, amount: Decimal, now: float) -> tuple[Tally | None, None]:
    """``call`` did not succeed, or needs ``amount`` no longer: it goes back."""
    if state is None or call not in state.held:
        return state, None
    _drop(state, call, min(amount, state.held[call]), now)
    return (state if state.kept or state.held else None), None


def total(state: Tally | None, now: float) -> tuple[Tally | None, Decimal]:
    """The sum of what was kept, without what is held."""
    return state, state.kept if state is not None and now < state.expires_at else ZERO


def exact_sum(amounts: Iterable[Decimal]) -> Decimal:
    """The sum, not rounded."""
    result = ZERO
    for amount in amounts:
        result = _EXACT.add(result, amount)
    return result


def _drop(state: Tally, call: Hashable, amount: Decimal, now: float) -> None:
    """``call`` holds ``amount`` no longer."""
    left = _EXACT.subtract(state.held[call], amount)
    if left > 0:
        state.held[call] = left
    else:
        del state.held[call]
    state.pending = _EXACT.subtract(state.pending, amount)
    if not state.held:
        state.expires_at = now + REMEMBERED_S
