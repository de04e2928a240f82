"""What a scope shows, its breakdown, its events and its settlement say the same, to the last digit."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actguard.client import Client
from actguard.events import LlmUsage, SettleRequested
from actguard.guards.admission import Asked
from actguard.guards.budget import BudgetGuard
from actguard.guards.charging import Ticket
from actguard.money.own_prices import Price
from actguard.money.usage import Usage
from actguard.testing import capture_events

MODELS = {
    "plain": Price(input_per_mtok="0.15", output_per_mtok="0.6"),
    "odd": Price(input_per_mtok="0.3333333333333", output_per_mtok="7.77", cached_input_per_mtok="0.0001"),
    "fee": Price(input_per_mtok=1, output_per_mtok=3, cache_write_per_mtok="1.25", per_request="0.000013"),
}
ENDS = ("exact", "estimated", "corrected", "unknown", "lost", "released", "stream", "cut stream")


@dataclass
class Known:
    """What one call costs, worked out apart from the ledger."""

    place: int
    model: str
    usage: Usage
    estimated: bool = False
    attempts: int = 1

    @property
    def usd(self) -> Decimal:
        return MODELS[self.model].cost(self.usage) * self.attempts

    @property
    def tokens(self) -> int:
        return self.usage.total_tokens * self.attempts


@dataclass
class Books:
    """The calls as they ended, and how far what was published of them was corrected later."""

    calls: list[Known] = field(default_factory=list)
    corrected: Decimal = Decimal()
    outside: list[tuple[int, Decimal]] = field(default_factory=list)

    def usd(self, place: int) -> Decimal:
        """What the scope and those inside it have used."""
        calls = (call.usd for call in self.calls if call.place >= place)
        return sum(calls, Decimal()) + sum((usd for at, usd in self.outside if at >= place), Decimal())

    def estimated(self, place: int) -> Decimal:
        return sum((call.usd for call in self.calls if call.place >= place and call.estimated), Decimal())


def some_usage(random: Random) -> Usage:
    return Usage(
        uncached_input_tokens=random.randint(1, 10**5),
        cache_read_tokens=random.choice([0, random.randint(0, 10**4)]),
        cache_write_5m_tokens=random.choice([0, random.randint(0, 10**4)]),
        output_tokens=random.choice([0, random.randint(1, 10**4)]),
    )


def make_call(random: Random, books: Books, place: int, scope: BudgetGuard) -> None:
    """One call, from its admission to its end, whatever that is."""
    model, usage, end = random.choice(sorted(MODELS)), some_usage(random), random.choice(ENDS)
    ticket = scope.admit(Asked("test", model, "test", estimate=Usage(uncached_input_tokens=random.randint(0, 999))))
    if end == "released":
        ticket.release()
        return
    if end == "lost":
        ticket.charge_lost(attempts := random.randint(1, 3))
        books.calls.append(Known(place, model, ticket.estimate, True, attempts))
    if end == "unknown":
        ticket.charge_estimate(attempts := random.randint(1, 3))
        books.calls.append(Known(place, model, ticket.estimate, True, attempts))
        return
    if "stream" in end:
        read(random, ticket, usage)
    if end in ("estimated", "cut stream", "corrected"):
        ticket.charge(usage, estimated=True)
    if end in ("estimated", "cut stream"):
        books.calls.append(Known(place, model, usage, True))
        return
    if end == "corrected":
        final = some_usage(random)
        books.corrected += MODELS[model].cost(final) - MODELS[model].cost(usage)
        usage = final
    ticket.charge(usage)
    ticket.charge(some_usage(random))  # the first exact figure counts
    books.calls.append(Known(place, model, usage))


def read(random: Random, ticket: Ticket, usage: Usage) -> None:
    """A stream is read: guesses on the way leave no trace."""
    for tokens in sorted(random.randint(1, 10**4) for _ in range(3)):
        ticket.check(Usage(output_tokens=tokens), Usage(output_tokens=tokens // 2))
        ticket.watch(lambda: usage)


def outliving(random: Random, books: Books, place: int, scope: BudgetGuard) -> tuple[Ticket, Known]:
    """A stream that is still read when its scope is left."""
    model, usage = random.choice(sorted(MODELS)), some_usage(random)
    ticket = scope.admit(Asked("test", model, "test", stream=True))
    ticket.watch(lambda: Usage(output_tokens=5))
    return ticket, Known(place, model, usage)


def assert_scopes_agree(scopes: list[BudgetGuard], books: Books) -> None:
    for place, scope in enumerate(scopes):
        rows = scope.breakdown()
        assert scope.usd_used_exact == books.usd(place) == sum((row.usd for row in rows), Decimal())
        assert scope.usd_used == float(scope.usd_used_exact)
        estimated = sum((row.usd for row in rows if row.estimated), Decimal())
        assert estimated == books.estimated(place)
        assert scope.estimated_usd == float(estimated)
        below = [call for call in books.calls if call.place >= place]
        assert scope.tokens_used == sum(row.input_tokens + row.output_tokens for row in rows)
        assert scope.tokens_used == sum(call.tokens for call in below)
        assert scope.calls == len(below) == sum(row.calls for row in rows if row.provider != "custom")
        assert (scope.account.held.usd, scope.account.running.usd) == (0, 0)


def assert_reports_agree(
    books: Books, events: list[LlmUsage], settled: SettleRequested, scopes: list[BudgetGuard]
) -> None:
    outside = sum((usd for _, usd in books.outside), Decimal())
    told = sum((event.usd or Decimal() for event in events), Decimal())
    assert told + books.corrected + outside == scopes[0].usd_used_exact
    assert len(events) == len(books.calls)
    exact = [event for event in events if not event.estimated]
    assert Counter(event.usd for event in exact) <= Counter(call.usd for call in books.calls if not call.estimated)
    calls = [entry for entry in settled.entries if entry.cost_cu is None]
    assert Counter(
        (entry.model, entry.scope_name, entry.input_tokens, entry.cached_input_tokens, entry.output_tokens)
        for entry in calls
    ) == Counter(
        (
            call.model,
            scopes[call.place].name,
            call.usage.input_tokens * call.attempts,
            call.usage.cached_input_tokens * call.attempts,
            call.usage.output_tokens * call.attempts,
        )
        for call in books.calls
    )
    assert len(settled.entries) - len(calls) == len(books.outside)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32))
def test_figures_agree_over_random_histories(seed: int) -> None:
    random, books, scopes = Random(seed), Books(), []
    limits: list[dict[str, Any]] = [{"usd_limit": 10**6}, {"share": "0.3"}, {"share": "0.5", "token_limit": 10**9}]
    with ExitStack() as stack:
        client = stack.enter_context(Client(prices=MODELS))
        events = stack.enter_context(capture_events(client, LlmUsage, SettleRequested))
        stack.enter_context(client.run())
        root = client.budget_guard(name="scope 0", **limits[0])
        with root:
            scopes = [root]
            with ExitStack() as nested:
                for place in range(1, random.randint(1, 3)):
                    scopes.append(nested.enter_context(client.budget_guard(name=f"scope {place}", **limits[place])))
                for _ in range(random.randint(0, 25)):
                    place = random.randrange(len(scopes))
                    if random.random() < 0.1:
                        cost = Decimal(random.randint(0, 10**9)).scaleb(-12)
                        scopes[-1].add_cost("outside", cost)
                        books.outside.append((len(scopes) - 1, cost))
                    else:
                        make_call(random, books, place, scopes[place])
                assert_scopes_agree(scopes, books)
                late = [outliving(random, books, at, scopes[at]) for at in range(len(scopes)) if random.random() < 0.5]
            for ticket, known in late:
                ticket.check(Usage(output_tokens=7), Usage(output_tokens=3))
                ticket.charge(known.usage)
                books.calls.append(known)
            assert_scopes_agree(scopes, books)
        [settled] = events.of(SettleRequested)
        assert_reports_agree(books, events.of(LlmUsage), settled, scopes)
