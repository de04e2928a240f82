"""Paths of one run that come and go at will, in threads and tasks: each root is settled once, with all its charges."""

from __future__ import annotations

import contextvars
import random
import sys
import threading
from collections.abc import Iterator

import anyio
import pytest
from calls import charged
from conftest import Runner
from settling import Books

from actguard.client import Client
from actguard.context import Process
from actguard.events import Reserved, ReserveRequested
from actguard.exceptions import ActGuardPaymentRequired


@pytest.fixture(autouse=True)
def threads_take_turns_all_the_time() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def check(books: Books, made: int) -> None:
    books.finish()
    assert books.open == set()
    assert set(books.settled.values()) <= {1}
    assert len(books.settled) == len(books.reserved)
    assert sum(entry.input_tokens for entries in books.entries.values() for entry in entries) == made
    assert Process.open_roots == set()


def test_threads_that_open_join_and_leave(client: Client) -> None:
    books, made = Books(client), []

    def work(number: int) -> None:
        dice = random.Random(number)
        for _ in range(15):
            with client.budget_guard(usd_limit=1000) as budget:
                for _ in range(dice.randrange(3)):
                    charged(budget, number + 1)
                    made.append(number + 1)
                if dice.random() < 0.3:
                    with client.budget_guard(name="part") as part:
                        charged(part, number + 1)
                        made.append(number + 1)

    with client.run() as run:
        threads = [threading.Thread(target=contextvars.copy_context().run, args=(work, n)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
        assert run.tree is None
    check(books, sum(made))


def test_tasks_that_open_join_leave_and_are_cancelled(client: Client, on_loop: Runner) -> None:
    books, made = Books(client), []

    async def work(dice: random.Random) -> None:
        for _ in range(6):
            with anyio.CancelScope() as doomed:
                async with client.budget_guard(usd_limit=1000) as budget:
                    charged(budget, 3)
                    made.append(3)
                    if dice.random() < 0.4:
                        doomed.cancel()
                    await anyio.lowlevel.checkpoint()
                    charged(budget, 5)
                    made.append(5)
            with anyio.move_on_after(dice.choice([0, 0, 0.0005, 1])):
                async with client.budget_guard() as budget:
                    charged(budget, 7)
                    made.append(7)
                    await anyio.lowlevel.checkpoint()

    async def main() -> None:
        async with client.run() as run:
            async with anyio.create_task_group() as tasks:
                for number in range(25):
                    tasks.start_soon(work, random.Random(number))
            assert run.tree is None

    on_loop(main)
    check(books, sum(made))


class Moody(Books):
    """Refuses every other reservation."""

    async def reserve(self, request: ReserveRequested) -> Reserved:
        self.refuse_reserve = None if self.refuse_reserve else ActGuardPaymentRequired(path="/r")
        return await super().reserve(request)


def test_roots_that_are_refused_now_and_then(client: Client, on_loop: Runner) -> None:
    books, made = Moody(client), []

    async def work() -> None:
        for _ in range(10):
            try:
                async with client.budget_guard() as budget:
                    charged(budget, 2)
                    made.append(2)
                    await anyio.lowlevel.checkpoint()
            except ActGuardPaymentRequired:
                await anyio.lowlevel.checkpoint()

    async def main() -> None:
        async with client.run() as run:
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(work)
            assert run.tree is None

    on_loop(main)
    assert made
    check(books, sum(made))
