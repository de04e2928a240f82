"""Budget scopes: limits, figures, nesting and refusals."""

from __future__ import annotations

import decimal
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from calls import CENT, DOLLAR, admitted, charged, crossing, used
from conftest import Runner

import actguard
from actguard import context
from actguard.client import Client
from actguard.events import BudgetBlocked, GuardBlocked, LlmUsage
from actguard.exceptions import (
    ActGuardRuntimeContextError,
    ActGuardUsageError,
    BudgetClientMismatchError,
    BudgetExceededError,
    GuardError,
    MissingRuntimeContextError,
    NestedBudgetGuardError,
)
from actguard.guards.bounding import Bound
from actguard.guards.budget import BudgetGuard
from actguard.guards.charging import NEVER
from actguard.money.own_prices import Price
from actguard.money.usage import Usage

# --- settings -------------------------------------------------------------------------------------------------------

NOT_USD = [
    0,
    -1,
    -0.01,
    0.0,
    "0",
    "-1",
    True,
    False,
    math.nan,
    math.inf,
    -math.inf,
    "nan",
    "inf",
    "1e",
    "",
    "1,5",
    b"1",
]
NOT_USD += [
    [],
    {},
    object(),
    1j,
    Fraction(1, 3),
    Decimal("NaN"),
    Decimal("Infinity"),
    Decimal("sNaN"),
    10**12,
    10**400,
]
NOT_A_COUNT: list[Any] = [0, -1, True, False, 1.0, 1.5, math.nan, math.inf, "1", Decimal(1), [], object()]
NOT_A_TEXT: list[Any] = ["", "  ", 1, True, b"x", ["x"]]
NOT_A_CHOICE: list[Any] = ["", "other", True, 1, ["raise"], None]
NOT_A_SHARE: list[Any] = [0, -0.5, 1.5, True, math.nan, math.inf, "x", []]

WRONG: dict[str, list[Any]] = {
    "usd_limit": NOT_USD,
    "token_limit": NOT_A_COUNT,
    "cost_limit": NOT_A_COUNT,
    "user_id": NOT_A_TEXT,
    "name": NOT_A_TEXT,
    "run_id": NOT_A_TEXT,
    "plan_key": NOT_A_TEXT,
    "on_crossing": NOT_A_CHOICE,
    "enforcement": NOT_A_CHOICE,
    "on_full": NOT_A_CHOICE,
    "min_output_tokens": NOT_A_COUNT,
    "allow_unbounded": [0, 1, "yes", None],
    "share": NOT_A_SHARE,
}


@pytest.mark.parametrize(
    ("field", "value"),
    [pytest.param(field, value, id=f"{field}={value!r:.12}") for field, values in WRONG.items() for value in values],
)
def test_a_wrong_setting_is_refused_and_named(field: str, value: Any, client: Client) -> None:
    with pytest.raises(ActGuardUsageError) as caught:
        client.budget_guard(**{field: value})
    assert (caught.value.field, caught.value.code) == (field, "usage.budget_guard_configuration")
    assert field in str(caught.value)


def test_every_setting_is_tried() -> None:
    import inspect

    assert set(inspect.signature(Client.budget_guard).parameters) - {"self"} == set(WRONG)


@pytest.mark.parametrize(
    ("limit", "exact"),
    [
        (0.1, "0.1"),
        ("0.1", "0.1"),
        (Decimal("0.10"), "0.1"),
        (1, "1"),
        (1e-9, "1e-9"),
        (0.1 + 0.2, "0.30000000000000004"),
    ],
)
def test_a_limit_is_read_as_it_is_written(limit: Any, exact: str, client: Client) -> None:
    with client.run(), client.budget_guard(usd_limit=limit) as budget:
        budget.add_cost("x", Decimal(exact) * Decimal("0.999999999"))
        with pytest.raises(BudgetExceededError):
            budget.add_cost("x", Decimal(exact) * Decimal("0.000000001"))


def test_without_limits_a_scope_only_counts(client: Client) -> None:
    with client.run(), client.budget_guard() as budget:
        charged(budget, 100 * DOLLAR)
        assert (budget.usd_limit, budget.token_limit, budget.cost_limit, budget.usd_remaining) == (None,) * 4
    assert budget.usd_used == 100


# --- which limit ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "fits", "limit_type"),
    [
        ({"usd_limit": 1}, DOLLAR - 1, "usd"),
        ({"usd_limit": "0.000001"}, 0, "usd"),
        ({"token_limit": 1000}, 999, "token"),
        ({"token_limit": 1}, 0, "token"),
        ({"cost_limit": 10}, 9000, "cost"),
        ({"usd_limit": 1, "token_limit": 1000, "cost_limit": 10}, 999, "token"),
        ({"usd_limit": "0.0005", "token_limit": 1000, "cost_limit": 10}, 499, "usd"),
        ({"usd_limit": 1, "token_limit": 10_000, "cost_limit": 3}, 2000, "cost"),
    ],
)
def test_the_first_limit_that_is_reached_stops_it(
    limits: dict[str, Any], fits: int, limit_type: str, client: Client
) -> None:
    with client.run(), client.budget_guard(**limits) as budget:
        if fits:
            charged(budget, fits)
        error = crossing(budget, 1)
        assert error is not None
        assert error.limit_type == limit_type
        with pytest.raises(BudgetExceededError) as refused:
            admitted(budget, 1)
        assert refused.value.limit_type == limit_type
        assert refused.value.held is None
    assert budget.tokens_used == fits + 1


def test_cost_is_rounded_up_per_call(client: Client) -> None:
    with client.run(), client.budget_guard(cost_limit=10) as budget:
        for _ in range(9):
            charged(budget, 1)  # a millionth of a dollar is one cost unit
        assert budget.cost_used == 9
        charged_at = crossing(budget, 1)
    assert charged_at is not None
    assert (budget.cost_used, charged_at.cost_used, charged_at.cost_limit) == (10, 10, 10)


def test_all_buckets_count(client: Client) -> None:
    buckets = {"cache_read_tokens": 5, "cache_write_5m_tokens": 7, "cache_write_1h_tokens": 11, "reasoning_tokens": 3}
    with client.run(), client.budget_guard(token_limit=1000) as budget:
        charged(budget, 100, 10, **buckets)
        [row] = budget.breakdown()
    assert budget.tokens_used == 133
    assert (row.input_tokens, row.cached_input_tokens, row.cache_write_tokens, row.output_tokens) == (123, 5, 18, 10)
    assert (row.provider, row.model, row.calls, row.estimated) == ("test", "m", 1, False)
    assert row.usd == budget.usd_used_exact == Decimal("0.000223")


# --- the crossing ---------------------------------------------------------------------------------------------------


def test_the_call_that_crosses_is_recorded_and_reported_with_all_facts(client: Client) -> None:
    with client.run(user_id="alice") as run, client.bus.subscribe(BudgetBlocked) as events:
        with client.budget_guard(name="all", usd_limit=1, plan_key="pro") as root:
            with client.budget_guard(name="part", usd_limit="0.5", token_limit=DOLLAR) as part:
                error = crossing(part, 60 * CENT)
                with pytest.raises(BudgetExceededError) as refused:
                    admitted(part)
            assert error is not None
            for each in (error, refused.value):
                assert (each.scope_name, each.scope_kind, each.scope_id) == ("part", "nested", part.scope_id)
                assert (each.parent_scope_id, each.root_scope_id) == (root.scope_id, root.scope_id)
                assert (each.usd_used, each.usd_limit, each.tokens_used, each.token_limit) == (
                    0.6,
                    0.5,
                    600_000,
                    DOLLAR,
                )
                assert (each.cost_used, each.cost_limit, each.limit_type) == (600, None, "usd")
                assert (each.user_id, each.origin, each.path, each.status_code) == ("alice", "local", None, None)
                assert (each.response, each.partial) == (None, None)
        first, second = events.pending()
    assert isinstance(first, BudgetBlocked)
    for event in (first, second):
        assert (event.run_id, event.user_id, event.scope_name, event.plan_key) == (run.run_id, "alice", "part", "pro")
        assert (event.usd_used, event.usd_limit, event.limit_type, event.outcome) == (0.6, 0.5, "usd", "blocked")


def test_the_scope_that_is_full_is_named_and_not_the_one_that_asked(client: Client) -> None:
    with client.run(), client.budget_guard(name="all", usd_limit=1) as root:
        charged(root, 50 * CENT)
        with client.budget_guard(name="part", usd_limit=5) as part:
            error = crossing(part, 50 * CENT)
            with pytest.raises(BudgetExceededError, match="'all'"):
                admitted(part)
        assert error is not None
        assert (error.scope_name, error.scope_kind, error.parent_scope_id) == ("all", "root", None)
        with client.budget_guard(name="late", usd_limit=5) as late, pytest.raises(BudgetExceededError, match="'all'"):
            admitted(late)
    assert (part.usd_used, late.usd_used, root.usd_used) == (0.5, 0.0, 1.0)


def test_crossing_may_return_and_the_next_call_is_refused(client: Client) -> None:
    with client.run(), client.budget_guard(usd_limit="0.01", on_crossing="return") as budget:
        charged(budget, CENT)
        with pytest.raises(BudgetExceededError):
            admitted(budget)
        with pytest.raises(BudgetExceededError):
            budget.add_cost("x", Decimal("0.01"))
    assert budget.usd_used == 0.02


def test_an_outside_cost_that_crosses_may_return_and_the_next_is_refused(client: Client) -> None:
    with client.run(), client.budget_guard(usd_limit="0.01", on_crossing="return") as budget:
        budget.add_cost("x", Decimal("0.01"))
        with pytest.raises(BudgetExceededError):
            budget.add_cost("x", Decimal("0.01"))
    assert budget.usd_used == 0.02


def test_a_refusal_for_what_others_hold_says_that_it_is_for_now(client: Client) -> None:
    with client.run(), client.budget_guard(usd_limit="0.01") as budget:
        ticket = admitted(budget, CENT)
        with pytest.raises(BudgetExceededError, match="no room at the moment") as refused:
            admitted(budget)
        ticket.release()
        admitted(budget).release()
    assert refused.value.retryable
    assert "Blocked for now" in refused.value.to_prompt()


def test_a_scope_that_raises_does_so_although_one_inside_it_returns(client: Client) -> None:
    with client.run(), client.budget_guard(name="all", usd_limit="0.01") as root:
        with client.budget_guard(name="part", usd_limit="0.01", on_crossing="return") as part:
            error = crossing(part, CENT)
            assert error is not None
            assert error.scope_name == "all"
            with pytest.raises(BudgetExceededError, match="'all'"):
                part.add_cost("x", Decimal("0.01"))
        assert root.usd_used == 0.02


def test_a_scope_that_returns_does_so_although_one_inside_it_raises(client: Client) -> None:
    returns, raises = client.budget_guard(name="all", usd_limit="0.01", on_crossing="return"), client.budget_guard()
    with client.run(), returns, raises:
        charged(raises, CENT)
        with pytest.raises(BudgetExceededError, match="'all'"):
            admitted(raises)


# --- outside costs --------------------------------------------------------------------------------------------------


def test_an_outside_cost_is_charged_to_the_active_scope_and_those_around_it(client: Client) -> None:
    with client.run(), client.budget_guard(usd_limit=1) as root, client.budget_guard(name="part") as part:
        actguard.add_cost(name="maps", usd=0.1)
        actguard.add_cost("maps", "0.2")
        actguard.add_cost(name="gpu", usd=Decimal("0.00001"))
        actguard.add_cost(name="free", usd=0)
    assert part.usd_used_exact == root.usd_used_exact == Decimal("0.30001")
    assert (part.calls, part.tokens_used, part.cost_used) == (0, 0, 301)
    rows = {row.model: row for row in part.breakdown()}
    assert set(rows) >= {"maps", "gpu"}
    assert (rows["maps"].provider, rows["maps"].scope_name, rows["maps"].calls) == ("custom", "part", 0)


@pytest.mark.parametrize("usd", [-1, "-0.01", math.nan, math.inf, "abc", True, None, [], 10**12])
def test_an_outside_cost_that_is_no_amount_is_a_value_error(usd: Any, client: Client) -> None:
    with client.run(), client.budget_guard() as budget:
        with pytest.raises(ValueError, match="usd"):
            actguard.add_cost(name="x", usd=usd)
        assert budget.usd_used_exact == 0


@pytest.mark.parametrize("name", ["", " ", None, 1, b"x"])
def test_an_outside_cost_needs_a_name(name: Any, client: Client) -> None:
    with client.run(), client.budget_guard(), pytest.raises(ActGuardUsageError) as caught:
        actguard.add_cost(name=name, usd=1)
    assert caught.value.field == "name"


def test_an_outside_cost_needs_a_scope(client: Client) -> None:
    for usd in (1, 0):
        with pytest.raises(MissingRuntimeContextError, match="add_cost") as caught, client.run():
            actguard.add_cost(name="x", usd=usd)
        assert caught.value.code == "runtime.context_missing"


def test_an_outside_cost_that_crosses_is_recorded_first(client: Client) -> None:
    with client.run(), client.budget_guard(usd_limit=1) as budget:
        with pytest.raises(BudgetExceededError) as crossed:
            actguard.add_cost(name="x", usd=2)
        with pytest.raises(BudgetExceededError):
            actguard.add_cost(name="x", usd=1)
    assert crossed.value.usd_used == 2
    assert budget.usd_used == 3


# --- where a scope can be opened ------------------------------------------------------------------------------------


def entered(guard: BudgetGuard) -> None:
    with guard:
        raise AssertionError("entered")


def test_a_scope_needs_a_run(client: Client) -> None:
    with pytest.raises(MissingRuntimeContextError) as caught:
        entered(client.budget_guard(usd_limit=1))
    assert caught.value.code == "runtime.context_missing"


def test_a_scope_needs_a_run_of_its_own_client(client: Client) -> None:
    with Client() as other, other.run(), pytest.raises(BudgetClientMismatchError):
        entered(client.budget_guard(usd_limit=1))


def test_a_scope_checks_the_run_it_is_told(client: Client) -> None:
    with client.run(run_id="r1"):
        with pytest.raises(ActGuardRuntimeContextError, match="'r2'") as caught:
            entered(client.budget_guard(run_id="r2"))
        assert caught.value.code == "runtime.run_id_mismatch"
        with client.budget_guard(run_id="r1") as budget:
            assert budget.run_id == "r1"


def test_a_refused_scope_can_be_entered_where_it_fits(client: Client) -> None:
    guard = client.budget_guard(usd_limit=1)
    with pytest.raises(MissingRuntimeContextError):
        entered(guard)
    with client.run(), guard:
        charged(guard, CENT)
    assert guard.usd_used == 0.01


def test_a_scope_is_shown_on_one_line(client: Client) -> None:
    shown = repr(client.budget_guard(name="a\nb", usd_limit="0.50"))
    assert shown == r"<BudgetGuard 'a\nb' usd_limit=0.50, 0.000000 USD used>"


def test_one_object_is_one_scope(client: Client, on_loop: Runner) -> None:
    guard = client.budget_guard(name="mine")
    with client.run():
        with guard:
            with pytest.raises(NestedBudgetGuardError, match="'mine'"):
                entered(guard)
            assert context.active_budget() is guard
        with pytest.raises(NestedBudgetGuardError, match="'mine' was left"):
            entered(guard)
    guard.__exit__(None, None, None)
    assert context.active_budget() is None


def test_a_full_share_says_what_to_raise(client: Client) -> None:
    with client.run(), client.budget_guard(usd_limit="0.02", on_crossing="return"):
        with client.budget_guard(share=0.5, name="part") as part:
            refusal = crossing(part, CENT)
            assert refusal is not None
            assert refusal.is_share
            assert "Raise share or the usd_limit of the scopes around it to go on." in str(refusal)
        with client.budget_guard(share=0.5, usd_limit="0.001") as own:
            refusal = crossing(own, CENT)
            assert refusal is not None
            assert str(refusal).endswith("Raise usd_limit to go on.")
        with client.budget_guard(share=0.5, name="late") as late, pytest.raises(BudgetExceededError) as refused:
            admitted(late)
    assert str(refused.value) == (
        "Budget scope 'late' has nothing: the scopes around it had nothing left to share. Raise their usd_limit."
    )


def test_a_part_of_nothing_is_refused(client: Client) -> None:
    with client.run(), pytest.raises(ActGuardUsageError) as caught:
        entered(client.budget_guard(share=0.5))
    assert caught.value.field == "share"


def test_leaving_restores_what_was_active(client: Client, on_loop: Runner) -> None:
    async def main() -> None:
        async with client.run():
            assert context.active_budget() is None
            async with client.budget_guard() as one:
                async with client.budget_guard() as two:
                    assert context.active_budget() is two
                assert context.active_budget() is one
                with pytest.raises(LookupError):
                    await failing_inside(client)
                assert context.active_budget() is one
            assert context.active_budget() is None

    on_loop(main)


async def failing_inside(client: Client) -> None:
    async with client.budget_guard():
        raise LookupError


def test_scopes_left_out_of_order_leave_the_right_one_active(client: Client) -> None:
    with client.run():
        root, middle, leaf = client.budget_guard(), client.budget_guard(), client.budget_guard()
        for guard in (root, middle, leaf):
            guard.__enter__()
        middle.__exit__(None, None, None)
        assert context.active_budget() is leaf
        charged(leaf, CENT)
        leaf.__exit__(None, None, None)
        assert context.active_budget() is root
        root.__exit__(None, None, None)
        assert context.active_budget() is None
    assert (leaf.usd_used, middle.usd_used, root.usd_used) == (0.01, 0.01, 0.01)


def test_a_new_root_after_the_first_starts_at_zero(client: Client) -> None:
    with client.run():
        with client.budget_guard(usd_limit="0.01") as first:
            assert crossing(first, CENT) is not None
        with client.budget_guard(usd_limit="0.01") as second:
            charged(second, 1)
            assert second.scope_id != first.scope_id
            assert second.identity()["scope_kind"] == "root"


def test_a_scope_may_be_left_in_another_context(client: Client) -> None:
    import contextvars

    there = contextvars.copy_context()
    run, guard = client.run(), client.budget_guard(usd_limit=1)
    there.run(run.__enter__)
    there.run(guard.__enter__)
    guard.__exit__(None, None, None)
    run.__exit__(None, None, None)
    assert guard.closed
    assert context.active_budget() is None
    with client.run(), client.budget_guard() as again:
        assert context.active_budget() is again
    assert there.run(reopened, client) is None


def reopened(client: Client) -> Any:
    """A scope where a closed one is still set."""
    with client.run(), client.budget_guard() as budget:
        assert context.active_budget() is budget
        assert budget.identity()["scope_kind"] == "root"
    return context.active_budget()


# --- figures --------------------------------------------------------------------------------------------------------


def figures(budget: BudgetGuard) -> tuple[float, float, float, int, int, int, int, int, int]:
    return (
        budget.usd_used,
        budget.local_usd_used,
        budget.root_usd_used,
        budget.tokens_used,
        budget.local_tokens_used,
        budget.root_tokens_used,
        budget.cost_used,
        budget.local_cost_used,
        budget.root_cost_used,
    )


def test_figures_of_root_and_nested_scopes(client: Client) -> None:
    with client.run(), client.budget_guard(name="all") as root:
        charged(root, CENT)
        with client.budget_guard(name="a") as a:
            charged(a, 2 * CENT)
            with client.budget_guard(name="b") as b:
                charged(b, 3 * CENT)
        with client.budget_guard(name="c") as c:
            charged(c, 4 * CENT)
    assert figures(root) == (0.1, 0.1, 0.1, 100_000, 100_000, 100_000, 100, 100, 100)
    assert figures(a) == (0.05, 0.05, 0.1, 50_000, 50_000, 100_000, 50, 50, 100)
    assert figures(b) == (0.03, 0.03, 0.1, 30_000, 30_000, 100_000, 30, 30, 100)
    assert figures(c) == (0.04, 0.04, 0.1, 40_000, 40_000, 100_000, 40, 40, 100)
    assert [budget.calls for budget in (root, a, b, c)] == [4, 2, 1, 1]
    assert [row.scope_name for row in root.breakdown()] == ["c", "b", "a", "all"]
    assert sum(row.usd for row in root.breakdown()) == root.usd_used_exact


def test_figures_can_be_read_before_entry_and_after_exit(client: Client) -> None:
    guard = client.budget_guard(usd_limit="0.5", token_limit=10, cost_limit=3, name="n", user_id="u", plan_key="p")
    nothing = (0.0, 0.0, 0.0, 0, 0, 0, 0, 0, 0)
    settings = (guard.usd_limit, guard.token_limit, guard.cost_limit, guard.name, guard.user_id, guard.plan_key)
    assert settings == (0.5, 10, 3, "n", "u", "p")
    assert figures(guard) == nothing
    assert (guard.calls, guard.estimated_usd, guard.breakdown(), guard.run_id) == (0, 0.0, [], None)
    assert guard.usd_remaining == 0.5
    assert "n" in repr(guard)
    with client.run(run_id="r") as run, guard:
        assert guard.run_id == run.run_id == "r"
        charged(guard, 5)
    assert (guard.run_id, guard.tokens_used, guard.usd_used) == ("r", 5, 0.000005)
    assert guard.usd_remaining == 0.499995
    assert "0.000005" in repr(guard)


def test_what_remains_is_never_below_zero(client: Client) -> None:
    with client.run(), client.budget_guard(usd_limit="0.01") as budget, client.budget_guard() as nested:
        assert crossing(nested, 3 * CENT) is not None
    assert budget.usd_remaining == 0.0
    assert nested.usd_remaining is None


def test_whose_scope_it_is(client: Client) -> None:
    with client.run(user_id="run"), client.budget_guard() as root, client.budget_guard(user_id="own") as own:
        assert (root.user_id, own.user_id) == ("run", "own")
        with client.budget_guard() as below:
            assert below.user_id == "own"


def test_breakdown_groups_by_model_scope_and_tool(client: Client) -> None:
    with client.run(), client.budget_guard(name="all") as root:
        for _ in range(3):
            charged(root, CENT, model="a")
        token = context.current_tool.set("module:tool")
        charged(root, 5 * CENT, model="a")
        context.current_tool.reset(token)
        charged(root, CENT, model="b")
        actguard.add_cost("a", "0.01")
        rows = root.breakdown()
    assert [(row.model, row.tool_name, row.calls, row.usd) for row in rows] == [
        ("a", "module:tool", 1, Decimal("0.05")),
        ("a", None, 3, Decimal("0.03")),
        ("a", None, 0, Decimal("0.01")),
        ("b", None, 1, Decimal("0.01")),
    ]


# --- holds ----------------------------------------------------------------------------------------------------------


def test_calls_under_way_refuse_others_until_their_holds_come_back(client: Client) -> None:
    with client.run(), client.budget_guard(usd_limit="0.03", name="all") as budget:
        first, second, third = (admitted(budget, CENT) for _ in range(3))
        with pytest.raises(BudgetExceededError, match=r"0\.030000 USD more are held by calls under way") as refused:
            admitted(budget, 1)
        assert refused.value.usd_used == 0.0
        first.release()
        fourth = admitted(budget, 1)
        for ticket in (second, third, fourth):
            assert ticket.charge(used(1)) is None
        assert budget.usd_used_exact == Decimal("0.000003")
        assert not budget.tree.open_calls
        held = budget.account.held
        assert (held.usd, held.tokens, held.cost) == (0, 0, 0)


def test_holds_count_in_all_scopes_around(client: Client) -> None:
    with client.run(), client.budget_guard(usd_limit="0.02", name="all"):
        with client.budget_guard(usd_limit=1) as one:
            held = admitted(one, 2 * CENT)
        with client.budget_guard(usd_limit=1) as two, pytest.raises(BudgetExceededError, match="'all'"):
            admitted(two, 1)
        held.release()
        with client.budget_guard(usd_limit=1) as three:
            admitted(three, 1).release()


def test_a_call_is_settled_once(client: Client) -> None:
    with client.run(), client.budget_guard(usd_limit=1) as budget:
        ticket = admitted(budget, CENT)
        assert ticket.charge(used(CENT)) is None
        assert ticket.settled
        for again in (lambda: ticket.charge(used(CENT)), ticket.charge_estimate, ticket.release):
            assert again() is None
        released = admitted(budget, CENT)
        released.release()
        assert released.settled
        assert released.charge(used(CENT)) is None
    assert (budget.usd_used, budget.calls) == (0.01, 1)


def test_a_free_answer_costs_nothing(client: Client) -> None:
    with client.run(), client.bus.subscribe(LlmUsage) as events, client.budget_guard() as budget:
        assert admitted(budget, CENT).charge(used(0)) is None
    assert (budget.calls, budget.usd_used, events.pending()) == (0, 0.0, [])


def test_a_price_per_request_is_due_for_an_empty_answer_too() -> None:
    prices = {"m": Price(input_per_mtok=1, output_per_mtok=1, per_request="0.00013")}
    with Client(prices=prices) as client, client.run(), client.budget_guard() as budget:
        admitted(budget).charge(Usage())
        assert (budget.usd_used_exact, [row.calls for row in budget.breakdown()]) == (Decimal("0.00013"), [1])
        admitted(budget).release()
        assert budget.usd_used_exact == Decimal("0.00013")


def test_an_unrefusable_call_is_admitted_by_a_full_scope(client: Client) -> None:
    with client.run(), client.budget_guard(usd_limit="0.01") as budget:
        assert crossing(budget, CENT) is not None
        ticket = admitted(budget, CENT, refusable=False)
        assert ticket.charge(used(CENT)) is not None
    assert budget.usd_used == 0.02


# --- estimates ------------------------------------------------------------------------------------------------------


def test_an_estimate_is_marked_and_replaced_by_the_exact_figure(client: Client) -> None:
    with client.run(), client.bus.subscribe(LlmUsage) as events, client.budget_guard(usd_limit=1) as budget:
        ticket = admitted(budget, CENT, output=1)
        assert ticket.charge_estimate() is None
        assert budget.estimated_usd == budget.usd_used == 0.01001
        assert [row.estimated for row in budget.breakdown()] == [True]
        assert ticket.charge(used(3 * CENT)) is None
        assert (budget.estimated_usd, budget.usd_used, budget.calls) == (0.0, 0.03, 1)
        assert [row.estimated for row in budget.breakdown()] == [False]
        assert ticket.charge(used(9 * CENT)) is None
    assert budget.usd_used == 0.03
    [event] = events.pending()
    assert event.estimated


def test_several_attempts_are_charged_each(client: Client) -> None:
    with client.run(), client.budget_guard(usd_limit="0.03") as budget:
        error = admitted(budget, CENT, output=0).charge_estimate(attempts=3)
    assert error is not None
    assert (budget.usd_used, budget.estimated_usd, budget.tokens_used) == (0.03, 0.03, 3 * CENT)


def test_a_call_that_is_open_when_its_scope_ends_is_charged_as_estimated(client: Client) -> None:
    with client.run(), client.bus.subscribe(LlmUsage) as events:
        with client.budget_guard(usd_limit=1) as root:
            with client.budget_guard(usd_limit="0.05") as nested:
                ticket = admitted(nested, CENT)
            assert (nested.usd_used, nested.estimated_usd, root.usd_used) == (0.01, 0.01, 0.01)
            assert not ticket.settled
            assert root.account.held.usd == 0  # it is charged, and not held as well
            assert ticket.charge(used(2 * CENT)) is None
            assert (nested.usd_used, nested.estimated_usd, root.usd_used) == (0.02, 0.0, 0.02)
            stays = admitted(root, CENT)
        assert root.usd_used == 0.03
        assert stays.charge(used(5 * CENT)) is None
    assert (root.usd_used, root.estimated_usd, root.calls) == (0.07, 0.0, 2)
    assert [(event.usd, event.estimated) for event in events.pending()] == [
        (Decimal("0.02"), False),
        (Decimal("0.01"), True),
    ]


def test_a_call_that_is_released_after_its_scope_costs_nothing(client: Client) -> None:
    with client.run(), client.budget_guard(usd_limit=1) as root:
        with client.budget_guard() as nested:
            ticket = admitted(nested, CENT)
        assert root.usd_used == 0.01
        ticket.release()
        assert (root.usd_used, nested.usd_used, root.calls, root.breakdown()) == (0.0, 0.0, 0, [])


def test_what_a_stream_has_used_so_far_is_what_is_charged_at_the_end_of_the_scope(client: Client) -> None:
    with client.run(), client.budget_guard(usd_limit=1) as budget:
        so_far = [used(10)]
        ticket = admitted(budget, CENT, stream=True)
        ticket.watch(lambda: so_far[0])
        so_far[0] = used(10, 7)
    assert (budget.tokens_used, budget.usd_used_exact) == (17, Decimal("0.00008"))
    assert ticket.charge(used(10, 20)) is None
    assert (budget.tokens_used, budget.estimated_usd) == (30, 0.0)


# --- streams --------------------------------------------------------------------------------------------------------


def test_a_running_stream_sees_what_it_has_used_and_what_others_have(client: Client) -> None:
    with client.run(), client.budget_guard(token_limit=1000) as budget:
        one, two = (admitted(budget, 10, stream=True) for _ in range(2))
        assert one.check(used(10, 100)) == (None, 64)
        assert two.check(used(10, 800)) == (None, 16)
        error, _ = one.check(used(10, 190))
        assert error is not None
        assert (error.tokens_used, error.limit_type) == (1010, "token")
        assert one.charge(used(10, 190)) is not None
        assert two.charge(used(10, 20)) is None
    assert budget.tokens_used == 230


def test_a_cut_stream_is_reported_although_its_exact_usage_is_below_the_limit(client: Client) -> None:
    with client.run(), client.bus.subscribe(BudgetBlocked) as events, client.budget_guard(token_limit=100) as budget:
        stream = admitted(budget, 10, stream=True)
        error, _ = stream.check(used(10, 95))
        assert error is not None
        assert stream.charge(used(10, 80)) is not None
        assert budget.tokens_used == 90
        admitted(budget, 1).release()
    assert len(events.pending()) == 1


def test_a_provisional_charge_publishes_no_event(client: Client) -> None:
    with client.run(), client.bus.subscribe(LlmUsage) as events, client.budget_guard() as root:
        with client.budget_guard():
            stream = admitted(context.active_budget(), 10, stream=True)
        assert (root.tokens_used, events.pending()) == (10, [])
        stream.charge(used(10, 5))
        assert [event.output_tokens for event in events.pending()] == [5]


def test_a_stream_in_a_scope_that_returns_is_cut_without_an_error(client: Client) -> None:
    part = client.budget_guard(token_limit=50, on_crossing="return")
    with client.run(), client.budget_guard(token_limit=100, name="all"), part:
        stream = admitted(part, 10, stream=True)
        assert stream.check(used(10, 20)) == (None, 10)
        assert stream.check(used(10, 60)) == (None, 0)
        error, more = stream.check(used(10, 95))
        assert error is not None
        assert (error.scope_name, more) == ("all", 0)
        stream.release()
        assert stream.check(used(10, 60)) == (None, NEVER)


def test_a_stream_that_outlives_a_scope_that_returns_is_cut_without_an_error(client: Client) -> None:
    with client.run(), client.budget_guard(token_limit=100, on_crossing="return") as budget:
        stream = admitted(budget, 10, stream=True)
        stream.watch(lambda: used(10, 5))
    assert stream.check(used(10, 50)) == (None, 20)
    assert stream.check(used(10, 95)) == (None, 0)
    assert stream.charge(used(10, 96)) is None
    assert stream.check(used(10, 96)) == (None, NEVER)
    assert budget.tokens_used == 106


def test_checks_come_closer_as_the_money_runs_out(client: Client) -> None:
    with client.run(), client.budget_guard(usd_limit="0.01", cost_limit=100) as budget:
        stream = admitted(budget, 0, stream=True)
        left = []
        for output in (0, 500, 900, 990, 999):
            error, more = stream.check(used(0, output))
            assert error is None
            left.append(more)
        assert left == [64, 64, 50, 5, 1]
        assert stream.check(used(0, 1000))[0] is not None
        stream.release()
        assert budget.account.running.usd == 0


def test_a_settled_stream_is_not_checked_any_more(client: Client) -> None:
    with client.run(), client.budget_guard(token_limit=10) as budget:
        stream = admitted(budget, 1, stream=True)
        stream.charge(used(1, 1))
        error, _ = stream.check(used(1, 100))
        assert error is None
        assert budget.account.running.tokens == 0


def test_a_stream_that_outlives_its_scope_is_still_limited_by_those_around(client: Client) -> None:
    with client.run(), client.budget_guard(token_limit=100) as root:
        with client.budget_guard() as nested:
            stream = admitted(nested, 10, stream=True)
            so_far = [used(10, 5)]
            stream.watch(lambda: so_far[0])
            assert stream.check(so_far[0])[0] is None
        assert root.tokens_used == 15
        assert stream.check(used(10, 50))[0] is None
        assert root.tokens_used == 60
        assert root.account.running.tokens == 0
        error, _ = stream.check(used(10, 95))
        assert error is not None
        assert error.tokens_used == 105
        assert stream.charge(used(10, 96)) is not None
        assert (root.tokens_used, root.estimated_usd, root.calls) == (106, 0.0, 1)
        assert root.account.held.tokens == 0


# --- prices ---------------------------------------------------------------------------------------------------------


def test_an_unpriced_model_counts_tokens_and_is_warned_about_once() -> None:
    with Client(prices={"known": Price(input_per_mtok=1, output_per_mtok=1)}) as client, client.run():
        with client.bus.subscribe(LlmUsage) as events, client.budget_guard(token_limit=100) as budget:
            with pytest.warns(actguard.exceptions.ActGuardMonitoringWarning, match="no-such-model") as caught:
                charge_twice(budget)
            assert len(caught) == 1
        assert (budget.tokens_used, budget.usd_used) == (20, 0.0)
        assert all(event.unpriced and event.usd is None and event.usd_micros is None for event in events.pending())


def charge_twice(budget: BudgetGuard) -> None:
    for _ in range(2):
        charged(budget, 10, model="no-such-model")


def test_an_unpriced_model_can_be_refused() -> None:
    with Client(on_unpriced="raise") as client, client.run(), client.budget_guard(usd_limit=1) as budget:
        with pytest.raises(GuardError) as caught, client.bus.subscribe(GuardBlocked) as events:
            admitted(budget, model="no-such-model")
        assert caught.value.code == "UNPRICED_MODEL"
        [blocked] = events.pending()
        assert (blocked.figures["code"], blocked.figures["model"]) == ("UNPRICED_MODEL", "no-such-model")
        assert (budget.account.held.tokens, budget.tree.open_calls) == (0, set())


@pytest.mark.parametrize("answer", [lambda p, m: Price(input_per_mtok=1, output_per_mtok=1)])
def test_an_unpriced_model_can_be_priced_by_a_function(answer: Callable[[str, str], Any]) -> None:
    with Client(on_unpriced=answer) as client, client.run(), client.budget_guard(usd_limit=1) as budget:
        charged(budget, CENT, model="no-such-model")
        assert budget.usd_used == 0.01


def broken(provider: str, model: str) -> Any:
    raise LookupError(model)


@pytest.mark.parametrize("answer", [lambda p, m: None, lambda p, m: "cheap", broken])
def test_a_function_without_a_price_is_warned_about_and_never_reaches_the_call(answer: Any) -> None:
    with Client(on_unpriced=answer) as client, client.run(), client.budget_guard(usd_limit=1) as budget:
        with pytest.warns(actguard.exceptions.ActGuardMonitoringWarning, match="no-such-model"):
            charge_twice(budget)
        assert (budget.usd_used, budget.calls) == (0.0, 2)


# --- the program's own arithmetic -----------------------------------------------------------------------------------


@contextmanager
def careless_program() -> Iterator[None]:
    """A program that works with two digits and wants to be told of every rounding."""
    context = decimal.Context(prec=2, traps=[decimal.Inexact, decimal.FloatOperation, decimal.InvalidOperation])
    with decimal.localcontext(context):
        yield


def spend(client: Client) -> list[Any]:
    """A little of everything that computes with money; what it found."""
    found: list[Any] = []
    limits: dict[str, Any] = {"usd_limit": 0.123456789, "cost_limit": 98765, "token_limit": 9_876_543}
    with client.run(), client.bus.subscribe() as events:
        with client.budget_guard(name="all", **limits) as root:
            found.append(crossing(root, 12_345, 1_234, cache_read_tokens=567))
            actguard.add_cost("maps", "0.00012345")
            with client.budget_guard(share="0.333", name="part") as part:
                found += [part.usd_limit, part.token_limit, part.cost_limit, part.usd_remaining]
                stream = admitted(part, 123, stream=True)
                found += [stream.check(used(123, output))[1] for output in (1, 345, 678)]
            stream.charge(used(123, 679))
            found += [part.usd_used_exact, part.estimated_usd, repr(root)]
            with client.budget_guard(enforcement="hard", usd_limit="0.0123", cost_limit=1234) as hard:
                ticket = admitted(hard, 1234, bound=Bound(1234))
                found.append(ticket.output_limit)
                ticket.release()
                with pytest.raises(BudgetExceededError) as refused:
                    admitted(hard, 123_456, bound=Bound(123_456))
                found.append(str(refused.value))
            found.append(str(crossing(root, 123_456)))
            found += [(row.model, row.usd, row.calls) for row in root.breakdown()]
            found += [root.usd_used, root.usd_used_exact, root.usd_remaining, root.cost_used, root.usd_limit]
        found += [(event.usd, event.usd_micros) for event in events.pending() if isinstance(event, LlmUsage)]
    return found


def test_a_careless_program_changes_no_digit(client: Client) -> None:
    expected = spend(client)
    with careless_program():
        found = spend(client)
    assert found == expected
