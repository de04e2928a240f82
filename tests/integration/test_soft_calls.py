"""Soft limits around the real SDK clients: many calls at once use the limit, and go over it by one call at the most."""

from __future__ import annotations

import asyncio
import threading
from decimal import Decimal

import pytest
from spending import spending

from actguard import carry
from actguard.exceptions import BudgetExceededError
from actguard.testing import Answer, LoopbackProvider

INPUT = 1_000
QUESTIONS = {"all that is billed": "How " * INPUT, "little of it": "How?"}
"""What the request shows of its input."""


def price(output: int) -> Decimal:
    """What a call of gpt-4o-mini costs."""
    return (INPUT * Decimal("0.15") + output * Decimal("0.60")) / 10**6


def provider_of(output: int) -> LoopbackProvider:
    return LoopbackProvider(default=Answer(text="Fine.", input_tokens=INPUT, output_tokens=output))


@pytest.mark.parametrize("shown", QUESTIONS)
@pytest.mark.parametrize("output", [20, 1_500])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_two_hundred_tasks_with_a_model_that_nobody_knows_yet(stream: bool, output: int, shown: str) -> None:
    one, messages = price(output), [{"role": "user", "content": QUESTIONS[shown]}]
    with provider_of(output) as provider, spending(usd_limit=100 * one, on_crossing="return") as budget:
        async with provider.async_openai() as client:

            async def call() -> None:
                answer = await client.chat.completions.create(model="gpt-4o-mini", messages=messages, stream=stream)
                if stream:
                    async for _ in answer:
                        pass

            outcomes = await asyncio.gather(*(call() for _ in range(200)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if outcome is not None]
    assert {type(outcome) for outcome in refused} == {BudgetExceededError}
    assert 60 * one <= budget.usd_used_exact <= 101 * one
    assert len(outcomes) - len(refused) == budget.calls


@pytest.mark.parametrize("shown", QUESTIONS)
@pytest.mark.parametrize("output", [20, 1_500])
def test_threads_with_a_model_that_nobody_knows_yet(output: int, shown: str) -> None:
    one, messages = price(output), [{"role": "user", "content": QUESTIONS[shown]}]
    with (
        provider_of(output) as provider,
        provider.openai() as client,
        spending(usd_limit=20 * one, on_crossing="return") as budget,
    ):

        def calls() -> None:
            for _ in range(4):
                try:
                    client.chat.completions.create(model="gpt-4o-mini", messages=messages)
                except BudgetExceededError:
                    return

        threads = [threading.Thread(target=carry(calls)) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert 12 * one <= budget.usd_used_exact <= 21 * one
