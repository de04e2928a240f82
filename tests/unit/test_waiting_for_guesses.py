"""A soft scope refuses nobody for a guess of what another call costs: calls wait until the guess is a figure."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from conftest import Runner, until

from actguard.client import Client
from actguard.exceptions import BudgetExceededError
from actguard.guards import admission
from actguard.guards.admission import Asked
from actguard.guards.budget import BudgetGuard
from actguard.guards.charging import Ticket
from actguard.money.usage import Usage
from actguard.scope import step

LIMIT: dict[str, Any] = {"token_limit": 4_000}
"""Less than an answer is expected to have."""
SHORT = Usage(output_tokens=10)
UNKNOWN = Asked("test", "m", "test")
LIMITED = Asked("test", "m", "test", output_limit=5_000)


def waiting(budget: BudgetGuard) -> int:
    return sum(len(queue) for queue in budget.tree.queues.values())


async def admitted(budget: BudgetGuard, asked: Asked = UNKNOWN) -> Ticket:
    with anyio.fail_after(20):
        return budget.admit_at_once(asked) or await budget.admit_in_turn(asked)


def test_those_behind_a_guess_wait_for_it_and_are_served(client: Client, on_loop: Runner) -> None:
    async def main() -> None:
        served = 0

        async def call(budget: BudgetGuard) -> None:
            nonlocal served
            ticket = await admitted(budget)
            await checkpoint()
            ticket.charge(SHORT)
            served += 1

        async with client.run(), client.budget_guard(**LIMIT) as budget:
            async with anyio.create_task_group() as group:
                for _ in range(50):
                    group.start_soon(call, budget)
            assert (served, budget.tokens_used, waiting(budget)) == (50, 500, 0)

    on_loop(main)


def test_they_are_refused_once_the_limit_is_reached(client: Client) -> None:
    refused: list[BudgetExceededError] = []
    with client.run(), client.budget_guard(**LIMIT, on_crossing="return") as budget:
        first = budget.admit_at_once(UNKNOWN)
        assert first is not None

        def call() -> None:
            assert budget.admit_at_once(UNKNOWN) is None
            with pytest.raises(BudgetExceededError, match="4000 of 4000 tokens") as error:
                step(budget.admit_in_turn(UNKNOWN))
            refused.append(error.value)

        threads = [threading.Thread(target=call) for _ in range(8)]
        for thread in threads:
            thread.start()
        until(lambda: waiting(budget) == 8)
        first.charge(Usage(output_tokens=4_000))
        for thread in threads:
            thread.join(20)
        assert [error.retryable for error in refused] == [False] * 8
        assert waiting(budget) == 0


def test_the_limit_of_a_request_is_no_guess(client: Client, on_loop: Runner) -> None:
    async def main() -> None:
        async with client.run(), client.budget_guard(**LIMIT) as budget, anyio.create_task_group() as group:
            tickets: list[Ticket] = []

            async def call() -> None:
                tickets.append(await admitted(budget, LIMITED))

            group.start_soon(call)
            while not tickets:
                await checkpoint()
            with pytest.raises(BudgetExceededError, match="no room at the moment"):
                await admitted(budget)
            tickets[0].release()

    on_loop(main)


def test_nobody_waits_for_a_stream_of_its_own(client: Client, on_loop: Runner) -> None:
    async def reads_a_stream_and_calls() -> None:
        async with client.run(), client.budget_guard(**LIMIT) as budget:
            stream = await admitted(budget)
            with pytest.raises(BudgetExceededError, match="no room at the moment"):
                await admitted(budget)
            stream.release()

    on_loop(reads_a_stream_and_calls)
    with client.run(), client.budget_guard(**LIMIT) as budget:
        stream = budget.admit_at_once(UNKNOWN)
        assert stream is not None
        assert budget.admit_at_once(UNKNOWN) is None
        with pytest.raises(BudgetExceededError, match="no room at the moment"):
            step(budget.admit_in_turn(UNKNOWN))
        stream.release()


def test_streams_that_wait_for_each_other_end_that(client: Client, on_loop: Runner) -> None:
    async def main() -> None:
        ended: list[str] = []

        async def reads_a_stream_and_calls(budget: BudgetGuard) -> None:
            stream = await admitted(budget)
            while len(budget.tree.open_calls) < 2:
                await checkpoint()
            try:
                (await admitted(budget)).release()
                ended.append("served")
            except BudgetExceededError:
                ended.append("refused")
            stream.release()

        async with client.run(), client.budget_guard(token_limit=8_000) as budget:
            async with anyio.create_task_group() as group:
                group.start_soon(reads_a_stream_and_calls, budget)
                group.start_soon(reads_a_stream_and_calls, budget)
            assert sorted(ended) == ["refused", "served"]

    on_loop(main)


def test_a_plain_call_never_blocks_the_event_loop_that_others_need(client: Client, on_loop: Runner) -> None:
    async def main() -> None:
        async with client.run(), client.budget_guard(**LIMIT) as budget, anyio.create_task_group() as group:
            begun, refused = anyio.Event(), anyio.Event()

            async def other() -> None:
                ticket = await admitted(budget)
                begun.set()
                await refused.wait()
                ticket.charge(SHORT)

            group.start_soon(other)
            await begun.wait()
            assert budget.admit_at_once(UNKNOWN) is None
            with pytest.raises(BudgetExceededError, match="no room at the moment"):
                step(budget.admit_in_turn(UNKNOWN))
            refused.set()

    on_loop(main)


def test_a_guess_is_not_waited_for_for_ever(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "LONGEST_WAIT_FOR_A_GUESS_S", 0.01)
    with client.run(), client.budget_guard(**LIMIT) as budget:
        hangs = budget.admit_at_once(UNKNOWN)
        assert hangs is not None
        refused: list[BudgetExceededError] = []

        def call() -> None:
            with pytest.raises(BudgetExceededError, match="no room at the moment") as error:
                step(budget.admit_in_turn(UNKNOWN))
            refused.append(error.value)

        threads = [threading.Thread(target=call) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert [error.retryable for error in refused] == [True] * 3
        assert waiting(budget) == 0
        hangs.release()


def test_who_is_cancelled_leaves_the_queue(client: Client, on_loop: Runner) -> None:
    async def main() -> None:
        async with client.run(), client.budget_guard(**LIMIT) as budget, anyio.create_task_group() as group:
            tickets: list[Ticket] = []

            async def first() -> None:
                tickets.append(await admitted(budget))

            group.start_soon(first)
            while not tickets:
                await checkpoint()
            with anyio.CancelScope() as scope:

                async def cancels() -> None:
                    while not waiting(budget):
                        await checkpoint()
                    scope.cancel()

                group.start_soon(cancels)
                await admitted(budget)
            assert scope.cancelled_caught
            assert waiting(budget) == 0
            tickets[0].release()
            assert budget.account.held.tokens == 0

    on_loop(main)
