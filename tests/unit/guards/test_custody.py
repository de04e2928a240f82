"""The chain of custody around real calls: prove, trust, enforce, sessions."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import anyio
import pytest
from conftest import Runner
from either import first
from guarding import KINDS, fresh, hand_clock, of_kind, outcome, published
from hypothesis import given, settings
from hypothesis import strategies as st

from actguard import (
    AllOf,
    AnyOf,
    CumulativeLimit,
    GuardError,
    RequireCall,
    RequireFact,
    Rule,
    Threshold,
    enforce,
    idempotent,
    prove,
    session,
    tool,
    trust,
)
from actguard.client import Client
from actguard.events import GuardBlocked
from actguard.exceptions import ActGuardUsageError, SessionUsageError
from actguard.guards.session import active_session
from actguard.guards.state import shared


def refuses(call: Any, code: str) -> GuardError:
    with pytest.raises(GuardError) as refused:
        call()
    assert refused.value.code == code
    return refused.value


@enforce([RequireFact("order_id", kind="order", hint="Call find first."), Threshold("amount", max=500)])
def refund(order_id: Any, amount: Any = 1) -> str:
    return f"refunded {amount} for {order_id}"


@prove("order", extract="id")
def find(*ids: Any) -> list[dict[str, Any]]:
    return [{"id": each} for each in ids]


# --- what is proven can be used -------------------------------------------------------------------------------------


def test_an_id_must_have_been_returned_before() -> None:
    with session(fresh()):
        error = refuses(lambda: refund("A1"), "MISSING_FACT")
        assert "Call find first." in error.to_prompt()
        find("A1", 7)
        assert refund("A1") == "refunded 1 for A1"
        assert refund("7") == refund(7) == "refunded 1 for 7"  # the same id, however it is written
        refuses(lambda: refund("A2"), "MISSING_FACT")
        refuses(lambda: refund(None), "MISSING_FACT")
        refuses(lambda: refund("A1", 501), "THRESHOLD_EXCEEDED")
        refuses(lambda: refund("A1", "500"), "THRESHOLD_EXCEEDED")


@dataclasses.dataclass
class Order:
    id: Any


class Row:
    """A database row: items by name, no mapping, no attributes."""

    def __init__(self, **columns: Any) -> None:
        self._columns = columns

    def __getitem__(self, name: str) -> Any:
        return self._columns[name]


@pytest.mark.parametrize(
    "result",
    [
        {"id": "A1"},
        Order("A1"),
        Row(id="A1"),
        [{"id": "A1"}],
        ({"id": "A1"}, Order("A2")),
        {("frozen",): 1, "id": "A1"},
        [Row(id="A1"), Row(other=1), None, 7, "text", {"id": None}, {"id": True}, {"id": [1]}],
    ],
)
def test_ids_are_found_in_results_of_many_shapes(result: Any) -> None:
    with session(fresh()):
        assert prove("order", "id")(lambda: result)() is result
        refund("A1")
        for nothing in (True, "True", [1], "count", "None"):
            refuses(lambda nothing=nothing: refund(nothing), "MISSING_FACT")


def test_an_iterator_is_read_and_still_has_all_its_items() -> None:
    def numbers() -> Iterator[Any]:
        n = 0
        while True:
            n += 1
            yield {"id": n}

    with session(fresh()):
        few = prove("order", "id")(lambda: iter([{"id": 1}, {"id": 2}]))()
        refund(2)
        assert list(few) == [{"id": 1}, {"id": 2}]
        endless = prove("order", "id", max_items=5, on_too_many="truncate")(lambda: numbers())()
        refund(5)
        refuses(lambda: refund(6), "MISSING_FACT")
        assert [next(endless)["id"] for _ in range(8)] == list(range(1, 9))


@pytest.mark.parametrize("extracted", [["A1", "B"], ("A1",), {"A1"}, "A1", iter(["A1"]), None])
def test_a_function_extracts_from_the_whole_result(extracted: Any) -> None:
    with session(fresh()):
        prove("order", extract=lambda result: extracted)(lambda: "anything")()
        if extracted is None:
            refuses(lambda: refund("A1"), "MISSING_FACT")
        else:
            refund("A1")


def test_too_many_results_prove_nothing_or_the_first(client: Client) -> None:
    many = [{"id": number} for number in range(4)]
    with session(fresh()), client.run(), published(client, GuardBlocked) as events:
        refuses(prove("order", "id", max_items=3)(lambda: many), "TOO_MANY_RESULTS")
        refuses(lambda: refund(0), "MISSING_FACT")
        assert prove("order", "id", max_items=3, on_too_many="truncate")(lambda: many)() == many
        refund(2)
        refuses(lambda: refund(3), "MISSING_FACT")
        prove("order", "id", max_items=4)(lambda: many)()
    assert [event.guard_name for event in events] == ["prove", "enforce", "enforce"]


@pytest.mark.parametrize("kind", KINDS[2:])
def test_a_generator_proves_each_item_as_it_hands_it_out(kind: str, on_loop: Runner) -> None:
    async def async_numbers() -> AsyncIterator[Any]:
        for number in range(1, 4):
            yield {"id": number}

    def numbers() -> Iterator[Any]:
        for number in range(1, 4):
            yield {"id": number}

    async def main() -> None:
        with session(fresh()):
            made: Any = prove("order", "id", max_items=2)(numbers if kind == "generator" else async_numbers)()
            for number in (1, 2):
                refuses(lambda number=number: refund(number), "MISSING_FACT")
                assert await first(made) == {"id": number}
                refund(number)
            with pytest.raises(GuardError, match="more than 2"):
                await first(made)

    on_loop(main)


def test_facts_expire_and_stay_for_a_later_session_of_the_same_name() -> None:
    name = fresh()
    with hand_clock() as now:
        with session(name, {"tenant": "acme"}):
            find("A1")
        now.advance(299)
        with session(name, {"tenant": "acme"}):
            refund("A1")
        now.advance(1)
        with session(name, {"tenant": "acme"}):
            refuses(lambda: refund("A1"), "MISSING_FACT")
        now.advance(5)
        before = len(shared)
        assert shared.sweep() <= before


@settings(max_examples=60, deadline=None)
@given(
    minted=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy"), st.integers(0, 3)), max_size=8),
    used=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy"), st.integers(0, 3)), max_size=8),
)
def test_facts_never_cross_sessions_or_scopes(
    minted: list[tuple[str, str, int]], used: list[tuple[str, str, int]]
) -> None:
    prefix = fresh()
    for name, tenant, number in minted:
        with session(prefix + name, {"tenant": tenant}):
            find(number)
    for name, tenant, number in used:
        with session(prefix + name, {"tenant": tenant}):
            if (name, tenant, number) in minted:
                refund(number)
            else:
                refuses(lambda number=number: refund(number), "MISSING_FACT")


def test_concurrent_sessions_do_not_see_each_other(on_loop: Runner) -> None:
    async def main() -> None:
        async def chat(number: int) -> None:
            async with session(fresh()) as mine:
                await anyio.sleep(0)
                assert active_session() is mine
                find(number)
                await anyio.sleep(0)
                refund(number)
                refuses(lambda: refund(number + 1), "MISSING_FACT")

        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(chat, number)
        assert active_session() is None

    on_loop(main)


# --- sessions -------------------------------------------------------------------------------------------------------


async def test_sessions_nest_and_give_back_what_was_before() -> None:
    outer, inner = session(fresh()), session(fresh(), {"a": "b"})
    async with outer as entered:
        assert entered is outer is active_session()
        with inner, outer, outer:
            assert active_session() is outer
        assert active_session() is outer
    assert active_session() is None
    assert (inner.id, dict(inner.scope)) == (inner.id, {"a": "b"})


@pytest.mark.parametrize(
    ("id", "scope", "field"),
    [
        ("", None, "id"),
        (7, None, "id"),
        ("x", {"a": 1}, "scope"),
        ("x", {1: "a"}, "scope"),
        ("x", ["a"], "scope"),
        ("x", "a", "scope"),
    ],
)
def test_wrong_sessions_are_refused(id: Any, scope: Any, field: str) -> None:
    with pytest.raises(SessionUsageError) as refused:
        session(id, scope)
    assert refused.value.field == field


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_session_nothing_runs(kind: str, on_loop: Runner, client: Client) -> None:
    ran: list[int] = []

    async def main() -> None:
        for guard in (prove("order", "id"), enforce([RequireCall("x")])):
            with client.run(), published(client, GuardBlocked) as events:
                with pytest.raises(GuardError) as refused:
                    await outcome(guard(of_kind(kind, lambda: ran.append(1)))())
                assert refused.value.code == "NO_SESSION"
                assert "not available" in refused.value.to_prompt()
            assert len(events) == 1
        assert not ran

    on_loop(main)


def test_trust_vouches_for_what_the_user_typed() -> None:
    with pytest.raises(GuardError) as refused:
        trust("order", "A1")
    assert refused.value.code == "NO_SESSION"
    with hand_clock() as now, session(fresh()):
        trust("order", "A1", ttl=10)
        refund("A1")
        now.advance(10)
        refuses(lambda: refund("A1"), "MISSING_FACT")
        for kind, value, ttl, field in (("", "x", 1, "kind"), ("order", None, 1, "value"), ("order", "x", 0, "ttl")):
            with pytest.raises(ActGuardUsageError) as wrong:
                trust(kind, value, ttl=ttl)
            assert wrong.value.field == field


# --- rules that take something --------------------------------------------------------------------------------------


class Shop:
    def __init__(self) -> None:
        self.fails = False

    def refund(self, order_id: str, amount: int = 1) -> str:
        if self.fails:
            raise ConnectionError
        return "done"


def test_a_single_use_fact_is_spent_by_the_first_call_that_succeeds() -> None:
    shop = Shop()
    once = enforce(RequireFact("order_id", kind="order", consume=True))(shop.refund)
    with session(fresh()):
        find("A1")
        shop.fails = True
        with pytest.raises(ConnectionError):
            once("A1")
        shop.fails = False
        assert once("A1") == "done"
        refuses(lambda: once("A1"), "MISSING_FACT")
        find("A1")
        assert once("A1") == "done"


def test_concurrent_calls_share_what_there_is(on_loop: Runner) -> None:
    async def main() -> None:
        go = anyio.Event()
        ends: list[str] = []

        @enforce([RequireFact("order_id", kind="order", consume=True), CumulativeLimit("amount", max=10)])
        async def pay(order_id: str, amount: int) -> None:
            await go.wait()

        async def call(order: str) -> None:
            try:
                await pay(order, 6)
                ends.append("paid")
            except GuardError as refused:
                ends.append(refused.code)

        with session(fresh()):
            find("A1", "A2")
            async with anyio.create_task_group() as group:
                group.start_soon(call, "A1")
                await anyio.wait_all_tasks_blocked()
                group.start_soon(call, "A1")  # the same fact
                group.start_soon(call, "A2")  # together more than 10
                await anyio.wait_all_tasks_blocked()
                go.set()
            assert sorted(ends) == ["CUMULATIVE_LIMIT_EXCEEDED", "MISSING_FACT", "paid"]
            go = anyio.Event()
            with anyio.move_on_after(0.01):
                await pay("A2", 4)  # cancelled: everything goes back
            go.set()
            await pay("A2", 4)

    on_loop(main)


def test_a_step_must_have_succeeded_in_this_session() -> None:
    shop = Shop()

    @tool
    def kyc_check(passes: bool) -> bool:
        if not passes:
            raise ConnectionError
        return True

    guarded = enforce(RequireCall("kyc_check", hint="Run the check."))(shop.refund)
    with session(fresh()):
        refuses(lambda: guarded("A1"), "MISSING_CALL")
        with pytest.raises(ConnectionError):
            kyc_check(False)
        refuses(lambda: guarded("A1"), "MISSING_CALL")
        kyc_check(True)
        assert guarded("A1") == "done"
        full = f"{kyc_check.__module__}:{kyc_check.__qualname__}"
        assert enforce(RequireCall(full))(shop.refund)("A1") == "done"
    with session(fresh()):
        refuses(lambda: guarded("A1"), "MISSING_CALL")


def test_a_replayed_result_proves_nothing_in_another_session(client: Client) -> None:
    @prove("order", "id")
    @idempotent
    def look(*, idempotency_key: str) -> dict[str, str]:
        return {"id": "A1"}

    with client.run():
        with session(fresh()):
            look(idempotency_key="k")
            refund("A1")
        with session(fresh()):
            look(idempotency_key="k")
            refuses(lambda: refund("A1"), "MISSING_FACT")


# --- rules of users, and what events show ---------------------------------------------------------------------------


class NoWeekends(Rule):
    def check(self, arguments: Mapping[str, Any], session: Any) -> None:
        if arguments["amount"] > 5:
            raise GuardError("WEEKEND", f"Not {arguments['amount']} on a weekend.", {"a": arguments}, "Wait.")
        if arguments["amount"] < 0:
            raise LookupError("broken rule")


@pytest.mark.parametrize("rules", [NoWeekends(), AllOf(NoWeekends()), AnyOf(NoWeekends(), NoWeekends())])
def test_what_a_users_rule_says_stays_out_of_the_event(rules: Rule, client: Client) -> None:
    guarded = enforce(rules)(Shop().refund)
    with session(fresh()), client.run(), published(client, GuardBlocked) as events:
        assert guarded("A1", 5) == "done"
        error = refuses(lambda: guarded("A1", 987_654_321), "WEEKEND")
        assert "987654321" in str(error)
        with pytest.raises(LookupError):  # a rule that is broken refuses, too
            guarded("A1", -1)
    (event,) = events
    assert event.error_message.startswith("WEEKEND: refused by")
    assert "987654321" not in repr(event)
    assert event.figures["code"] == "WEEKEND"


def test_what_our_rules_say_names_the_rule(client: Client) -> None:
    with session(fresh()), client.run(), published(client, GuardBlocked) as events:
        find("A1")
        refuses(lambda: refund("A1", 98_765), "THRESHOLD_EXCEEDED")
    (event,) = events
    assert event.figures == {
        "arg": "amount",
        "max": 500,
        "min": None,
        "rule": "Threshold",
        "code": "THRESHOLD_EXCEEDED",
    }
    assert "98765" not in repr(event)


@pytest.mark.parametrize(
    ("rules", "field"),
    [
        ([], "rules"),
        ("x", "rules"),
        ([RequireFact("nope", kind="order")], "arg"),
        (AllOf(Threshold("nope.deep", max=1)), "arg"),
    ],
)
def test_rules_that_do_not_fit_fail_when_decorating(rules: Any, field: str) -> None:
    with pytest.raises(ActGuardUsageError) as refused:
        enforce(rules)(Shop().refund)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"kind": ""}, "kind"),
        ({"extract": ""}, "extract"),
        ({"extract": 7}, "extract"),
        ({"ttl": 0}, "ttl"),
        ({"max_items": 0}, "max_items"),
        ({"on_too_many": "drop"}, "on_too_many"),
    ],
)
def test_wrong_settings_of_prove_are_named(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(ActGuardUsageError) as refused:
        prove(**{"kind": "order", "extract": "id", **settings})
    assert refused.value.field == field


@pytest.mark.parametrize("guard", [prove("order", "id"), enforce(RequireCall("x"))])
def test_they_need_a_tool(guard: Any) -> None:
    with pytest.raises(ActGuardUsageError, match="use it as a decorator"), guard:
        pass
