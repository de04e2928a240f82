"""Many tasks and threads charge one tree: nothing is lost and nothing counted twice, however each call ends."""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import NamedTuple

import pytest
from calls import admitted, used
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actguard import context
from actguard.client import Client
from actguard.context import carry
from actguard.events import LlmUsage
from actguard.guards.budget import BudgetGuard
from actguard.guards.charging import Ticket
from actguard.locks import when_safe

THREADS = 32
TASKS = 200
ENDS = ("exact", "estimated", "estimated, then exact", "twice", "released", "dropped", "stream", "outside cost")


class Plan(NamedTuple):
    """One call: in which scope, how it ends, and what it uses."""

    place: int
    end: str
    tokens: int

    @property
    def counts(self) -> int:
        """Calls charged for it."""
        return 0 if self.end in ("released", "outside cost") else 1

    @property
    def charged(self) -> int:
        """Input tokens charged for it; each costs a millionth of a dollar."""
        return 0 if self.end == "released" else self.tokens


plans = st.builds(Plan, st.integers(0, 4), st.sampled_from(ENDS), st.integers(1, 10**6))


class Dropped:
    """A stream that nobody reads any more: freed by the garbage collector only, in whichever thread that is."""

    def __init__(self, ticket: Ticket, tokens: int) -> None:
        self.myself = self
        self.settle: Callable[[], object] = lambda: ticket.charge(used(tokens))

    def __del__(self) -> None:
        when_safe(self.settle)


def carry_out(plan: Plan, budget: BudgetGuard) -> None:
    if plan.end == "outside cost":
        budget.add_cost("x", Decimal(plan.tokens).scaleb(-6))
        return
    ticket = admitted(budget, plan.tokens)
    if plan.end == "released":
        ticket.release()
    elif plan.end == "dropped":
        Dropped(ticket, plan.tokens)
    elif plan.end == "stream":
        for so_far in (1, plan.tokens // 2, plan.tokens * 2):
            ticket.check(used(so_far))
        ticket.charge(used(plan.tokens))
    else:
        if plan.end.startswith("estimated"):
            ticket.charge_estimate()
        if plan.end != "estimated":
            ticket.charge(used(plan.tokens))
        if plan.end == "twice":
            ticket.charge(used(plan.tokens))
            ticket.release()


@contextmanager
def tree(client: Client) -> Iterator[list[BudgetGuard]]:
    """A root with two scopes inside it, and two inside the first of those; all of them open."""
    root, left, leaf, right, low = (client.budget_guard(name=name) for name in ("root", "left", "leaf", "right", "low"))
    with client.run(), root, left, leaf:
        token = context.current_budget.set(root)
        with right, low:
            yield [root, left, leaf, right, low]
        context.current_budget.reset(token)


ABOVE = {0: (0,), 1: (1, 0), 2: (2, 1, 0), 3: (3, 0), 4: (4, 3, 0)}


def check(places: list[BudgetGuard], made: list[Plan], published: list[LlmUsage]) -> None:
    gc.collect()
    for number, budget in enumerate(places):
        below = [plan for plan in made if number in ABOVE[plan.place]]
        tokens = sum(plan.charged for plan in below if plan.end != "outside cost")
        assert budget.tokens_used == budget.local_tokens_used == tokens
        assert budget.usd_used_exact == Decimal(sum(plan.charged for plan in below)).scaleb(-6)
        assert budget.calls == sum(plan.counts for plan in below)
        rows = budget.breakdown()
        assert sum(row.usd for row in rows) == budget.usd_used_exact
        assert sum(row.calls for row in rows) == budget.calls
        estimated = sum(plan.tokens for plan in below if plan.end == "estimated")
        assert sum(row.usd for row in rows if row.estimated) == Decimal(estimated).scaleb(-6)
        for pending in (budget.account.held, budget.account.running):
            assert (pending.usd, pending.tokens, pending.cost) == (0, 0, 0)
    assert places[0].tree.open_calls == set()
    assert sum(event.input_tokens for event in published) == places[0].tokens_used
    assert len(published) == places[0].calls


def run_in_threads(shares: list[list[Plan]], places: list[BudgetGuard], meanwhile: Callable[[], object]) -> None:
    start = threading.Barrier(len(shares))

    def work(share: list[Plan]) -> None:
        start.wait()
        for plan in share:
            carry_out(plan, places[plan.place])
            meanwhile()

    threads = [threading.Thread(target=carry(work), args=(share,)) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


def run_in_tasks(shares: list[list[Plan]], places: list[BudgetGuard]) -> None:
    async def work(share: list[Plan]) -> None:
        for plan in share:
            await asyncio.sleep(0)
            carry_out(plan, places[plan.place])

    async def main() -> None:
        await asyncio.gather(*map(work, shares))

    asyncio.run(main())


def dealt(plans: list[Plan], hands: int) -> list[list[Plan]]:
    """The same plans for everybody, each in an order of its own."""
    return [random.Random(hand).sample(plans, len(plans)) for hand in range(hands)]


@pytest.fixture(autouse=True)
def threads_take_turns_all_the_time() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


careful = settings(
    deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@careful
@given(st.lists(plans, min_size=1, max_size=6))
def test_32_threads_lose_nothing_and_double_nothing(client: Client, plans: list[Plan]) -> None:
    shares = dealt(plans, THREADS)
    with client.bus.subscribe(LlmUsage) as events, tree(client) as places:
        run_in_threads(shares, places, lambda: None)
        gc.collect()
        check(places, plans * THREADS, events.pending())


@careful
@given(st.lists(plans, min_size=1, max_size=4))
def test_200_tasks_lose_nothing_and_double_nothing(client: Client, plans: list[Plan]) -> None:
    shares = dealt(plans, TASKS)
    with client.bus.subscribe(LlmUsage) as events, tree(client) as places:
        run_in_tasks(shares, places)
        gc.collect()
        check(places, plans * TASKS, events.pending())


def test_tasks_and_threads_together_while_the_garbage_collector_storms(client: Client) -> None:
    """Dropped streams are settled by finalizers, in threads that are in the middle of something."""
    plans = [Plan(place, end, 7 + place) for place in range(5) for end in ("dropped", "exact", "stream", "dropped")]
    before = gc.get_threshold()
    gc.set_threshold(3, 2, 2)
    try:
        with client.bus.subscribe(LlmUsage) as events, tree(client) as places:
            stop = threading.Event()

            def read() -> None:
                while not stop.is_set():
                    for budget in places:
                        budget.breakdown()
                        repr(budget)

            tasks = threading.Thread(target=carry(run_in_tasks), args=(dealt(plans, 20), places))
            reader = threading.Thread(target=read)
            reader.start()
            tasks.start()
            run_in_threads(dealt(plans, 16), places, lambda: gc.collect(0))
            tasks.join(60)
            stop.set()
            reader.join(60)
            gc.collect()
            check(places, plans * 36, events.pending())
    finally:
        gc.set_threshold(*before)


def test_scopes_that_come_and_go_in_many_threads(client: Client) -> None:
    """Each thread opens scopes of its own in one tree, and leaves calls open that others finish."""
    left_open: list[tuple[Ticket, int]] = []

    def work(number: int) -> None:
        for round_ in range(20):
            with client.budget_guard(name=f"{number}") as budget:
                carry_out(Plan(0, "exact", 3), budget)
                left_open.append((admitted(budget, 5), 5 + round_))

    with client.run(), client.budget_guard(name="root") as root:
        threads = [threading.Thread(target=carry(work), args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert root.tokens_used == 16 * 20 * 8
        finishers = [threading.Thread(target=finish, args=(left_open[part::4],)) for part in range(4)]
        for thread in finishers:
            thread.start()
        for thread in finishers:
            thread.join(60)
        exact = 16 * sum(3 + 5 + round_ for round_ in range(20))
        assert (root.tokens_used, root.calls, root.estimated_usd) == (exact, 640, 0.0)
        assert root.account.held.tokens == 0


def finish(tickets: list[tuple[Ticket, int]]) -> None:
    for ticket, tokens in tickets:
        ticket.charge(used(tokens))


@pytest.mark.parametrize("limit", [50_000, 123_456])
def test_concurrent_calls_overshoot_by_less_than_one_call(limit: int, client: Client) -> None:
    with client.run(), client.budget_guard(token_limit=limit) as root:

        def work() -> None:
            while True:
                try:
                    ticket = admitted(root, 1000)
                except Exception:
                    return
                ticket.charge(used(1000))

        threads = [threading.Thread(target=work) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert limit - 1000 * THREADS <= root.tokens_used < limit + 1000
