"""Roots: reserved once, joined by parallel paths, settled once by the last of them."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import anyio
import anyio.to_thread
import pytest
from calls import CENT, admitted, charged, crossing, used
from conftest import Runner, until
from settling import Books

import actguard
from actguard import context
from actguard.client import Client
from actguard.events import CallEntry, ReserveRequested, SettleRequested
from actguard.exceptions import (
    ActGuardMonitoringWarning,
    ActGuardPaymentRequired,
    BudgetConfigurationError,
    BudgetExceededError,
    NestedBudgetGuardError,
)
from actguard.guards.budget import BudgetGuard


@contextmanager
def beside(run: Any) -> Any:
    """A path of ``run`` on which no budget scope is active, as a task has that was started before the root."""
    budget = context.current_budget.set(None)
    active = context.current_run.set(run)
    try:
        yield
    finally:
        context.current_run.reset(active)
        context.current_budget.reset(budget)


# --- joining --------------------------------------------------------------------------------------------------------


def test_a_path_beside_the_root_joins_it(client: Client) -> None:
    with client.run() as run, client.budget_guard(usd_limit="0.1", name="all", user_id="u", plan_key="p") as root:
        charged(root, CENT)
        with beside(run), client.budget_guard() as path:
            assert (path.scope_id, path.name, path.user_id, path.plan_key) == (root.scope_id, "all", "u", "p")
            assert path.identity() == root.identity()
            charged(path, 2 * CENT)
            with client.budget_guard(name="below") as below:
                assert below.identity()["parent_scope_id"] == root.scope_id
                charged(below, 3 * CENT)
            assert (path.usd_limit, path.usd_remaining) == (0.1, 0.04)
    for each in (root, path):
        assert (each.usd_used, each.root_usd_used, each.calls) == (0.06, 0.06, 3)
    assert (root.local_usd_used, path.local_usd_used, below.local_usd_used) == (0.06, 0.05, 0.03)
    assert {row.scope_name for row in root.breakdown()} == {"all", "below"}


def test_a_limit_of_the_root_stops_every_path(client: Client) -> None:
    with client.run() as run, client.budget_guard(usd_limit="0.02", name="all") as root:
        with beside(run), client.budget_guard(usd_limit="0.02") as path:
            charged(path, CENT)
            error = crossing(path, CENT)
            assert error is not None
            assert (error.scope_id, error.scope_kind) == (root.scope_id, "root")
        with pytest.raises(BudgetExceededError):
            admitted(root)


SETTINGS: dict[str, Any] = {
    "usd_limit": 1,
    "token_limit": 1000,
    "cost_limit": 100,
    "user_id": "alice",
    "plan_key": "pro",
    "name": "all",
    "on_crossing": "return",
    "enforcement": "hard",
    "min_output_tokens": 5,
    "allow_unbounded": True,
    "on_full": "wait",
}
OTHERS: dict[str, Any] = {
    "usd_limit": 2,
    "token_limit": 2000,
    "cost_limit": 200,
    "user_id": "bob",
    "plan_key": "free",
    "name": "other",
}


@pytest.mark.parametrize("field", list(SETTINGS))
def test_a_path_may_repeat_a_setting_or_leave_it_out(field: str, client: Client) -> None:
    with client.run() as run, client.budget_guard(**SETTINGS) as root, beside(run):
        with client.budget_guard(**{field: SETTINGS[field]}) as path:
            assert path.scope_id == root.scope_id
        with client.budget_guard() as path:
            assert path.scope_id == root.scope_id
            assert (path.on_crossing, path.enforcement, path.waits) == ("return", "hard", True)
    assert root.tree.paths == 0


@pytest.mark.parametrize("field", list(OTHERS))
def test_a_path_may_not_change_a_setting(field: str, client: Client) -> None:
    with client.run() as run, client.budget_guard(**SETTINGS) as root:
        with beside(run):
            with pytest.raises(BudgetConfigurationError) as caught, client.budget_guard(**{field: OTHERS[field]}):
                pass
            assert caught.value.field == field
            assert context.active_budget() is None
        assert root.tree.paths == 1


@pytest.mark.parametrize("field", ["on_crossing", "enforcement", "min_output_tokens", "allow_unbounded", "on_full"])
def test_a_path_may_not_change_how_a_limit_is_kept(field: str, client: Client) -> None:
    with client.run() as run, client.budget_guard(usd_limit=1), beside(run):
        with pytest.raises(BudgetConfigurationError) as caught, client.budget_guard(**{field: SETTINGS[field]}):
            pass
        assert caught.value.field == field


def test_equal_amounts_are_equal_however_they_are_written(client: Client) -> None:
    with client.run() as run, client.budget_guard(usd_limit="0.10"), beside(run):
        for usd in (0.1, "0.1", Decimal("0.100")):
            with client.budget_guard(usd_limit=usd):
                pass


def test_a_refused_path_can_be_entered_elsewhere(client: Client) -> None:
    guard = client.budget_guard(usd_limit=2)
    with client.run() as run, client.budget_guard(usd_limit=1) as root:
        with beside(run), pytest.raises(BudgetConfigurationError), guard:
            pass
        with guard:
            charged(guard, CENT)
            assert guard.identity()["parent_scope_id"] == root.scope_id
            assert guard.usd_limit == 2
        assert (guard.local_usd_used, root.usd_used, root.tree.paths) == (0.01, 0.01, 1)


# --- settling -------------------------------------------------------------------------------------------------------


def test_the_root_is_reserved_and_settled_once(client: Client, on_loop: Runner) -> None:
    books = Books(client)

    async def main() -> None:
        root = client.budget_guard(usd_limit="0.5", cost_limit=900, plan_key="pro", name="all")
        async with client.run(user_id="alice") as run, root:
            charged(root, CENT, 7, cache_read_tokens=3)
            async with client.budget_guard(name="part") as part:
                charged(part, 2 * CENT)
                actguard.add_cost("maps", "0.0015")
            with beside(run):
                async with client.budget_guard() as path:
                    charged(path, 5)
        reserve, settle = books.requests[-2:]
        assert isinstance(reserve, ReserveRequested)
        assert isinstance(settle, SettleRequested)
        for request in (reserve, settle):
            assert (request.run_id, request.user_id, request.scope_id) == (run.run_id, "alice", root.scope_id)
        assert (reserve.usd_limit, reserve.cost_limit, reserve.plan_key) == (Decimal("0.5"), 900, "pro")
        assert settle.entries == (
            CallEntry(
                provider="test",
                model="m",
                input_tokens=10_003,
                cached_input_tokens=3,
                output_tokens=7,
                scope_name="all",
            ),
            CallEntry(provider="test", model="m", input_tokens=20_000, scope_name="part"),
            CallEntry(model="maps", cost_cu=2, scope_name="part"),
            CallEntry(provider="test", model="m", input_tokens=5, scope_name="all"),
        )

    on_loop(main)
    assert books.open == set()
    assert set(books.settled.values()) == {1}


def test_the_last_path_settles_whichever_it_is(client: Client) -> None:
    books = Books(client)
    with client.run() as run:
        root = client.budget_guard(user_id="alice")
        root.__enter__()
        with beside(run):
            path = client.budget_guard()
            path.__enter__()
            root.__exit__(None, None, None)
            assert len(books.open) == 1
            charged(path, CENT)
            with client.budget_guard(name="below") as below:
                charged(below, CENT)
            path.__exit__(None, None, None)
        assert books.open == set()
        settle = books.requests[-1]
        assert isinstance(settle, SettleRequested)
        assert (settle.user_id, settle.scope_id, len(settle.entries)) == ("alice", root.scope_id, 2)
        with client.budget_guard() as second:
            assert second.scope_id != root.scope_id
    assert books.settled.total() == 2


def test_a_limit_of_the_gateway_applies_where_the_user_set_none(client: Client) -> None:
    Books(client, usd_limit=Decimal("0.02"), cost_limit=70)
    with client.run() as run:
        with client.budget_guard() as root:
            assert (root.usd_limit, root.cost_limit) == (0.02, 70)
            assert crossing(root, 2 * CENT) is not None
        with client.budget_guard(usd_limit=1, cost_limit=60) as root:
            assert (root.usd_limit, root.cost_limit) == (1.0, 60)
            with beside(run), client.budget_guard(usd_limit=1) as path:
                assert (path.usd_limit, path.cost_limit) == (1.0, 60)


def test_open_calls_are_settled_as_estimated(client: Client) -> None:
    books = Books(client)
    with client.run():
        with client.budget_guard() as root:
            admitted(root, 100, output=5)
            admitted(root, 7).release()
            left = admitted(root, 70)
            with client.budget_guard() as nested:
                released = admitted(nested, 9)
            released.release()
        [entries] = books.entries.values()
        assert sorted((entry.input_tokens, entry.output_tokens) for entry in entries) == [(70, 0), (100, 5)]
        assert left.charge(used(71)) is None
        assert root.tokens_used == 176


def test_a_body_that_raises_keeps_its_exception_and_is_settled(client: Client, on_loop: Runner) -> None:
    books = Books(client)

    async def main(refusal: BaseException | None) -> None:
        books.refuse_settle = refusal
        async with client.run(), client.budget_guard() as root:
            charged(root, CENT)
            raise LookupError("body")

    for refusal in (None, ActGuardPaymentRequired(path="/s"), BudgetExceededError(origin="remote"), ValueError("bug")):
        expected = pytest.raises(LookupError, match="body")
        with expected, pytest.warns(ActGuardMonitoringWarning) if refusal else nothing():
            on_loop(lambda refusal=refusal: main(refusal))
        client.bus._reported.clear()
    assert books.open == set()


@contextmanager
def nothing() -> Any:
    yield


@pytest.mark.parametrize("refusal", [ActGuardPaymentRequired(path="/s"), BudgetExceededError(origin="remote")])
def test_a_settlement_that_is_refused_is_raised_by_the_exit(refusal: Exception, client: Client) -> None:
    books = Books(client)
    books.refuse_settle = refusal
    with pytest.raises(type(refusal)), client.run(), client.budget_guard():
        pass
    assert context.active_budget() is None
    assert context.active_run() is None


def test_a_bug_in_the_answerer_of_settlements_is_a_warning(client: Client) -> None:
    books = Books(client)
    books.refuse_settle = ValueError("bug")
    with pytest.warns(ActGuardMonitoringWarning, match="settle"), client.run(), client.budget_guard():
        pass


@pytest.mark.parametrize("refusal", [ActGuardPaymentRequired(path="/r"), BudgetExceededError(origin="remote")])
def test_a_reservation_that_is_refused_opens_nothing(refusal: Exception, client: Client, on_loop: Runner) -> None:
    books = Books(client)
    guard = client.budget_guard(usd_limit=1, name="mine")

    async def main() -> None:
        async with client.run() as run:
            books.refuse_reserve = refusal
            with pytest.raises(type(refusal)):
                async with guard:
                    pass
            assert (context.active_budget(), run.tree) == (None, None)
            books.refuse_reserve = None
            async with client.budget_guard(usd_limit=5) as root, guard:
                charged(guard, CENT)
                assert guard.identity()["parent_scope_id"] == root.scope_id
            assert (guard.usd_used, root.usd_used, guard.usd_limit) == (0.01, 0.01, 1.0)

    on_loop(main)
    assert books.open == set()
    assert books.settled.total() == 1


def test_nobody_is_asked_where_nobody_answers(client: Client) -> None:
    with client.run(), client.budget_guard(usd_limit=1) as root:
        charged(root, CENT)
        assert root.tree.entries is None
    assert not client.stats()["hub_running"]


# --- opening while others come --------------------------------------------------------------------------------------


def test_paths_that_come_while_the_root_is_being_reserved_wait_for_it(client: Client, on_loop: Runner) -> None:
    books = Books(client, waits=True)

    async def main() -> None:
        inside: list[BudgetGuard] = []

        async def path() -> None:
            async with client.budget_guard(usd_limit=1) as budget:
                inside.append(budget)
                charged(budget, CENT)
                await release.wait()

        release = anyio.Event()
        async with client.run(), anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(path)
            await anyio.to_thread.run_sync(books.asked.wait, 10)
            await anyio.wait_all_tasks_blocked()
            assert inside == []
            books.answer_freely()
            while len(inside) < 10:
                await anyio.wait_all_tasks_blocked()
            assert len({budget.scope_id for budget in inside}) == 1
            release.set()
        assert {budget.usd_used for budget in inside} == {0.1}

    on_loop(main)
    assert (len(books.reserved), books.settled.total(), books.open) == (1, 1, set())


def test_threads_that_come_while_the_root_is_being_reserved_wait_for_it(client: Client) -> None:
    books = Books(client, waits=True)
    inside: list[BudgetGuard] = []
    run = client.run()

    def path() -> None:
        with client.budget_guard(usd_limit=1) as budget:
            inside.append(budget)
            charged(budget, CENT)

    with run:
        threads = [threading.Thread(target=contextvars.copy_context().run, args=(path,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        books.asked.wait(10)
        until(lambda: run.tree is not None and run.tree.paths == 8)
        assert inside == []
        books.answer_freely()
        for thread in threads:
            thread.join()
    assert len(inside) == 8
    assert sum(len(entries) for entries in books.entries.values()) == 8
    assert len(books.reserved) == books.settled.total()
    assert books.open == set()


def test_when_the_one_who_opens_is_cancelled_another_path_opens(client: Client, on_loop: Runner) -> None:
    books = Books(client, waits=True)

    async def main() -> None:
        guards = [client.budget_guard(name="all", usd_limit=5), client.budget_guard(), client.budget_guard(name="all")]
        done: list[BudgetGuard] = []
        doomed, cancelled = anyio.CancelScope(), guards[0].scope_id

        async def path(guard: BudgetGuard, scope: anyio.CancelScope) -> None:
            with scope:
                async with guard:
                    charged(guard, CENT)
                    done.append(guard)
                    while len(done) < 2:
                        await anyio.lowlevel.checkpoint()

        async with client.run() as run, anyio.create_task_group() as tasks:
            tasks.start_soon(path, guards[0], doomed)
            await anyio.to_thread.run_sync(books.asked.wait, 10)
            opener = run.tree
            for guard in guards[1:]:
                tasks.start_soon(path, guard, anyio.CancelScope())
            await anyio.wait_all_tasks_blocked()
            assert opener is not None
            doomed.cancel()
            while run.tree is opener:
                await anyio.wait_all_tasks_blocked()
            books.answer_freely()
        assert len(done) == 2
        assert guards[0] not in done
        assert {guard.usd_used for guard in done} == {0.02}
        assert {(guard.name, guard.usd_limit) for guard in done} == {("all", 5.0)}
        [scope_id] = {guard.scope_id for guard in done}
        assert scope_id != cancelled
        assert [request.scope_id for request in books.requests] == [cancelled, scope_id, scope_id]

    on_loop(main)
    until(lambda: books.settled.total() == 2)
    assert books.open == set()
    assert sorted(map(len, books.entries.values())) == [0, 2]


def test_when_the_one_who_opens_is_refused_the_others_are_refused(client: Client, on_loop: Runner) -> None:
    books = Books(client, waits=True)
    books.refuse_reserve = ActGuardPaymentRequired(path="/r")
    refused: list[BaseException] = []

    async def main() -> None:
        async def path() -> None:
            try:
                async with client.budget_guard(usd_limit=1):
                    raise AssertionError("entered")
            except ActGuardPaymentRequired as error:
                refused.append(error)
                assert context.active_budget() is None

        async with client.run() as run:
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(path)
                await anyio.to_thread.run_sync(books.asked.wait, 10)
                await anyio.wait_all_tasks_blocked()
                books.answer_freely()
            assert run.tree is None
            assert len(refused) == 5
            books.refuse_reserve = None
            async with client.budget_guard(usd_limit=1) as root:
                charged(root, CENT)

    on_loop(main)
    assert (books.settled.total(), books.open) == (1, set())


def test_a_path_that_is_cancelled_while_it_waits_leaves_no_trace(client: Client, on_loop: Runner) -> None:
    books = Books(client, waits=True)

    async def main() -> None:
        async def path(scope: anyio.CancelScope) -> None:
            with scope:
                async with client.budget_guard(usd_limit=1) as budget:
                    charged(budget, CENT)

        scopes = [anyio.CancelScope() for _ in range(3)]
        async with client.run() as run, anyio.create_task_group() as tasks:
            tasks.start_soon(path, scopes[0])
            await anyio.to_thread.run_sync(books.asked.wait, 10)
            for scope in scopes[1:]:
                tasks.start_soon(path, scope)
            await anyio.wait_all_tasks_blocked()
            scopes[1].cancel()
            await anyio.wait_all_tasks_blocked()
            assert run.tree is not None
            assert run.tree.paths == 2
            books.answer_freely()

    on_loop(main)
    assert (len(books.reserved), books.open) == (1, set())
    assert sum(map(len, books.entries.values())) == 2


def test_a_gateway_that_does_not_answer_in_time_degrades_open(on_loop: Runner) -> None:
    client = Client(budget_timeout_s=0.05, event_timeout_s=0.05)
    books = Books(client, waits=True)

    async def main() -> None:
        async with client.run(), client.budget_guard(usd_limit=1):
            actguard.add_cost("maps", "0.1")

    with pytest.warns(ActGuardMonitoringWarning) as caught:
        on_loop(main)
    operations = [warning.message.error.operation for warning in caught]  # type: ignore[union-attr]
    assert operations == ["reserve", "settle"]
    books.finish()
    assert (len(books.reserved), books.open) == (1, set())
    client.close()


def test_closing_the_client_inside_a_scope_is_a_warning(on_loop: Runner) -> None:
    async def main() -> None:
        client = Client()
        Books(client)
        async with client.run(), client.budget_guard(usd_limit=1):
            await client.aclose()

    with pytest.warns(ActGuardMonitoringWarning, match="not settled"):
        on_loop(main)


# --- stragglers -----------------------------------------------------------------------------------------------------


def test_a_task_that_outlives_its_scope_still_charges_it(client: Client) -> None:
    async def main() -> None:
        over = asyncio.Event()

        async def straggler() -> BudgetGuard:
            await over.wait()
            budget = context.active_budget()
            charged(budget, CENT)
            with pytest.raises(BudgetExceededError):
                charged(budget, 9 * CENT)
            return budget

        async with client.run():
            async with client.budget_guard(usd_limit="0.1") as root, client.budget_guard() as nested:
                task = asyncio.create_task(straggler())
                await asyncio.sleep(0)
            over.set()
            assert await task is nested
        assert (nested.usd_used, root.usd_used) == (0.1, 0.1)

    asyncio.run(main())


def test_a_task_that_outlives_its_scope_opens_a_new_one_where_the_run_is_now(client: Client) -> None:
    async def main() -> None:
        over = asyncio.Event()

        async def straggler() -> None:
            await over.wait()
            async with client.budget_guard(name="new") as budget:
                charged(budget, CENT)
                assert budget.identity()["scope_kind"] == "root"

        async with client.run():
            async with client.budget_guard(name="old") as old:
                task = asyncio.create_task(straggler())
                await asyncio.sleep(0)
            over.set()
            await task
        assert old.usd_used == 0

    asyncio.run(main())


def test_what_is_spent_below_a_settled_root_is_counted_and_said_not_to_be_settled(client: Client) -> None:
    books = Books(client)

    async def main() -> None:
        inside, over = asyncio.Event(), asyncio.Event()

        async def straggler() -> BudgetGuard:
            async with client.budget_guard(name="nested") as nested:
                charged(nested, CENT)
                inside.set()
                await over.wait()
                charged(nested, CENT)
                actguard.add_cost("maps", "0.01")
                return nested

        async with client.run():
            async with client.budget_guard(usd_limit=1) as root:
                task = asyncio.create_task(straggler())
                await inside.wait()
            over.set()
            nested = await task
        assert (nested.usd_used, root.usd_used) == (0.03, 0.03)

    with pytest.warns(ActGuardMonitoringWarning, match="had been left and settled") as warned:
        asyncio.run(main())
    assert len(warned) == 1
    assert list(books.settled.values()) == [1]
    [entries] = books.entries.values()
    assert len(entries) == 1


def test_what_is_spent_below_a_root_that_was_left_is_no_matter_without_a_gateway(client: Client) -> None:
    with client.run(), client.budget_guard(usd_limit=1) as root:
        nested = client.budget_guard(name="nested").__enter__()
        root.__exit__(None, None, None)
        charged(nested, CENT)
        nested.__exit__(None, None, None)
    assert root.usd_used == 0.01


def test_adopted_threads_charge_and_join_the_root(client: Client) -> None:
    def work() -> None:
        charged(context.active_budget(), CENT)
        with client.budget_guard(usd_limit=1) as path:
            charged(path, CENT)

    with client.run(adopt_threads=True), client.budget_guard(usd_limit=1) as root:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (root.usd_used, root.calls, root.tree.paths) == (0.16, 16, 0)


def test_one_object_entered_by_two_threads_is_one_scope(client: Client) -> None:
    for _ in range(30):
        with client.run(), client.budget_guard():
            guard, outcomes, start = client.budget_guard(), [], threading.Barrier(4)

            def work(guard: Any = guard, outcomes: Any = outcomes, start: Any = start) -> None:
                start.wait()
                try:
                    guard.__enter__()
                except NestedBudgetGuardError:
                    outcomes.append("refused")
                else:
                    outcomes.append("entered")

            threads = [threading.Thread(target=contextvars.copy_context().run, args=(work,)) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(outcomes) == ["entered", "refused", "refused", "refused"]
            guard.__exit__(None, None, None)
