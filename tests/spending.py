"""A budget to spend from, and what was spent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from actguard.client import Client
from actguard.guards.budget import BudgetGuard


class Spent(NamedTuple):
    """Totals over a scope's breakdown."""

    calls: int
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int


@contextmanager
def spending(**settings: Any) -> Iterator[BudgetGuard]:
    """A run of its own with one budget scope; without settings its limit is too high to matter."""
    with Client() as client, client.run(), client.budget_guard(**(settings or {"usd_limit": 1_000})) as budget:
        yield budget


def spent(budget: BudgetGuard) -> Spent:
    """What the scope and those inside it used."""
    rows = budget.breakdown()
    return Spent(
        sum(row.calls for row in rows),
        sum(row.input_tokens for row in rows),
        sum(row.cached_input_tokens for row in rows),
        sum(row.cache_write_tokens for row in rows),
        sum(row.output_tokens for row in rows),
    )
