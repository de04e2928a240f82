"""A fresh interpreter that makes two calls with an SDK inside a budget, and says as JSON whether they were counted.

    python -m actguard.doctor.probe openai

The SDK is imported when the budget is open, as in most programs it is not. The calls go to a provider on this machine.
"""

from __future__ import annotations

import asyncio
import json
import sys
import warnings
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from actguard.client import Client
from actguard.exceptions import ActGuardMonitoringWarning
from actguard.money.own_prices import Price
from actguard.testing import LoopbackProvider

PRICES = {"*": Price(input_per_mtok=1, output_per_mtok=1)}
"""Of our own, so that no price list has to be loaded."""
MESSAGES: list[Any] = [{"role": "user", "content": "Hello"}]


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    made: int = 0
    """Calls that were answered."""
    counted: int = 0
    """Calls that the budgets counted."""
    warnings: list[str] = field(default_factory=list)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Calls:
    """How one SDK is called."""

    plain: Callable[[LoopbackProvider], object]
    asynchronous: Callable[[LoopbackProvider], Awaitable[object]]


async def _openai(provider: LoopbackProvider) -> object:
    async with provider.async_openai() as client:
        return await client.chat.completions.create(model="probe", messages=MESSAGES)


async def _anthropic(provider: LoopbackProvider) -> object:
    async with provider.async_anthropic() as client:
        return await client.messages.create(model="probe", max_tokens=9, messages=MESSAGES)


async def _google(provider: LoopbackProvider) -> object:
    models = provider.google().aio.models
    return await models.generate_content(model="gemini-probe", contents="Hello")


CALLS = {
    "openai": Calls(lambda it: it.openai().chat.completions.create(model="probe", messages=MESSAGES), _openai),
    "anthropic": Calls(
        lambda it: it.anthropic().messages.create(model="probe", max_tokens=9, messages=MESSAGES), _anthropic
    ),
    "google": Calls(lambda it: it.google().models.generate_content(model="gemini-probe", contents="Hello"), _google),
}


def probe(name: str) -> Outcome:
    """Make the calls. Never raises: what goes wrong is in the outcome."""
    outcome = Outcome()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with LoopbackProvider() as provider, Client(prices=PRICES) as client:
                _plain(client, provider, CALLS[name], outcome)
                asyncio.run(_asynchronous(client, provider, CALLS[name], outcome))
        except Exception as error:  # noqa: BLE001  whatever an SDK does here is what is to be found out
            outcome.error = f"{type(error).__name__}: {error}"
    for each in caught:
        if isinstance(each.message, ActGuardMonitoringWarning):
            outcome.warnings.append(each.message.error.summary)
    return outcome


def _plain(client: Client, provider: LoopbackProvider, calls: Calls, outcome: Outcome) -> None:
    with client.run(), client.budget_guard(usd_limit=1) as budget:
        calls.plain(provider)
        outcome.made += 1
        outcome.counted += budget.calls


async def _asynchronous(client: Client, provider: LoopbackProvider, calls: Calls, outcome: Outcome) -> None:
    async with client.run(), client.budget_guard(usd_limit=1) as budget:
        await calls.asynchronous(provider)
        outcome.made += 1
        outcome.counted += budget.calls


if __name__ == "__main__":
    print(json.dumps(asdict(probe(sys.argv[1]))))
