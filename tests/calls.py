"""Provider calls without a provider: admitted to a budget scope and charged as an integration does it."""

from __future__ import annotations

from typing import Any

from actguard.exceptions import BudgetExceededError
from actguard.guards.admission import Asked
from actguard.guards.budget import BudgetGuard
from actguard.guards.charging import Ticket
from actguard.money.usage import Usage

DOLLAR = 1_000_000
"""Input tokens that cost one dollar with the prices of the `client` fixture."""
CENT = 10_000


def used(tokens: int, output: int = 0, **buckets: Any) -> Usage:
    return Usage(uncached_input_tokens=tokens, output_tokens=output, **buckets)


def admitted(budget: BudgetGuard, tokens: int = 0, *, output: int = 0, model: str = "m", **asked: Any) -> Ticket:
    """A call under way that is expected to use ``tokens`` input and ``output`` output tokens."""
    return budget.admit(Asked("test", model, "test", estimate=used(tokens), output_limit=output, **asked))


def charged(budget: BudgetGuard, tokens: int = 0, output: int = 0, *, model: str = "m", **buckets: Any) -> None:
    """A whole call, which raises when it crosses a limit.

    Raises:
        BudgetExceededError: as the call of an SDK would.
    """
    error = crossing(budget, tokens, output, model=model, **buckets)
    if error is not None:
        raise error


def crossing(
    budget: BudgetGuard, tokens: int = 0, output: int = 0, *, model: str = "m", **buckets: Any
) -> BudgetExceededError | None:
    """A whole call; the error when it crosses a limit."""
    return admitted(budget, tokens, model=model).charge(used(tokens, output, **buckets))
