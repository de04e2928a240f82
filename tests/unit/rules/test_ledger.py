"""The ledger of a budget tree: sums that are exact to the last digit, in every account of the chain."""

from __future__ import annotations

import decimal
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actguard.rules import ledger
from actguard.rules.ledger import NOTHING, ZERO, Account, Charge, Hold, Limits, RowKey, Totals

KEY = RowKey("p", "m", None, None, False)


def charge(usd: str = "0", tokens: int = 0, cost: int = 0, key: RowKey = KEY) -> Charge:
    return Charge(key, input_tokens=tokens, usd=Decimal(usd), cost=cost)


@contextmanager
def careless_program() -> Iterator[None]:
    """A program that works with two digits and wants to be told of every rounding."""
    context = decimal.Context(prec=2, traps=[decimal.Inexact, decimal.FloatOperation, decimal.InvalidOperation])
    with decimal.localcontext(context):
        yield


# --- reached --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "used", "expected"),
    [
        (Limits(), charge("1000000", 10**9, 10**9), None),
        (Limits(usd=Decimal("0.3")), charge("0.299999999999999999999999"), None),
        (Limits(usd=Decimal("0.3")), charge("0.3"), "usd"),
        (Limits(usd=Decimal("0.3")), charge("0.30"), "usd"),
        (Limits(tokens=100), charge(tokens=99), None),
        (Limits(tokens=100), charge(tokens=100), "token"),
        (Limits(cost=100), charge(cost=99), None),
        (Limits(cost=100), charge(cost=101), "cost"),
        (Limits(Decimal(1), 100, 100), charge("0.5", 100, 50), "token"),
        (Limits(Decimal(1), 100, 100), charge("0.5", 50, 100), "cost"),
        (Limits(Decimal(1), 100, 100), charge("1", 100, 100), "usd"),
    ],
)
def test_a_limit_is_reached_when_used_is_the_limit_or_more(limits: Limits, used: Charge, expected: str | None) -> None:
    account = Account(limits)
    ledger.record(account, None, used)
    assert ledger.reached(account) == expected
    assert (ledger.full(account) is None) == (expected is None)


def test_ten_cents_ten_times_are_a_dollar() -> None:
    account = Account(Limits(usd=Decimal(1)))
    for times in range(10):
        assert ledger.reached(account) is None, times
        ledger.record(account, None, charge("0.1"))
    assert ledger.reached(account) == "usd"


def test_pending_amounts_count_where_they_are_asked_for() -> None:
    account = Account(Limits(Decimal(1), 100, 100))
    hold = Hold(Decimal("1"), 5, 5)
    ledger.rehold(account, NOTHING, hold)
    assert ledger.reached(account) is None
    assert ledger.reached(account, account.held) == "usd"
    ledger.progress(account, NOTHING, Hold(tokens=100))
    assert ledger.full(account) is None
    assert ledger.full_while_running(account) == (account, "token")


def test_the_innermost_full_account_is_named() -> None:
    root = Account(Limits(usd=Decimal(10)))
    middle = Account(Limits(usd=Decimal(1)), root)
    leaf = Account(Limits(), middle)
    ledger.record(leaf, None, charge("1"))
    assert ledger.full(leaf) == (middle, "usd")
    ledger.record(root, None, charge("9"))
    assert ledger.full(leaf) == (middle, "usd")
    assert ledger.full(root) == (root, "usd")


def test_what_is_left_is_the_least_of_the_chain() -> None:
    root = Account(Limits(Decimal(10), 100, None), hard=True)
    leaf = Account(Limits(Decimal(12), None, 7), root)
    ledger.record(leaf, None, charge("1", 10, 3))
    ledger.rehold(leaf, NOTHING, Hold(Decimal(2), 20, 1))
    ledger.progress(leaf, NOTHING, Hold(Decimal("0.5"), 5, 0))
    assert ledger.left_while_running(leaf) == Limits(Decimal("8.5"), 85, 4)
    assert ledger.room(leaf, hard_only=False) == Limits(Decimal(7), 70, 3)
    assert ledger.room(leaf, hard_only=True) == Limits(Decimal(7), 70, None)
    assert ledger.room(Account(), hard_only=False) == Limits()


def test_a_part_of_what_is_left() -> None:
    assert ledger.part_of(Limits(Decimal("0.9"), 7, 3), Decimal("0.5")) == Limits(Decimal("0.45"), 3, 1)
    assert ledger.part_of(Limits(Decimal("-1"), -5, 0), Decimal("0.5")) == Limits(ZERO, 1, 1)
    assert ledger.at_most(Limits(Decimal(1), None, 5), Limits(Decimal(2), 3, 4)) == Limits(Decimal(1), 3, 4)


# --- properties -----------------------------------------------------------------------------------------------------

usd = st.decimals(min_value=0, max_value=10**9, places=16) | st.decimals(min_value=0, max_value=1, places=28)
keys = st.builds(
    RowKey,
    provider=st.sampled_from(["openai", "anthropic"]),
    model=st.sampled_from(["a", "b"]),
    scope_name=st.sampled_from([None, "x"]),
    tool_name=st.none(),
    estimated=st.booleans(),
)
charges = st.builds(
    Charge,
    key=keys,
    input_tokens=st.integers(0, 10**9),
    cached_input_tokens=st.integers(0, 10**6),
    cache_write_tokens=st.integers(0, 10**6),
    output_tokens=st.integers(0, 10**9),
    usd=usd,
    cost=st.integers(0, 10**9),
    calls=st.integers(0, 1),
)
holds = st.builds(Hold, usd=usd, tokens=st.integers(0, 10**9), cost=st.integers(0, 10**9))


def tree() -> tuple[Account, list[Account]]:
    """A root and four accounts at three levels."""
    root = Account()
    left, right = Account(parent=root), Account(parent=root)
    return root, [root, left, right, Account(parent=left), Account(parent=left)]


def exact_sum(amounts: list[Decimal]) -> Decimal:
    total = sum((Decimal(amount).scaleb(40, ledger.EXACT).as_integer_ratio()[0] for amount in amounts), 0)
    return ledger.EXACT.scaleb(Decimal(total), -40)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 4), charges), max_size=30))
def test_totals_and_rows_add_up_in_every_account(entries: list[tuple[int, Charge]]) -> None:
    _, accounts = tree()
    with careless_program():
        for place, amount in entries:
            ledger.record(accounts[place], None, amount)
    for account in accounts:
        below = [amount for place, amount in entries if account in accounts[place].chain()]
        assert account.totals.usd == exact_sum([amount.usd for amount in below])
        assert account.tokens == sum(amount.tokens for amount in below)
        assert account.totals.cost == sum(amount.cost for amount in below)
        assert account.totals.calls == sum(amount.calls for amount in below)
        assert account.estimated_usd == exact_sum([amount.usd for amount in below if amount.key.estimated])
        assert exact_sum([row.usd for row in account.rows.values()]) == account.totals.usd
        assert sum(row.input_tokens + row.output_tokens for row in account.rows.values()) == account.tokens
        assert set(account.rows) == {amount.key for amount in below}


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 4), charges, st.none() | charges), max_size=20))
def test_replacing_a_charge_is_as_if_the_first_had_never_been(entries: list[tuple[int, Charge, Charge | None]]) -> None:
    _, replaced = tree()
    _, direct = tree()
    for place, before, after in entries:
        ledger.record(replaced[place], None, before)
        ledger.record(replaced[place], before, after)
        if after is not None:
            ledger.record(direct[place], None, after)
    for one, other in zip(replaced, direct, strict=True):
        assert one.totals == other.totals
        assert one.estimated_usd == other.estimated_usd
        assert nothing_left_out(one.rows) == nothing_left_out(other.rows)


def nothing_left_out(rows: dict[RowKey, Totals]) -> dict[RowKey, Totals]:
    """Rows without those of calls that neither cost nor counted anything."""
    return {key: row for key, row in rows.items() if row != Totals()}


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 4), holds, holds), max_size=20))
def test_holds_that_were_given_back_leave_nothing(entries: list[tuple[int, Hold, Hold]]) -> None:
    _, accounts = tree()
    with careless_program():
        for place, first, second in entries:
            ledger.rehold(accounts[place], NOTHING, first)
            ledger.rehold(accounts[place], first, second)
            ledger.progress(accounts[place], NOTHING, second)
        for account in accounts:
            held = [second for place, _, second in entries if account in accounts[place].chain()]
            assert account.held.usd == account.running.usd == exact_sum([hold.usd for hold in held])
            assert account.held.tokens == sum(hold.tokens for hold in held)
        for place, _, second in reversed(entries):
            ledger.rehold(accounts[place], second, NOTHING)
            ledger.progress(accounts[place], second, NOTHING)
    for account in accounts:
        for pending in (account.held, account.running):
            assert (pending.usd, pending.tokens, pending.cost) == (0, 0, 0)


@settings(deadline=None)
@given(st.builds(Limits, st.none() | usd, st.none() | st.integers(1, 10**30), st.none() | st.integers(1, 10**30)))
def test_a_careless_program_changes_no_part_of_what_is_left(left: Limits) -> None:
    share = Decimal("0.333333333333333333")
    expected = ledger.part_of(left, share)
    with careless_program():
        assert ledger.part_of(left, share) == expected
        assert ledger.at_most(left, expected) == ledger.at_most(expected, left)
    if left.tokens is not None:
        assert expected.tokens == max(left.tokens * 333333333333333333 // 10**18, 1)
