"""Cancelling at every suspension of run and budget scopes leaves everything as if the call had ended there."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import anyio
import pytest
from calls import admitted, charged, used
from cancelling import WAYS, cancelled_everywhere
from conftest import until
from settling import Books

from actguard import context
from actguard.client import Client
from actguard.context import Process
from actguard.events import RunEnd, RunStart
from actguard.guards.budget import BudgetGuard
from actguard.guards.run import Run

Scenario = tuple[Callable[[], Coroutine[Any, Any, Any]], Callable[[], None]]


class Story:
    """One agent with a root, a nested scope and a path that joins; and what must be true when it is over."""

    def __init__(self, client: Client, books: Books | None = None) -> None:
        self.books = books
        self.run: Run = client.run(adopt_threads=True)
        self.root = client.budget_guard(usd_limit=1, name="all")
        self.nested, self.path = client.budget_guard(name="part"), client.budget_guard()
        self.made = 0
        self.events = client.bus.subscribe(RunStart, RunEnd)
        self.known = len(books.reserved) if books else 0

    async def call(self, budget: BudgetGuard, tokens: int) -> None:
        """A provider call that takes a while and is charged however it ends."""
        ticket = admitted(budget, tokens)
        try:
            await anyio.sleep(0)
        finally:
            ticket.charge(used(tokens))
            self.made += tokens

    async def agent(self) -> None:
        with self.events:
            async with self.run:
                async with self.root:
                    await self.call(self.root, 1)
                    async with self.nested:
                        await self.call(self.nested, 10)
                    assert context.active_budget() is self.root
                    token = context.current_budget.set(None)
                    async with self.path:
                        assert self.path.scope_id == self.root.scope_id
                        await self.call(self.path, 100)
                    context.current_budget.reset(token)
                assert context.active_budget() is None
            assert context.active_run() is None

    def check(self) -> None:
        assert (context.active_run(), context.active_budget(), self.run.tree) == (None, None, None)
        assert (Process.adopting, Process.open_roots, Process.warned_roots) == (None, set(), set())
        self.check_events()
        self.check_tree()
        if self.books is not None:
            self.check_books(self.books)

    def check_events(self) -> None:
        started_and_ended = [type(event) for event in self.events.pending()]
        assert started_and_ended in ([], [RunStart, RunEnd])
        assert bool(started_and_ended) == self.run.closed

    def check_tree(self) -> None:
        trees = {id(guard.tree): guard.tree for guard in (self.root, self.nested, self.path) if guard.tree is not None}
        for tree in trees.values():
            assert (tree.paths, tree.closed, tree.open_calls, tree.queues) == (0, True, set(), {})
            for pending in (tree.account.held, tree.account.running):
                assert (pending.usd, pending.tokens, pending.cost) == (0, 0, 0)
        assert sum(tree.account.tokens for tree in trees.values()) == self.made

    def check_books(self, books: Books) -> None:
        """What was reserved is settled, each reservation once, with all that was charged below it."""
        books.finish()
        assert books.open == set()
        reserved = books.reserved[self.known :]
        assert [books.settled[each] for each in reserved] == [1] * len(reserved)
        assert sum(entry.input_tokens for each in reserved for entry in books.entries[each]) == self.made


@pytest.mark.parametrize("late", [False, True], ids=["while it is asked", "when the answer is there"])
@pytest.mark.parametrize("way", list(WAYS))
def test_cancelled_at_every_suspension(way: str, late: bool, client: Client) -> None:
    books = Books(client, waits=True)

    def scenario() -> Scenario:
        story = Story(client, books)
        return story.agent, story.check

    def cancelling() -> None:
        if late:
            books.quiesce()

    assert cancelled_everywhere(way, scenario, suspending=books.let_answer, cancelling=cancelling) >= 5


@pytest.mark.parametrize("way", list(WAYS))
def test_cancelled_at_every_suspension_of_a_local_scope(way: str, client: Client) -> None:
    def scenario() -> Scenario:
        story = Story(client)
        return story.agent, story.check

    assert cancelled_everywhere(way, scenario) >= 3


@pytest.mark.filterwarnings("ignore::actguard.exceptions.ActGuardMonitoringWarning")
@pytest.mark.parametrize("way", list(WAYS))
def test_cancelled_at_every_suspension_while_settling_fails(way: str, client: Client) -> None:
    books = Books(client, waits=True)
    books.refuse_settle = LookupError("broken")

    def scenario() -> Scenario:
        story = Story(client, books)
        return story.agent, story.check

    assert cancelled_everywhere(way, scenario, suspending=books.let_answer) >= 5


# --- Ctrl-C in a plain with -----------------------------------------------------------------------------------------


@pytest.fixture
def press_ctrl_c() -> Iterator[Callable[[], None]]:
    """Ctrl-C, as far as the main thread can tell."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    main = threading.get_ident()
    before = signal.signal(signal.SIGUSR1, interrupt)
    yield lambda: signal.pthread_kill(main, signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


def test_ctrl_c_while_a_plain_with_is_entered(client: Client, press_ctrl_c: Callable[[], None]) -> None:
    books, run = Books(client, waits=True), client.run()
    threading.Thread(target=lambda: (books.asked.wait(10), press_ctrl_c())).start()
    with pytest.raises(KeyboardInterrupt), run, client.budget_guard(usd_limit=1):
        raise AssertionError("entered")
    assert (run.tree, run.closed, context.active_budget(), context.active_run()) == (None, True, None, None)
    books.answer_freely()
    until(lambda: books.reserved and not books.open)
    assert list(books.entries.values()) == [()]


def test_ctrl_c_when_the_request_has_just_been_sent(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    books, run = Books(client), client.run()
    spawn = client._hub.spawn

    def interrupted(work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        monkeypatch.setattr(client._hub, "spawn", spawn)
        spawn(work)
        until(lambda: books.reserved)
        raise KeyboardInterrupt

    monkeypatch.setattr(client._hub, "spawn", interrupted)
    with pytest.raises(KeyboardInterrupt), run, client.budget_guard(usd_limit=1):
        raise AssertionError("entered")
    until(lambda: not books.open)
    assert list(books.entries.values()) == [()]


def test_ctrl_c_while_a_plain_with_is_left(client: Client, press_ctrl_c: Callable[[], None]) -> None:
    books, run, guard = Books(client), client.run(), client.budget_guard(usd_limit=1)

    def body() -> None:
        with run, guard:
            charged(guard, 5)
            books.asked.clear()
            books.waits = True
            threading.Thread(target=lambda: (books.asked.wait(10), press_ctrl_c())).start()

    with pytest.raises(KeyboardInterrupt):
        body()
    assert (run.tree, run.closed, context.active_budget(), context.active_run()) == (None, True, None, None)
    books.answer_freely()
    until(lambda: not books.open)
    assert [len(entries) for entries in books.entries.values()] == [1]
