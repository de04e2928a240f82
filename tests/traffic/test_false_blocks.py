"""No recorded call that fits its budget is refused, or cut while it streams: each soft limit is just above the cost."""

from __future__ import annotations

import asyncio
import itertools
from decimal import Decimal

import pytest
from traffic.harness import AT_ONCE, HELPER_ERRORS, Kind, Mode, Row, Traffic, known_differences, scope, search_fee

pytestmark = [
    pytest.mark.filterwarnings("ignore:The model '.*' is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The Assistants API is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::actguard.exceptions.ActGuardMonitoringWarning"),
]
MICRO = Decimal("0.000001")


def costs(recorded: Traffic, provider: str) -> list[tuple[Row, Decimal]]:
    """The exchanges that cost something known, and that cost.

    Where a provider bills nothing for an answer that it broke off itself, a stream of it cannot know that in time.
    """
    known = known_differences()
    found = []
    for row in recorded.rows(provider):
        expected = recorded.expected[row["id"]]
        if float(expected["cost_usd"] or 0) > 0 and not expected.get("ambiguous") and row["id"] not in known:
            found.append((row, Decimal(expected["cost_usd"]) + search_fee(row, expected)))
    return found


def is_wrong(error: Exception | None) -> bool:
    """True for an error that a helper of the SDK would not raise over this answer by itself."""
    return error is not None and type(error).__name__ not in HELPER_ERRORS


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(
    ("provider", "mode"),
    [("google", "create"), *itertools.product(("anthropic", "openai"), ("create", "raw", "helper"))],
)
async def test_each_recorded_call_fits_a_limit_of_its_own_cost(
    recorded: Traffic, provider: str, kind: Kind, mode: Mode
) -> None:
    blocked: dict[str, str] = {}
    done: list[str] = []
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(row: Row, cost: Decimal) -> None:
        async with slots:
            try:
                counted, error = await recorded.count(row, kind, mode, cost + MICRO)
            except NotImplementedError:
                return
        done.append(row["id"])
        if is_wrong(error) or counted.usd != cost or counted.estimated:
            blocked[row["id"]] = f"{error!r}: {counted} instead of {cost}"

    async with asyncio.TaskGroup() as group:
        for row, cost in costs(recorded, provider):
            group.create_task(one(row, cost))
    assert done
    assert not blocked, "\n".join(f"{key}: {why}" for key, why in sorted(blocked.items()))


@pytest.mark.parametrize("provider", ["anthropic", "google", "openai"])
async def test_all_recorded_calls_fit_a_limit_of_what_they_cost_together(recorded: Traffic, provider: str) -> None:
    known = costs(recorded, provider)
    total = sum(cost for _, cost in known)
    with scope(total + MICRO) as budget:
        for row, _ in known:
            error = await recorded.call(row, "async", "create")
            assert not is_wrong(error), f"{row['id']}: {error!r}"
    assert budget.usd_used_exact == total
    assert budget.calls == len(known) > 50
