"""``on_full="wait"``: calls wait for the holds of others, in the order in which they came, and none is forgotten."""

from __future__ import annotations

import threading
from collections import Counter
from decimal import Decimal
from random import Random
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from conftest import Runner, until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actguard.client import Client
from actguard.exceptions import BudgetExceededError, GuardError
from actguard.guards.admission import Asked
from actguard.guards.bounding import Bound
from actguard.guards.budget import BudgetGuard
from actguard.guards.charging import Ticket
from actguard.money.own_prices import Price
from actguard.money.usage import Usage
from actguard.scope import step

WAITS: dict[str, Any] = {"on_full": "wait"}
HARD: dict[str, Any] = {"enforcement": "hard", **WAITS}
PRICES = {"*": Price(input_per_mtok=1, output_per_mtok=10)}


def a_call(tokens: int, **facts: Any) -> Asked:
    """A call that costs ``tokens`` input tokens, and can cost no more."""
    estimate = Usage(uncached_input_tokens=tokens)
    return Asked("test", "m", "test", estimate=estimate, output_limit=0, bound=Bound(tokens), **facts)


def waiting(budget: BudgetGuard) -> int:
    return sum(len(queue) for queue in budget.tree.queues.values())


def pay(ticket: Ticket) -> None:
    ticket.charge(ticket.estimate)


async def in_turn(budget: BudgetGuard, tokens: int) -> Ticket:
    with anyio.fail_after(20):
        return await budget.admit_in_turn(a_call(tokens))


def test_a_call_waits_until_there_is_room_for_it(client: Client, on_loop: Runner) -> None:
    async def main() -> None:
        async with client.run(), client.budget_guard(token_limit=100, **HARD) as budget:
            first = await in_turn(budget, 80)
            async with anyio.create_task_group() as group:

                async def second() -> None:
                    (await in_turn(budget, 30)).release()

                group.start_soon(second)
                while not waiting(budget):
                    await checkpoint()
                first.release()
            assert waiting(budget) == 0
            assert budget.account.held.tokens == 0

    on_loop(main)


def test_those_who_wait_are_admitted_in_the_order_in_which_they_came(client: Client, on_loop: Runner) -> None:
    async def main() -> None:
        order: list[int] = []
        async with client.run(), client.budget_guard(token_limit=100, **HARD) as budget:
            first = await in_turn(budget, 100)

            async def nth(number: int, tokens: int) -> None:
                ticket = await in_turn(budget, tokens)
                order.append(number)
                await checkpoint()
                ticket.release()

            async with anyio.create_task_group() as group:
                for number, tokens in enumerate([90, 10, 100, 5, 5, 60]):
                    group.start_soon(nth, number, tokens)
                    while waiting(budget) <= number:
                        await checkpoint()
                first.release()
        assert order == sorted(order) == list(range(6))

    on_loop(main)


def test_one_who_comes_later_does_not_overtake(client: Client, on_loop: Runner) -> None:
    async def main() -> None:
        async with client.run(), client.budget_guard(token_limit=100, **HARD) as budget:
            first = await in_turn(budget, 50)
            async with anyio.create_task_group() as group:
                done: list[str] = []

                async def call(name: str, tokens: int) -> None:
                    ticket = await in_turn(budget, tokens)
                    done.append(name)
                    ticket.release()

                group.start_soon(call, "large", 80)
                while waiting(budget) < 1:
                    await checkpoint()
                group.start_soon(call, "small", 10)  # there is room for it, but it is not its turn
                while waiting(budget) < 2:
                    await checkpoint()
                first.release()
            assert done == ["large", "small"]

    on_loop(main)


def test_one_who_gives_up_lets_the_next_have_its_turn(client: Client, on_loop: Runner) -> None:
    async def main() -> None:
        async with client.run(), client.budget_guard(token_limit=100, **HARD) as budget:
            first = await in_turn(budget, 50)
            scope = anyio.CancelScope()

            async def gives_up() -> None:
                with scope:
                    await in_turn(budget, 80)

            async with anyio.create_task_group() as group:
                group.start_soon(gives_up)
                while waiting(budget) < 1:
                    await checkpoint()

                async def next_one() -> None:
                    (await in_turn(budget, 50)).release()

                group.start_soon(next_one)
                while waiting(budget) < 2:
                    await checkpoint()
                scope.cancel()
            first.release()
            assert waiting(budget) == 0
            assert budget.account.held.tokens == 0

    on_loop(main)


def test_what_does_not_come_back_is_not_waited_for(client: Client, on_loop: Runner) -> None:
    async def main() -> None:
        async with client.run(), client.budget_guard(token_limit=100, on_crossing="return", **HARD) as budget:
            with pytest.raises(BudgetExceededError, match="50 tokens more"):
                await in_turn(budget, 150)
            with pytest.raises(GuardError, match="nothing is known"):
                await budget.admit_in_turn(Asked("test", "m", "test"))
            first = await in_turn(budget, 60)
            async with anyio.create_task_group() as group:

                async def refused() -> None:
                    with pytest.raises(BudgetExceededError):
                        await in_turn(budget, 60)

                for _ in range(3):
                    group.start_soon(refused)
                while waiting(budget) < 3:
                    await checkpoint()
                pay(first)  # what is used now never comes back
            assert waiting(budget) == 0

    on_loop(main)


def test_a_soft_scope_waits_for_holds_too(client: Client, on_loop: Runner) -> None:
    async def main() -> None:
        async with client.run(), client.budget_guard(token_limit=100, **WAITS) as budget:
            first = await in_turn(budget, 100)
            async with anyio.create_task_group() as group:

                async def second() -> None:
                    pay(await in_turn(budget, 50))

                group.start_soon(second)
                while not waiting(budget):
                    await checkpoint()
                first.release()
            assert budget.tokens_used == 50

    on_loop(main)


def test_room_in_a_scope_around_is_waited_for(client: Client, on_loop: Runner) -> None:
    async def main() -> None:
        async with client.run(), client.budget_guard(token_limit=100, enforcement="hard") as root:
            first = root.admit(a_call(80))
            async with client.budget_guard(token_limit=60, **HARD) as inner, anyio.create_task_group() as group:

                async def second() -> None:
                    pay(await in_turn(inner, 50))

                group.start_soon(second)
                while not waiting(inner):
                    await checkpoint()
                first.release()
            assert root.tokens_used == 50

    on_loop(main)


async def storm(random: Random, *scopes: BudgetGuard) -> Counter[str]:
    """Many calls at once in several scopes; some give up while they wait, some while they are under way."""
    ended: Counter[str] = Counter()
    running: list[anyio.CancelScope] = []

    async def call() -> None:
        ended["calls"] += 1
        with anyio.CancelScope() as scope:
            running.append(scope)
            try:
                ticket = await random.choice(scopes).admit_in_turn(a_call(random.randint(1, 400)))
            except BudgetExceededError:
                ended["refused"] += 1
                return
            try:
                for _ in range(random.randint(0, 3)):
                    await checkpoint()
                    check()
            except BaseException:
                ticket.charge_estimate()
                raise
            random.choice([pay, Ticket.release, Ticket.release])(ticket)
            ended["served"] += 1
        ended["cancelled"] += scope.cancelled_caught

    def check() -> None:
        for scope in scopes:
            account = scope.account
            assert account.tokens + account.held.tokens <= (account.limits.tokens or 10**9)
            assert account.totals.usd + account.held.usd <= (account.limits.usd or 10**9)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            for _ in range(random.randint(1, 25)):
                group.start_soon(call)
                if random.random() < 0.5:
                    await checkpoint()
                if running and random.random() < 0.3:
                    running.pop(random.randrange(len(running))).cancel()
    check()
    return ended


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_nobody_waits_for_ever_and_nothing_goes_over(seed: int, backend: str) -> None:
    random = Random(seed)

    async def main() -> None:
        with Client(prices=PRICES) as client:
            root = client.budget_guard(usd_limit="0.001", on_crossing="return", **HARD)
            inner = client.budget_guard(token_limit=700, on_crossing="return", **HARD)
            async with client.run(), root, inner:
                ended = await storm(random, root, inner)
            assert ended["calls"] == ended["refused"] + ended["served"] + ended["cancelled"]
            assert not root.tree.queues
            assert root.account.held.tokens == 0

    anyio.run(main, backend=backend)


def test_threads_wait_too(client: Client) -> None:
    """Thirty threads with room for one at a time: each gets its turn, and no wake-up is lost."""
    with client.run(), client.budget_guard(token_limit=10_000, on_crossing="return", **HARD) as budget:
        inside: list[int] = []
        most = 0

        def work() -> None:
            nonlocal most
            for _ in range(10):
                ticket = step(budget.admit_in_turn(a_call(6_000)))
                inside.append(1)
                most = max(most, len(inside))
                inside.pop()
                ticket.release()

        threads = [threading.Thread(target=work, daemon=True) for _ in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
        assert most == 1
        assert waiting(budget) == 0
        assert budget.account.held.usd == Decimal(0)


def test_a_thread_waits_for_a_task_on_another_loop(client: Client) -> None:
    with client.run(), client.budget_guard(token_limit=100, **HARD) as budget:
        first = budget.admit(a_call(100))
        got: list[Ticket] = []
        thread = threading.Thread(target=lambda: got.append(step(budget.admit_in_turn(a_call(40)))))
        thread.start()
        until(lambda: waiting(budget))
        first.release()
        thread.join(20)
        got[0].release()
        assert budget.account.held.tokens == 0


def test_nobody_waits_for_a_call_of_its_own(client: Client, on_loop: Runner) -> None:
    async def reads_a_stream_and_calls_again() -> None:
        async with client.run(), client.budget_guard(usd_limit="0.001", **WAITS) as budget:
            stream = await budget.admit_in_turn(a_call(1_000))
            with pytest.raises(BudgetExceededError, match="no room at the moment"):
                await budget.admit_in_turn(a_call(1))
            stream.release()
            (await budget.admit_in_turn(a_call(1))).release()

    on_loop(reads_a_stream_and_calls_again)


def test_those_whose_calls_wait_for_each_other_are_told_one_by_one(client: Client, on_loop: Runner) -> None:
    async def main() -> None:
        ended: list[str] = []
        root, inner = (client.budget_guard(token_limit=100, **HARD) for _ in range(2))
        async with client.run(), root, inner:

            async def reads_a_stream_and_calls_again(budget: BudgetGuard) -> None:
                stream = await in_turn(budget, 30)
                while len(root.tree.open_calls) < 3:
                    await checkpoint()
                try:
                    (await in_turn(budget, 60)).release()
                    ended.append("served")
                except BudgetExceededError:
                    ended.append("refused")
                stream.release()

            with anyio.fail_after(20):
                async with anyio.create_task_group() as group:
                    for budget in (root, root, inner):
                        group.start_soon(reads_a_stream_and_calls_again, budget)
        assert sorted(ended) == ["refused", "refused", "served"]
        assert root.account.held.tokens == 0

    on_loop(main)


def test_a_call_that_ended_without_a_word_of_its_cost_is_no_reason_to_wait(client: Client) -> None:
    with client.run(), client.budget_guard(token_limit=100, **HARD) as budget:
        lost = budget.admit(a_call(90)._replace(estimate=Usage(uncached_input_tokens=20)))
        with pytest.raises(BudgetExceededError, match="90 tokens held by calls under way") as refused:
            budget.admit(a_call(50))
        assert refused.value.retryable
        lost.charge_estimate()
        with pytest.raises(BudgetExceededError, match="20 of 100 tokens, and 70 tokens held for calls that") as refused:
            step(budget.admit_in_turn(a_call(50)))
        assert not refused.value.retryable
        assert "try again" not in refused.value.to_prompt()


def test_no_thread_waits_for_a_call_of_its_own(client: Client) -> None:
    with client.run(), client.budget_guard(usd_limit="0.001", **WAITS) as budget:
        stream = step(budget.admit_in_turn(a_call(1_000)))
        with pytest.raises(BudgetExceededError, match="no room at the moment"):
            step(budget.admit_in_turn(a_call(1)))
        stream.release()
