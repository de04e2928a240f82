"""Streams that run at once see each other in time: together they go over a limit by what one of them costs."""

from __future__ import annotations

from random import Random

import pytest

from actguard.client import Client
from actguard.exceptions import BudgetExceededError
from actguard.guards.admission import Asked
from actguard.guards.budget import BudgetGuard
from actguard.guards.charging import Ticket
from actguard.money.usage import Usage

EXPECTED = 100
"""Output tokens that each answer may have by its request; the provider does not mind."""


class Stream:
    """One stream, driven as a meter does: it asks when it is due."""

    def __init__(self, budget: BudgetGuard) -> None:
        asked = Asked("openai", "gpt-4o-mini", "chat", stream=True, output_limit=EXPECTED)
        self.ticket: Ticket = budget.admit(asked)
        self.used = 0
        self.checks = 0
        self.cut = False
        self._due = 0

    def generate(self, tokens: int) -> None:
        """The provider sends so many more."""
        for _ in range(tokens):
            if self.cut:
                return
            self.used += 1
            if self.used >= self._due:
                self.checks += 1
                _, more = self.ticket.check(Usage(output_tokens=self.used))
                self._due = self.used + more
                self.cut = more == 0


def started(budget: BudgetGuard) -> list[Stream]:
    """As many as the budget admits."""
    streams: list[Stream] = []
    try:
        while True:
            streams.append(Stream(budget))
    except BudgetExceededError:
        return streams


@pytest.mark.parametrize("pace", ["one token each", "uneven"])
@pytest.mark.parametrize("number", [2, 20, 200])
def test_together_they_go_over_by_one_of_them_at_the_most(client: Client, number: int, pace: str) -> None:
    random = Random(number)
    limit = number * EXPECTED
    with client.run(), client.budget_guard(token_limit=limit) as budget:
        streams = started(budget)
        assert len(streams) >= number
        while not all(stream.cut for stream in streams):
            for stream in streams:
                stream.generate(1 if pace == "one token each" else random.randrange(8))
        most = max(stream.used for stream in streams)
        for stream in streams:
            stream.ticket.charge(Usage(output_tokens=stream.used))
        # Of each, a token or two are under way when the limit is reached.
        assert limit <= budget.tokens_used <= limit + max(most, 2 * number)


def test_with_plenty_left_they_ask_seldom(client: Client) -> None:
    with client.run(), client.budget_guard(token_limit=10**9) as budget:
        streams = [Stream(budget) for _ in range(200)]
        for stream in streams:
            stream.generate(1_024)
        assert max(stream.checks for stream in streams) <= 3
        for stream in streams:
            stream.ticket.release()
