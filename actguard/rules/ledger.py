"""The ledger of a budget tree: accounts with limits, holds for calls under way, and charges.

Every call charges its own account and all accounts above it. Before it is sent its hold is added, so that calls under
way see each other; afterwards the hold is replaced by the charge. All of these change the accounts that are passed
in: one lock around a tree (the guard's business) makes each of them atomic.

Amounts: USD as Decimal, tokens (input plus output) and cost units (CU) as int.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Literal, NamedTuple

LimitType = Literal["token", "usd", "cost"]

ZERO = Decimal(0)
EXACT = Context(prec=60)
"""Sums are made here: a program that lowers the precision of its own decimal context does not lower ours."""


class Limits(NamedTuple):
    """The most an account may use; None is no limit."""

    usd: Decimal | None = None
    tokens: int | None = None
    cost: int | None = None


class Hold(NamedTuple):
    """What a call under way may cost."""

    usd: Decimal = ZERO
    tokens: int = 0
    cost: int = 0


NO_LIMITS = Limits()
NOTHING = Hold()


class RowKey(NamedTuple):
    """What a breakdown groups by."""

    provider: str
    model: str
    scope_name: str | None
    tool_name: str | None
    estimated: bool


@dataclass(frozen=True, slots=True)
class Charge:
    """What one call (or outside cost) did cost."""

    key: RowKey
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    usd: Decimal = ZERO
    cost: int = 0
    calls: int = 1

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens


@dataclass(slots=True)
class Totals:
    """Sums of charges."""

    calls: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    usd: Decimal = ZERO
    cost: int = 0

    def add(self, charge: Charge, sign: int = 1) -> None:
        """Add ``charge``; with ``sign=-1`` take it back."""
        self.calls += sign * charge.calls
        self.input_tokens += sign * charge.input_tokens
        self.cached_input_tokens += sign * charge.cached_input_tokens
        self.cache_write_tokens += sign * charge.cache_write_tokens
        self.output_tokens += sign * charge.output_tokens
        self.usd = _signed_sum(self.usd, charge.usd, sign)
        self.cost += sign * charge.cost


class Account:
    """One scope of a budget tree: its limits, what was charged to it and below it, and what is held."""

    __slots__ = ("estimated_usd", "held_cost", "held_tokens", "held_usd", "limits", "parent", "rows", "totals")

    def __init__(self, limits: Limits = NO_LIMITS, parent: Account | None = None) -> None:
        self.limits = limits
        self.parent = parent
        self.totals = Totals()
        self.rows: dict[RowKey, Totals] = {}
        self.estimated_usd = ZERO
        self.held_usd = ZERO
        self.held_tokens = 0
        self.held_cost = 0

    @property
    def tokens(self) -> int:
        """Input plus output tokens charged."""
        return self.totals.input_tokens + self.totals.output_tokens

    def chain(self) -> Iterator[Account]:
        """This account and those above it, up to the root."""
        account: Account | None = self
        while account is not None:
            yield account
            account = account.parent


class Full(NamedTuple):
    """The decision "no": which account is full, and by which limit."""

    account: Account
    limit_type: LimitType


def reached(account: Account, usd: Decimal = ZERO, tokens: int = 0, cost: int = 0) -> LimitType | None:
    """The limit that ``account`` reaches with the given amounts on top: reached means used >= limit."""
    limits, totals = account.limits, account.totals
    if limits.usd is not None and EXACT.add(totals.usd, usd) >= limits.usd:
        return "usd"
    if limits.tokens is not None and account.tokens + tokens >= limits.tokens:
        return "token"
    if limits.cost is not None and totals.cost + cost >= limits.cost:
        return "cost"
    return None


def admit(account: Account, hold: Hold) -> Full | None:
    """Hold ``hold`` on the account and all above, or refuse and hold nothing.

    Refused when an account has reached a limit with what is used and held by others; the call's own hold does not
    refuse it. So concurrent calls together overshoot by at most one call's cost.
    """
    for place in account.chain():
        limit_type = reached(place, place.held_usd, place.held_tokens, place.held_cost)
        if limit_type is not None:
            return Full(place, limit_type)
    _hold(account, hold, 1)
    return None


def release(account: Account, hold: Hold) -> None:
    """Give a hold back: nothing was billed, or the charge takes its place."""
    _hold(account, hold, -1)


def charge(account: Account, amount: Charge, hold: Hold | None = None) -> Full | None:
    """Charge the account and all above in place of ``hold``; says which one is full now, the innermost first."""
    if hold is not None:
        release(account, hold)
    _record(account, amount, 1)
    return fullest(account)


def revise(account: Account, before: Charge, after: Charge) -> None:
    """Replace an estimated charge by the exact one."""
    _record(account, before, -1)
    _record(account, after, 1)


def fullest(account: Account, extra: Hold = NOTHING) -> Full | None:
    """The innermost account of the chain that has reached a limit with ``extra`` on top, if any."""
    for place in account.chain():
        limit_type = reached(place, *extra)
        if limit_type is not None:
            return Full(place, limit_type)
    return None


def _signed_sum(total: Decimal, amount: Decimal, sign: int) -> Decimal:
    return EXACT.add(total, amount) if sign > 0 else EXACT.subtract(total, amount)


def _hold(account: Account, hold: Hold, sign: int) -> None:
    for place in account.chain():
        place.held_usd = _signed_sum(place.held_usd, hold.usd, sign)
        place.held_tokens += sign * hold.tokens
        place.held_cost += sign * hold.cost


def _record(account: Account, amount: Charge, sign: int) -> None:
    for place in account.chain():
        place.totals.add(amount, sign)
        if amount.key.estimated:
            place.estimated_usd = _signed_sum(place.estimated_usd, amount.usd, sign)
        row = place.rows.get(amount.key)
        if row is None:
            row = place.rows[amount.key] = Totals()
        row.add(amount, sign)
        if sign < 0 and not row.calls:
            del place.rows[amount.key]
