"""Hard limits: whatever happens to the calls, what the provider bills never exceeds the limit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from conftest import Runner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from actguard.client import Client
from actguard.events import BudgetBlocked, GuardBlocked
from actguard.exceptions import BudgetExceededError, GuardError
from actguard.guards.admission import Asked
from actguard.guards.bounding import Bound
from actguard.guards.budget import BudgetGuard
from actguard.guards.charging import Ticket
from actguard.guards.dividing import Part, divided
from actguard.money.own_prices import Price
from actguard.money.usage import Usage
from actguard.rules.ledger import Account, Limits, room_of

MODEL = "simulated"
HARD: dict[str, Any] = {"enforcement": "hard"}


def asked(**changes: Any) -> Asked:
    facts: dict[str, Any] = {"estimate": Usage(uncached_input_tokens=10), "bound": Bound(100), **changes}
    return Asked("test", MODEL, "test", **facts)


@dataclass
class Provider:
    """Bills what it generates, whoever waits for it: never more than the request allows."""

    random: Random
    price: Price
    bills: list[tuple[Account, Usage]] = field(default_factory=list)

    def serve(self, call: Call, part: float = 1.0) -> Usage:
        """One attempt at a call; ``part`` of the answer is generated before its client leaves."""
        sent = self.random.randint(0, call.asked.bound.input_tokens if call.asked.bound else 0)
        cached = self.random.randint(0, sent)
        written = self.random.randint(0, sent - cached)
        limit = call.output_limit
        generated = sum(self.random.randint(0, limit) for _ in range(call.asked.outputs))
        if self.random.random() < 0.3:
            generated = limit * call.asked.outputs
        usage = Usage(
            uncached_input_tokens=sent - cached - written,
            cache_read_tokens=cached,
            cache_write_1h_tokens=written,
            output_tokens=int(generated * part),
        )
        self.bills.append((call.ticket.account, usage))
        return usage

    def billed(self, account: Account) -> tuple[Decimal, int]:
        """USD and tokens billed for an account and those inside it."""
        below = [usage for place, usage in self.bills if account in place.chain()]
        return sum(map(self.price.cost, below), Decimal()), sum(usage.total_tokens for usage in below)


@dataclass
class Call:
    asked: Asked
    ticket: Ticket
    attempts_left: int
    usage: Usage | None = None

    @property
    def output_limit(self) -> int:
        limit = self.ticket.output_limit
        if limit is None:
            limit = self.asked.output_limit
        return 4_096 if limit is None else limit  # None: sent to no hard scope


class World:
    """Scopes, a provider, and calls in every state."""

    def __init__(self, random: Random, stack: ExitStack) -> None:
        self.random = random
        rates = {
            name: Decimal(random.choice([0, 1, 25, 333, 10_000])) / random.choice([1, 3, 100, 1000])
            for name in ("input_per_mtok", "output_per_mtok", "cached_input_per_mtok", "cache_write_1h_per_mtok")
        }
        price = Price(**rates, per_request=random.choice([0, "0.00013"]))
        self.provider = Provider(random, price)
        client = stack.enter_context(Client(prices={MODEL: price}))
        stack.enter_context(client.run())
        self.scopes: list[BudgetGuard] = []
        hard_at = random.randint(0, 2)
        for depth in range(random.randint(1, 3)):
            is_hard = depth == hard_at or random.random() < 0.5
            limits = self.some_limits() if is_hard or random.random() < 0.5 else {}
            if depth and random.random() < 0.3:
                limits["share"] = random.choice(["0.1", "0.5", 1])
            guard = client.budget_guard(**limits, **(HARD if is_hard else {}), on_crossing="return")
            self.scopes.append(stack.enter_context(guard))
        self.open: list[Call] = []
        self.estimated: list[Call] = []

    def some_limits(self) -> dict[str, Any]:
        random = self.random
        every = {
            "usd_limit": random.choice(["0.05", "0.001", "0.0000007", "3", "0.123456789123456789"]),
            "token_limit": random.choice([17, 500, 10_000]),
            "cost_limit": random.choice([1, 7, 100]),
        }
        names = random.sample(sorted(every), random.randint(1, 3))
        return {name: every[name] for name in names}

    def ask(self) -> None:
        random = self.random
        if random.random() < 0.2:
            self.ask_for_a_batch()
            return
        most = random.choice([0, 5, 200, 3_000])
        attempts = random.choice([1, 1, 2, 3])
        fixed = random.random() < 0.2
        question = asked(
            estimate=Usage(uncached_input_tokens=random.randint(0, 2 * most)),
            output_limit=random.choice([0, 7]) if fixed else random.choice([None, 0, 1, 50, 4_000]),
            outputs=random.choice([1, 1, 3]),
            bound=Bound(most, attempts=attempts, least_output=random.choice([1, 16])),
        )
        if fixed:
            bound = Bound(most, output_tokens=question.output_limit, attempts=attempts)
            question = question._replace(bound=bound)
        try:
            ticket = random.choice(self.scopes).admit(question)
        except BudgetExceededError:
            return
        self.open.append(Call(question, ticket, attempts))

    def ask_for_a_batch(self) -> None:
        """One call whose requests are billed one by one."""
        random = self.random
        most = [
            Usage(uncached_input_tokens=random.choice([0, 5, 200]), output_tokens=random.choice([0, 1, 50]))
            for _ in range(random.choice([0, 1, 2, 7]))
        ]
        bound = Bound.of_parts(most, attempts=random.choice([1, 2]))
        try:
            whole = random.choice(self.scopes).admit(asked(output_limit=bound.output_tokens, bound=bound))
        except BudgetExceededError:
            return
        if bound.attempts > 1 and random.random() < 0.5:
            whole.charge_lost(1)
        parts = [Part(MODEL, Usage(uncached_input_tokens=3), usage.output_tokens, usage) for usage in most]
        for usage, ticket in zip(most, divided(whole, parts), strict=True):
            question = asked(output_limit=usage.output_tokens, bound=Bound(usage.input_tokens))
            self.open.append(Call(question, ticket, 1))
        whole.release()

    def go_on(self) -> None:
        """Something happens to one of the calls."""
        random = self.random
        if self.estimated and random.random() < 0.2:
            late = self.estimated.pop(random.randrange(len(self.estimated)))
            assert late.usage is not None
            late.ticket.charge(late.usage)
            return
        if not self.open:
            return
        call = self.open[random.randrange(len(self.open))]
        match random.choice(["answer", "answer", "lose", "break off", "read", "fail", "vanish"]):
            case "lose" if call.attempts_left > 1:
                call.attempts_left -= 1
                self.provider.serve(call)
                call.ticket.charge_lost(1)
            case "read":
                sent = call.ticket.estimate.input_tokens
                seen = Usage(uncached_input_tokens=sent, output_tokens=random.randint(0, 5_000))
                call.ticket.watch(lambda: seen)
                call.ticket.check(seen)
            case "break off":
                call.usage = self.provider.serve(call, random.random())
                seen = Usage(output_tokens=random.randint(0, 5_000))
                self.settle(call)
                call.ticket.charge(call.ticket.estimate + seen, estimated=True)
                self.estimated.append(call)
            case "vanish":
                call.usage = self.provider.serve(call)
                self.settle(call)
                call.ticket.charge_estimate()
                self.estimated.append(call)
            case "fail":
                self.settle(call)
                call.ticket.release()
            case _:
                usage = self.provider.serve(call)
                self.settle(call)
                call.ticket.charge(usage)

    def settle(self, call: Call) -> None:
        self.open.remove(call)

    def check(self) -> None:
        for scope in self.scopes:
            account = scope.account
            if not account.hard:
                continue
            assert nothing_below_zero(room_of(account, account.held)), "used and held exceed a limit"
            usd, tokens = self.provider.billed(account)
            assert account.limits.usd is None or usd <= account.limits.usd, "the bill exceeds the limit"
            assert account.limits.tokens is None or tokens <= account.limits.tokens


def nothing_below_zero(room: Limits) -> bool:
    return all(left is None or left >= 0 for left in room)


@settings(max_examples=1_000, deadline=None, suppress_health_check=list(HealthCheck))
@example(105_331)  # an empty answer at a price per request
@given(st.integers(0, 2**32))
def test_nothing_over_in_a_thousand_random_trials(seed: int) -> None:
    random = Random(seed)
    with ExitStack() as stack:
        world = World(random, stack)
        for _ in range(random.randint(1, 40)):
            world.ask() if random.random() < 0.5 else world.go_on()
            world.check()
        left = world.scopes.pop()  # the innermost scope ends before its calls do
        left.__exit__(None, None, None)
        world.scopes.append(left)
        world.check()
        while world.open:
            world.go_on()
            world.check()
        for account in (scope.account for scope in world.scopes):
            assert account.running.tokens == 0


@pytest.mark.parametrize("calls", [1, 20, 500])
@pytest.mark.parametrize("limits", [{"usd_limit": "0.05"}, {"token_limit": 60_000}, {"cost_limit": 50}], ids=str)
def test_concurrent_calls_that_use_all_they_may_stay_within(client: Client, calls: int, limits: dict[str, Any]) -> None:
    with client.run(), client.budget_guard(**limits, **HARD, on_crossing="return") as budget:
        sent = []
        for _ in range(calls):
            try:
                sent.append(budget.admit(asked(output_limit=1_000)))
            except BudgetExceededError:
                break
        for ticket in sent:
            assert ticket.output_limit is None or 16 <= ticket.output_limit < 1_000
            ticket.charge(Usage(uncached_input_tokens=100, output_tokens=ticket.output_limit or 1_000))
        assert sent
        assert nothing_below_zero(room_of(budget.account, budget.account.held))
        assert budget.account.held.usd == 0


def test_threads_that_use_all_they_may_stay_within(client: Client) -> None:
    with client.run(), client.budget_guard(usd_limit="0.05", **HARD, on_crossing="return") as budget:

        def work() -> None:
            for _ in range(40):
                try:
                    ticket = budget.admit(asked(output_limit=150))
                except BudgetExceededError:
                    return
                ticket.charge(Usage(uncached_input_tokens=100, output_tokens=ticket.output_limit or 150))

        threads = [threading.Thread(target=work) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert Decimal("0.04") < budget.usd_used_exact <= Decimal("0.05")


def test_a_batch_is_held_as_its_requests_are_billed(client: Client) -> None:
    """Each of them is rounded up to a whole cost unit."""
    most = [Usage(uncached_input_tokens=1, output_tokens=1)] * 5
    question = asked(bound=Bound.of_parts(most, 1))
    with client.run(), client.budget_guard(cost_limit=4, **HARD) as budget, pytest.raises(BudgetExceededError):
        budget.admit(question)
    with client.run(), client.budget_guard(cost_limit=5, on_crossing="return", **HARD) as budget:
        whole = budget.admit(question)
        assert budget.account.held.cost == 5
        for ticket in divided(whole, [Part(MODEL, Usage(), 1, usage) for usage in most]):
            ticket.charge(Usage(uncached_input_tokens=1, output_tokens=1))
        assert (budget.cost_used, budget.account.held.cost) == (5, 0)


# --- what a call may use --------------------------------------------------------------------------------------------
# With the client's prices an input token costs a millionth of a dollar, an output token ten millionths.


def limit_of(budget: BudgetGuard, **facts: Any) -> int | None:
    ticket = budget.admit(asked(**facts))
    ticket.release()
    return ticket.output_limit


def test_the_output_limit_is_what_the_budget_affords(client: Client) -> None:
    with client.run(), client.budget_guard(usd_limit="0.01", **HARD) as budget:
        assert limit_of(budget) == 990  # 0.01 USD without 100 input tokens
        assert limit_of(budget, output_limit=2_000) == 990
        assert limit_of(budget, outputs=3) == 330
        assert limit_of(budget, bound=Bound(100, attempts=3)) == 323
    with client.run(), client.budget_guard(token_limit=1_000, **HARD) as budget:
        assert limit_of(budget) == 900


def test_a_lower_limit_of_the_user_stays(client: Client) -> None:
    with client.run(), client.budget_guard(usd_limit="0.01", **HARD) as budget:
        assert limit_of(budget, output_limit=50) is None
        assert limit_of(budget, output_limit=990) is None
        assert limit_of(budget, output_limit=5) is None  # below min_output_tokens: the user's own choice
        assert limit_of(budget, output_limit=0) is None


def test_a_rich_budget_asks_for_no_more_than_the_model_can(client: Client) -> None:
    with client.run(), client.budget_guard(usd_limit=1_000, **HARD) as budget:
        assert limit_of(budget) == 4_096  # nothing is known about this model


def test_the_limit_is_that_of_the_tightest_hard_scope(client: Client) -> None:
    with client.run(), client.budget_guard(usd_limit="0.01", **HARD), client.budget_guard(usd_limit="0.0001") as soft:
        assert limit_of(soft) == 990
        with client.budget_guard(token_limit=300, **HARD) as inner:
            assert limit_of(inner) == 200


def test_a_soft_scope_inside_a_hard_one_holds_what_is_expected(client: Client) -> None:
    with client.run(), client.budget_guard(usd_limit=1, **HARD) as hard, client.budget_guard(usd_limit="0.02") as soft:
        tickets = [soft.admit(asked(output_limit=10)) for _ in range(50)]
        assert soft.account.held.usd == 50 * Decimal("0.00011")
        assert hard.account.held.usd == 50 * Decimal("0.0002")
        for ticket in tickets:
            ticket.charge(Usage(uncached_input_tokens=20, output_tokens=10))
        assert soft.account.held.usd == hard.account.held.usd == 0


def test_a_refusal_says_how_much_was_missing(client: Client) -> None:
    with client.run(), client.budget_guard(usd_limit="0.001", name="narrow", **HARD) as budget:
        with pytest.raises(BudgetExceededError, match=r"no room.*0\.000160 USD more would be needed") as refused:
            budget.admit(asked(bound=Bound(1_000)))
        assert (refused.value.missing, refused.value.scope_name) == ("0.000160 USD", "narrow")
        assert limit_of(budget, bound=Bound(840)) == 16
    few = client.budget_guard(token_limit=100, min_output_tokens=50, **HARD)
    with client.run(), few, pytest.raises(BudgetExceededError, match="49 tokens more"):
        few.admit(asked(bound=Bound(99)))


def test_a_request_that_needs_more_output_than_the_scope_asks_for(client: Client) -> None:
    budget = client.budget_guard(usd_limit="0.01", **HARD)
    with client.run(), budget, pytest.raises(BudgetExceededError, match=r"0\.000350 USD more"):
        budget.admit(asked(bound=Bound(100, least_output=1_025)))


def test_what_has_no_limit_to_set_is_held_as_it_is(client: Client) -> None:
    with client.run(), client.budget_guard(usd_limit="0.01", **HARD) as budget:
        ticket = budget.admit(asked(bound=Bound(100, output_tokens=500)))
        assert ticket.output_limit is None
        assert budget.account.held.usd == Decimal("0.0051")
        with pytest.raises(BudgetExceededError, match=r"0\.000200 USD more"):
            budget.admit(asked(bound=Bound(100, output_tokens=500)))


# --- what cannot be bounded ------------------------------------------------------------------------------------------


def test_a_call_without_a_bound_is_refused_with_the_reason(client: Client) -> None:
    with client.run(), client.budget_guard(usd_limit=1, **HARD) as budget:
        with pytest.raises(GuardError, match="it uses a stored prompt") as refused:
            budget.admit(asked(bound=Bound(0, unbounded="it uses a stored prompt")))
        assert refused.value.code == "UNBOUNDED_CALL"
        with pytest.raises(GuardError, match="nothing is known about its cost"):
            budget.admit(asked(bound=None))
        assert budget.account.held.usd == 0


def test_a_call_that_is_refused_for_what_it_is_is_announced_once(client: Client, on_loop: Runner) -> None:
    scope = client.budget_guard(usd_limit=1, name="task", on_full="wait", **HARD)

    async def main() -> None:
        with client.bus.subscribe(GuardBlocked, BudgetBlocked) as events:
            async with client.run(user_id="alice") as run, scope as budget:
                with pytest.raises(GuardError) as refused:
                    budget.admit(asked(bound=Bound(0, unbounded="it uses a stored prompt")))
                with pytest.raises(GuardError):
                    await budget.admit_in_turn(asked(bound=None))
                with pytest.raises(GuardError):
                    budget.note_uncounted("openai", "fine-tuning")
            first, second, third = events.pending()
        assert (first.run_id, first.user_id, first.scope_name, first.scope_id) == (
            *(run.run_id, "alice", "task", budget.scope_id),
        )
        assert (first.guard_name, first.error_type, first.error_message) == (
            *("budget", "PolicyViolationError", str(refused.value)),
        )
        known = {"provider": "test", "model": "simulated", "reason": "it uses a stored prompt"}
        assert dict(first.figures) == {"code": "UNBOUNDED_CALL", **known}
        assert [event.figures["code"] for event in (second, third)] == ["UNBOUNDED_CALL", "UNPRICED_CALL"]

    on_loop(main)


def test_an_unbounded_call_is_admitted_as_by_a_soft_scope_where_that_is_allowed(client: Client) -> None:
    with client.run(), client.budget_guard(usd_limit=1, allow_unbounded=True, **HARD) as budget:
        ticket = budget.admit(asked(bound=Bound(0, unbounded="it uses a stored prompt"), output_limit=100))
        assert ticket.output_limit is None
        assert budget.account.held.usd == Decimal("0.00101")


def test_a_model_without_a_price_is_refused_where_money_is_limited() -> None:
    with Client(prices={"other": Price(input_per_mtok=1, output_per_mtok=1)}) as client:
        with client.run(), client.budget_guard(usd_limit=1, **HARD) as budget:
            with pytest.raises(GuardError, match="needs the price") as refused:
                budget.admit(asked())
            assert refused.value.code == "UNPRICED_MODEL"
        with client.run(), client.budget_guard(token_limit=1_000, **HARD) as budget:
            assert limit_of(budget) == 900


def test_a_call_that_must_work_is_never_refused(client: Client) -> None:
    with client.run(), client.budget_guard(usd_limit="0.0001", **HARD) as budget:
        ticket = budget.admit(asked(bound=None, refusable=False))
        assert ticket.output_limit is None


# --- what is not known for certain -----------------------------------------------------------------------------------


@pytest.fixture
def narrow(client: Client) -> Iterator[BudgetGuard]:
    """A hard scope with a cent; a call of ten input and a hundred output tokens costs a tenth of it."""
    with client.run(), client.budget_guard(usd_limit="0.01", on_crossing="return", **HARD) as budget:
        yield budget


def test_what_an_estimate_may_fall_short_of_stays_held(narrow: BudgetGuard) -> None:
    ticket = narrow.admit(asked(output_limit=800))
    ticket.charge(Usage(uncached_input_tokens=10, output_tokens=90), estimated=True)
    assert narrow.usd_used_exact == Decimal("0.00091")
    assert narrow.account.held.usd == Decimal("0.0081") - Decimal("0.00091")
    assert limit_of(narrow) == 180  # as if it had used all it might
    ticket.charge(Usage(uncached_input_tokens=10, output_tokens=100))
    assert narrow.usd_used_exact == Decimal("0.00101")
    assert narrow.account.held.usd == 0


def test_an_estimate_is_never_above_what_is_possible(narrow: BudgetGuard) -> None:
    ticket = narrow.admit(asked(output_limit=100))
    ticket.charge(Usage(uncached_input_tokens=500, output_tokens=5_000, reasoning_tokens=4_000), estimated=True)
    assert narrow.usd_used_exact == Decimal("0.0011")
    assert narrow.account.held.usd == 0


def test_a_lost_attempt_is_charged_apart_and_stays_in_doubt(narrow: BudgetGuard) -> None:
    ticket = narrow.admit(asked(output_limit=100, bound=Bound(100, attempts=3)))
    assert narrow.account.held.usd == 3 * Decimal("0.0011")
    ticket.charge_lost(2)
    assert narrow.account.held.usd + narrow.usd_used_exact == 3 * Decimal("0.0011")
    ticket.charge(Usage(uncached_input_tokens=10, output_tokens=10))
    exact, lost = sorted(narrow.breakdown(), key=lambda row: row.estimated)
    assert (exact.usd, exact.calls) == (Decimal("0.00011"), 1)
    assert (lost.usd, lost.calls) == (2 * Decimal("0.00101"), 1)
    assert narrow.account.held.usd + lost.usd == 2 * Decimal("0.0011")
