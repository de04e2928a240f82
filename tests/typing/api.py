"""User-style code, checked by mypy and pyright, never run: what public functions return, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any, assert_type

import actguard
from actguard import BreakdownRow, BudgetExceededError, BudgetGuard, Client, Price, Run
from actguard.events import BudgetBlocked, Event, LlmUsage, RunEnd, RunStart
from actguard.exceptions import ActGuardMonitoringWarning, MonitoringDegradedError
from actguard.subscription import Handler, Subscription
from actguard.testing import CapturedEvents, HandClock, capture_events

# --- the client -----------------------------------------------------------------------------------------------------

prices = {"m": Price(input_per_mtok="0.1", output_per_mtok=1)}
client = Client(api_key="k", gateway_url="https://gateway.example", timeout_s=3, prices=prices)
assert_type(client, Client)
assert_type(Client.from_file("actguard.json"), Client)
assert_type(Client.from_file(Path("actguard.json")), Client)
assert_type(Client.from_env(), Client)
assert_type(client.flush(), bool)
assert_type(client.stats(), dict[str, int | bool])
assert_type(client.close(), None)


def my_price(provider: str, model: str) -> Price | None:
    return None


Client(on_unpriced=my_price)
Client(on_unpriced="raise")
Client(on_unpriced="ignore")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Client(event_mode="loud")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Client("key")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
client.budget_guard(usd_limit=[1])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
client.budget_guard(on_crossing="ignore")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
client.budget_guard(0.05)  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]


def script() -> None:
    with Client() as inner:
        assert_type(inner, Client)
        with inner.run(user_id="alice") as run:
            assert_type(run, Run)
            assert_type(run.run_id, str)
            assert_type(run.user_id, str | None)
            assert_type(run.get_attempt_count("module:tool"), int)
            with inner.budget_guard(usd_limit="0.05", token_limit=1000) as budget:
                assert_type(budget, BudgetGuard)
                figures(budget)


async def agent() -> None:
    async with Client() as inner:
        assert_type(inner, Client)
        async with inner.run() as run, inner.budget_guard(usd_limit=Decimal("0.05")) as budget:
            assert_type(run, Run)
            assert_type(budget, BudgetGuard)
        assert_type(await inner.aflush(), bool)
        assert_type(await inner.aclose(), None)


def figures(budget: BudgetGuard) -> None:
    assert_type(budget.usd_used, float)
    assert_type(budget.usd_used_exact, Decimal)
    assert_type(budget.usd_remaining, float | None)
    assert_type(budget.usd_limit, float | None)
    assert_type(budget.token_limit, int | None)
    assert_type(budget.tokens_used, int)
    assert_type(budget.cost_used, int)
    assert_type(budget.local_usd_used, float)
    assert_type(budget.root_tokens_used, int)
    assert_type(budget.calls, int)
    assert_type(budget.estimated_usd, float)
    assert_type(budget.run_id, str | None)
    assert_type(budget.name, str | None)
    assert_type(budget.breakdown(), list[BreakdownRow])
    for row in budget.breakdown():
        assert_type(row.usd, Decimal)
        assert_type(row.scope_name, str | None)


def costs() -> None:
    assert_type(actguard.add_cost("maps", 0.01), None)
    actguard.add_cost(name="maps", usd="0.01")
    actguard.add_cost(name="maps", usd=Decimal("0.01"))


# --- errors ---------------------------------------------------------------------------------------------------------


def caught() -> None:
    try:
        costs()
    except BudgetExceededError as error:
        assert_type(error.usd_used, float)
        assert_type(error.usd_limit, float | None)
        assert_type(error.scope_name, str | None)
        assert_type(error.partial, str | None)
        assert_type(error.details, dict[str, Any])
        assert_type(error.to_prompt(), str)
        assert_type(error.retryable, bool)
    except actguard.GuardError as error:
        assert_type(error.code, str)
    except ActGuardMonitoringWarning as warning:
        assert_type(warning.error, MonitoringDegradedError)


# --- events ---------------------------------------------------------------------------------------------------------


async def watch() -> None:
    async with client.bus.subscribe(LlmUsage) as usage:
        assert_type(usage, Subscription[LlmUsage])
        async for event in usage:
            assert_type(event, LlmUsage)
            assert_type(event.usd, Decimal | None)
    async with client.bus.subscribe(RunStart, RunEnd) as runs:
        async for either in runs:
            assert_type(either, RunStart | RunEnd)
    async with client.bus.subscribe() as everything:
        async for any_event in everything:
            assert_type(any_event, Event)
            assert_type(any_event.kind, str)


def watch_in_a_script() -> None:
    with client.bus.subscribe(LlmUsage, queue_size=10) as usage:
        for event in usage:
            assert_type(event, LlmUsage)
        assert_type(usage.pending(), list[LlmUsage])
    with client.bus.subscribe(RunStart, RunEnd, BudgetBlocked) as many:
        assert_type(many, Subscription[Event])


def on_usage(event: LlmUsage) -> None: ...


async def on_usage_later(event: LlmUsage) -> None: ...


assert_type(client.bus.add_handler(on_usage, LlmUsage), Handler)
assert_type(client.bus.add_handler(on_usage_later, LlmUsage), Handler)
client.bus.subscribe(int)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType, reportCallIssue]


# --- context --------------------------------------------------------------------------------------------------------


def add(one: int, two: str = "") -> float:
    return float(one)


async def add_later(one: int) -> float:
    return float(one)


assert_type(actguard.carry(add)(1, two="x"), float)
actguard.carry(add)("one")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
later: Callable[[int], Coroutine[Any, Any, float]] = actguard.carry(add_later)
assert_type(actguard.carry(ThreadPoolExecutor()), Executor)


# --- tests of users -------------------------------------------------------------------------------------------------


def in_a_test() -> None:
    with capture_events(client, LlmUsage) as usage:
        assert_type(usage, CapturedEvents[LlmUsage])
        assert_type(usage[0], LlmUsage)
    with capture_events(client) as events:
        assert_type(events, CapturedEvents[Event])
        assert_type(events.of(LlmUsage), list[LlmUsage])
        assert_type(events.kinds, list[str])
    with HandClock() as clock:
        assert_type(clock, HandClock)
        assert_type(clock.elapsed, float)
