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


@dataclass(slots=True)
class Pending:
    """Sums over calls under way."""

    usd: Decimal = ZERO
    tokens: int = 0
    cost: int = 0

    def add(self, amount: Hold, sign: int = 1) -> None:
        """Add ``amount``; with ``sign=-1`` take it back."""
        self.usd = _signed_sum(self.usd, amount.usd, sign)
        self.tokens += sign * amount.tokens
        self.cost += sign * amount.cost


class Account:
    """One scope of a budget tree: its limits, what was charged to it and below it, and what is under way."""

    __slots__ = ("estimated_usd", "held", "limits", "owner", "parent", "rows", "running", "totals")

    def __init__(self, limits: Limits = NO_LIMITS, parent: Account | None = None, owner: object = None) -> None:
        self.limits = limits
        self.parent = parent
        self.owner = owner
        self.totals = Totals()
        self.rows: dict[RowKey, Totals] = {}
        self.estimated_usd = ZERO
        self.held = Pending()
        """What calls under way may cost."""
        self.running = Pending()
        """What calls under way are known to have used so far."""

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


def reached(account: Account, pending: Pending | None = None) -> LimitType | None:
    """The limit that ``account`` has reached, with ``pending`` on top: reached means used >= limit."""
    limits, totals = account.limits, account.totals
    usd, tokens, cost = (ZERO, 0, 0) if pending is None else (pending.usd, pending.tokens, pending.cost)
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
        if (limit_type := reached(place, place.held)) is not None:
            return Full(place, limit_type)
    rehold(account, NOTHING, hold)
    return None


def rehold(account: Account, before: Hold, after: Hold) -> None:
    """Replace the hold of a call; by `NOTHING` gives it back."""
    for place in account.chain():
        place.held.add(before, -1)
        place.held.add(after)


def progress(account: Account, before: Hold, after: Hold) -> None:
    """A call under way has used ``after`` so far, and not only ``before``."""
    for place in account.chain():
        place.running.add(before, -1)
        place.running.add(after)


def record(account: Account, before: Charge | None, after: Charge | None) -> None:
    """Charge ``after`` to the account and all above, in place of ``before`` (an estimate that proved wrong)."""
    for place in account.chain():
        if before is not None:
            _enter(place, before, -1)
        if after is not None:
            _enter(place, after, 1)


def full(account: Account) -> Full | None:
    """The innermost account of the chain that has reached a limit by what was charged, if any."""
    for place in account.chain():
        if (limit_type := reached(place)) is not None:
            return Full(place, limit_type)
    return None


def full_while_running(account: Account) -> Full | None:
    """The same, counting also what calls under way have used so far."""
    for place in account.chain():
        if (limit_type := reached(place, place.running)) is not None:
            return Full(place, limit_type)
    return None


def left_while_running(account: Account) -> Limits:
    """What is left in the chain until the first limit of each kind, calls under way counted as far as they are."""
    usd: Decimal | None = None
    tokens: int | None = None
    cost: int | None = None
    for place in account.chain():
        limits, totals, running = place.limits, place.totals, place.running
        if limits.usd is not None:
            left = EXACT.subtract(EXACT.subtract(limits.usd, totals.usd), running.usd)
            usd = left if usd is None else min(usd, left)
        if limits.tokens is not None:
            tokens_left = limits.tokens - place.tokens - running.tokens
            tokens = tokens_left if tokens is None else min(tokens, tokens_left)
        if limits.cost is not None:
            cost_left = limits.cost - totals.cost - running.cost
            cost = cost_left if cost is None else min(cost, cost_left)
    return Limits(usd, tokens, cost)


def _signed_sum(total: Decimal, amount: Decimal, sign: int) -> Decimal:
    return EXACT.add(total, amount) if sign > 0 else EXACT.subtract(total, amount)


def _enter(place: Account, amount: Charge, sign: int) -> None:
    place.totals.add(amount, sign)
    if amount.key.estimated:
        place.estimated_usd = _signed_sum(place.estimated_usd, amount.usd, sign)
    row = place.rows.get(amount.key)
    if row is None:
        row = place.rows[amount.key] = Totals()
    row.add(amount, sign)
    if sign < 0 and row == Totals():
        del place.rows[amount.key]
