"""Soft limits: many calls at once go over a limit by the cost of one of them at most, and the limit stays usable."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from decimal import Decimal
from random import Random

import pytest

from actguard.client import Client
from actguard.exceptions import BudgetExceededError
from actguard.guards.admission import Asked
from actguard.guards.budget import BudgetGuard
from actguard.guards.charging import Ticket
from actguard.money.learned import TRUSTED, UsageHistory
from actguard.money.output_limits import USUAL_OUTPUT
from actguard.money.own_prices import Price
from actguard.money.usage import Usage

MODEL = "gpt-4o-mini"
LIMIT = 4_000
QUESTION = Usage(uncached_input_tokens=10)
LATENCY = 200
"""What an answer takes beside its generation, in the time that a token takes."""

Lengths = Callable[[Random], float]
DISTRIBUTIONS: dict[str, tuple[float, Lengths]] = {
    "equal": (300, lambda random: 300),
    "even": (300, lambda random: random.uniform(100, 500)),
    "exponential": (300, lambda random: random.expovariate(1 / 300)),
    "lognormal": (300, lambda random: random.lognormvariate(5.2, 1)),
}
LONG: dict[str, tuple[float, Lengths]] = {
    "equal, long": (1_500, lambda random: 1_500),
    "exponential, long": (1_500, lambda random: random.expovariate(1 / 1_500)),
    "some long": (300, lambda random: 2_000 if random.random() < 0.1 else 111),
}


class Crowd:
    """Workers that call, each one call after another, until they are refused; in simulated time.

    An answer takes as long as it has tokens, so of calls that begin together the short ones end first.
    """

    def __init__(self, budget: BudgetGuard, random: Random, lengths: Lengths, limit: int | None) -> None:
        self.budget = budget
        self.dearest = Decimal()
        self._random = random
        self._lengths = lengths
        self._limit = limit
        self._under_way: list[tuple[float, int, int, Ticket]] = []
        self._waiting = 0
        self._number = 0

    def run(self, workers: int) -> None:
        self._waiting = sum(not self._call(0) for _ in range(workers))
        while self._under_way:
            now, _, tokens, ticket = heapq.heappop(self._under_way)
            before = self.budget.usd_used_exact
            ticket.charge(QUESTION + Usage(output_tokens=tokens))
            self.dearest = max(self.dearest, self.budget.usd_used_exact - before)
            self._waiting += 1
            while self._waiting and self._call(now):
                self._waiting -= 1

    def _call(self, now: float) -> bool:
        """False: the worker has to wait."""
        try:
            asked = Asked("openai", MODEL, "chat", estimate=QUESTION, output_limit=self._limit)
            ticket = self.budget.admit_at_once(asked)
        except BudgetExceededError:
            return True
        if ticket is None:
            return False
        tokens = min(max(int(self._lengths(self._random)), 1), self._limit or 2**31)
        self._number += 1
        heapq.heappush(self._under_way, (now + LATENCY + tokens, self._number, tokens, ticket))
        return True


def spent_by(
    workers: int, calls: float, shape: tuple[float, Lengths], limit: int | None, seed: int
) -> tuple[float, float]:
    """How many calls a crowd went over a limit that pays for ``calls`` calls, and what part of the limit it used."""
    mean, lengths = shape
    usd_limit = Decimal(int(mean * calls) + 1) / 10**5
    price = Price(input_per_mtok=1, output_per_mtok=10)
    client = Client(prices={MODEL: price})
    with client, client.run(), client.budget_guard(usd_limit=usd_limit, on_crossing="return") as budget:
        crowd = Crowd(budget, Random(seed), lengths, limit)
        crowd.run(workers)
        assert budget.account.held.usd == 0
    over = max(budget.usd_used_exact - usd_limit, Decimal())
    return float(over / crowd.dearest), float(budget.usd_used_exact / usd_limit)


@pytest.mark.parametrize("workers", [1, 20, 200, 500])
@pytest.mark.parametrize("calls_each", [0.25, 1, 4])
@pytest.mark.parametrize("name", [*DISTRIBUTIONS, *LONG])
def test_calls_with_an_output_limit_go_over_by_one_call_at_the_most(workers: int, calls_each: float, name: str) -> None:
    shape = {**DISTRIBUTIONS, **LONG}[name]
    over, used = spent_by(workers, max(workers * calls_each, 3), shape, LIMIT, seed=workers)
    assert over <= 1
    assert used >= 0.6


@pytest.mark.parametrize("workers", [1, 20, 200, 500])
@pytest.mark.parametrize("calls_each", [0.25, 1, 4])
@pytest.mark.parametrize("name", [*DISTRIBUTIONS, "equal, long"])
def test_calls_without_one_wait_for_the_first_answers(workers: int, calls_each: float, name: str) -> None:
    shape = {**DISTRIBUTIONS, **LONG}[name]
    over, used = spent_by(workers, max(workers * calls_each, 3), shape, None, seed=workers)
    assert over <= 1
    assert used >= 0.6


def test_the_longest_recent_answer_is_expected_once_a_model_is_known() -> None:
    history = UsageHistory()
    assert history.expected("openai", MODEL) == USUAL_OUTPUT
    assert history.expected("openai", MODEL, 50) == 50
    for _ in range(int(TRUSTED)):
        assert history.expected("openai", MODEL, 5_000) == 5_000
        history.note("openai", MODEL, Usage(output_tokens=99))
    assert history.expected("openai", MODEL) == history.expected("openai", MODEL, 5_000) == 100
    history.note("openai", MODEL, Usage(output_tokens=700))
    history.note("openai", MODEL, Usage(output_tokens=99))
    assert 600 < history.expected("openai", MODEL) < 700


def test_a_short_answer_among_many_under_way_says_little() -> None:
    history = UsageHistory()
    for _ in range(500):
        history.note("openai", MODEL, Usage(output_tokens=1), under_way=99)
    assert history.expected("openai", MODEL, 4_000) == 4_000
    history.note("openai", MODEL, Usage(output_tokens=5_000), under_way=99)
    assert history.expected("openai", MODEL) == 5_001  # a long one says all it says at once


def test_input_that_requests_do_not_show_is_expected_of_the_next_one() -> None:
    history = UsageHistory()
    assert history.unseen_input("openai", MODEL, 10) == 0
    history.note("openai", MODEL, Usage(uncached_input_tokens=1_010, output_tokens=1), shown_input=10)
    assert history.unseen_input("openai", MODEL, 10) == 1_000
    assert history.unseen_input("openai", MODEL, 50_000) == 1_000  # not a hundred times as much
    history.note("openai", "other", Usage(uncached_input_tokens=50_000, output_tokens=1), shown_input=40_000)
    assert history.unseen_input("openai", "other", 10) == 2  # not ten thousand
    history.note("openai", "third", Usage(uncached_input_tokens=5, output_tokens=1), shown_input=10)
    assert history.unseen_input("openai", "third", 10) == 0
