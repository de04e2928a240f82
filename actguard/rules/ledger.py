"""The ledger of a budget tree: accounts with limits, holds for calls under way, and charges.

Every call charges its own account and all accounts above it. Before it is sent its hold is added, so that calls under
way see each other; afterwards the hold is replaced by the charge. All of these change the accounts that are passed
in: one lock around a tree (the guard's business) makes each of them atomic.

Amounts: USD as Decimal, tokens (input plus output) and cost units (CU) as int.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
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
    most: Hold | None = None
    """What it can cost at the most, which is what hard accounts hold; None: the same."""


NO_LIMITS = Limits()
NOTHING = Hold()


class RowKey(NamedTuple):
    """What a breakdown groups by."""

    provider: str
    model: str
    scope_name: str | None
    tool_name: str | None
    estimated: bool


class Charge(NamedTuple):
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
        self.usd = EXACT.add(self.usd, charge.usd) if sign > 0 else EXACT.subtract(self.usd, charge.usd)
        self.cost += sign * charge.cost


@dataclass(slots=True)
class Pending:
    """Sums over calls under way."""

    usd: Decimal = ZERO
    tokens: int = 0
    cost: int = 0

    def add(self, amount: Hold, sign: int = 1) -> None:
        """Add ``amount``; with ``sign=-1`` take it back."""
        if amount is NOTHING:
            return
        self.usd = EXACT.add(self.usd, amount.usd) if sign > 0 else EXACT.subtract(self.usd, amount.usd)
        self.tokens += sign * amount.tokens
        self.cost += sign * amount.cost


class Account:
    """One scope of a budget tree: its limits, what was charged to it and below it, and what is under way."""

    __slots__ = ("estimated_usd", "hard", "held", "limits", "owner", "parent", "rows", "running", "totals")

    def __init__(
        self, limits: Limits = NO_LIMITS, parent: Account | None = None, owner: object = None, hard: bool = False
    ) -> None:
        self.hard = hard
        """Used and held together must not exceed the limits; else each call may overshoot by its own cost."""
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


Among = Callable[[Account], bool]
"""Which accounts of a chain are asked."""


def any_account(_account: Account) -> bool:
    """All of them."""
    return True


def reached(account: Account, pending: Pending | None = None) -> LimitType | None:
    """The limit that ``account`` has reached, with ``pending`` on top: reached means used >= limit."""
    usd_limit, token_limit, cost_limit = account.limits
    totals = account.totals
    usd, tokens, cost = (ZERO, 0, 0) if pending is None else (pending.usd, pending.tokens, pending.cost)
    if usd_limit is not None and EXACT.add(totals.usd, usd) >= usd_limit:
        return "usd"
    if token_limit is not None and account.tokens + tokens >= token_limit:
        return "token"
    if cost_limit is not None and totals.cost + cost >= cost_limit:
        return "cost"
    return None


def rehold(account: Account, before: Hold, after: Hold) -> None:
    """Replace the hold of a call; by `NOTHING` gives it back. Hard accounts hold the most that it can cost."""
    place: Account | None = account
    while place is not None:  # here and below instead of `chain`: half the time of a scope or two
        if before is not NOTHING:
            place.held.add(before.most or before if place.hard else before, -1)
        if after is not NOTHING:
            place.held.add(after.most or after if place.hard else after)
        place = place.parent


def times(hold: Hold, number: int) -> Hold:
    """``hold`` so many times."""
    return Hold(EXACT.multiply(hold.usd, Decimal(number)), hold.tokens * number, hold.cost * number)


def total(holds: Iterable[Hold]) -> Hold:
    """All of them together."""
    sum_of = Pending()
    for hold in holds:
        sum_of.add(hold)
    return Hold(sum_of.usd, sum_of.tokens, sum_of.cost)


def less(hold: Hold, part: Hold) -> Hold:
    """``hold`` without ``part``, not below nothing."""
    return Hold(
        max(EXACT.subtract(hold.usd, part.usd), ZERO), max(hold.tokens - part.tokens, 0), max(hold.cost - part.cost, 0)
    )


def at_least(hold: Hold, used: Hold) -> Hold:
    """``hold``, and not less than was ``used`` already."""
    most = None if hold.most is None else at_least(hold.most, used)
    return Hold(max(hold.usd, used.usd), max(hold.tokens, used.tokens), max(hold.cost, used.cost), most)


def beyond(used: Hold, charged: Charge) -> Hold:
    """What was used beyond what is charged provisionally; below nothing where less was."""
    return Hold(EXACT.subtract(used.usd, charged.usd), used.tokens - charged.tokens, used.cost - charged.cost)


def rest_of(hold: Hold, before: Charge | None, after: Charge) -> Hold:
    """What is still held when a call is charged ``after`` provisionally, and was charged ``before`` until now."""
    usd, tokens, cost = (ZERO, 0, 0) if before is None else (before.usd, before.tokens, before.cost)
    return Hold(
        max(EXACT.subtract(EXACT.add(hold.usd, usd), after.usd), ZERO),
        max(hold.tokens + tokens - after.tokens, 0),
        max(hold.cost + cost - after.cost, 0),
        None if hold.most is None else rest_of(hold.most, before, after),
    )


def progress(account: Account, before: Hold, after: Hold) -> None:
    """A call under way has used ``after`` so far, and not only ``before``."""
    if before is after:
        return
    for place in account.chain():
        place.running.add(before, -1)
        place.running.add(after)


def record(account: Account, before: Charge | None, after: Charge | None) -> None:
    """Charge ``after`` to the account and all above, in place of ``before`` (an estimate that proved wrong)."""
    place: Account | None = account
    while place is not None:
        if before is not None:
            _enter(place, before, -1)
        if after is not None:
            _enter(place, after, 1)
        place = place.parent


def full(account: Account, among: Among = any_account) -> Full | None:
    """The innermost account of the chain (of those ``among`` it) that has reached a limit by what was charged."""
    place: Account | None = account
    while place is not None:
        if (limit_type := reached(place)) is not None and among(place):
            return Full(place, limit_type)
        place = place.parent
    return None


def full_while_running(account: Account, among: Among = any_account) -> Full | None:
    """The same, counting also what calls under way have used so far."""
    for place in account.chain():
        if among(place) and (limit_type := reached(place, place.running)) is not None:
            return Full(place, limit_type)
    return None


def left_while_running(account: Account) -> Limits:
    """What is left in the chain until the first limit of each kind, calls under way counted as far as they are."""
    return _tightest(room_of(place, place.running) for place in account.chain())


def room(account: Account, *, hard_only: bool) -> Limits:
    """What is left in the chain (or in its hard accounts) with all that is held, of each kind the least."""
    return _tightest(room_of(place, place.held) for place in account.chain() if place.hard or not hard_only)


def room_of(place: Account, pending: Pending | None) -> Limits:
    """What is left in one account with ``pending`` on top."""
    limits, totals, pending = place.limits, place.totals, pending or Pending()
    return Limits(
        None if limits.usd is None else EXACT.subtract(EXACT.subtract(limits.usd, totals.usd), pending.usd),
        None if limits.tokens is None else limits.tokens - place.tokens - pending.tokens,
        None if limits.cost is None else limits.cost - totals.cost - pending.cost,
    )


def part_of(left: Limits, share: Decimal) -> Limits:
    """``share`` of what is left; tokens and cost units rounded down, at least one of each."""
    return Limits(
        None if left.usd is None else max(EXACT.multiply(left.usd, share), ZERO),
        None if left.tokens is None else max(int(EXACT.multiply(Decimal(left.tokens), share)), 1),
        None if left.cost is None else max(int(EXACT.multiply(Decimal(left.cost), share)), 1),
    )


def at_most(limits: Limits, others: Limits) -> Limits:
    """The lower limit of each kind."""
    return _tightest((limits, others))


def _tightest(many: Iterable[Limits]) -> Limits:
    usd: Decimal | None = None
    tokens: int | None = None
    cost: int | None = None
    for one in many:
        if one.usd is not None:
            usd = one.usd if usd is None else min(usd, one.usd)
        if one.tokens is not None:
            tokens = one.tokens if tokens is None else min(tokens, one.tokens)
        if one.cost is not None:
            cost = one.cost if cost is None else min(cost, one.cost)
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
