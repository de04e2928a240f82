"""A budget around an async agent: spending stops at the limit, and the answer that was paid for is not lost.

Run it:    python examples/async_budget.py        (offline: a scripted provider on this machine)
For real:  use `openai.AsyncOpenAI()` in place of `provider.async_openai()`, and set OPENAI_API_KEY.
"""

from __future__ import annotations

import asyncio

from openai import AsyncOpenAI

import actguard
from actguard.testing import Answer, LoopbackProvider

TOWNS = ("Oslo", "Porto", "Turin", "Ghent", "Gdansk")


async def agent(openai: AsyncOpenAI) -> None:
    """Your agent, as it is: it knows nothing of budgets."""
    for town in TOWNS:
        completion = await openai.chat.completions.create(
            model="gpt-5.4-mini", messages=[{"role": "user", "content": f"Three sights of {town}, in one line each."}]
        )
        print(f"{town}: {completion.choices[0].message.content}")


async def main() -> None:
    paid = Answer(text="a church, a museum, a park", input_tokens=900, output_tokens=240)  # 0.001755 USD
    async with LoopbackProvider(default=paid) as provider, actguard.Client() as client:
        try:
            async with client.run(user_id="alice"), client.budget_guard(usd_limit="0.005") as budget:
                await agent(provider.async_openai())
        except actguard.BudgetExceededError as full:
            print(f"\nStopped: {full}")
            print(f"The answer that crossed the limit: {full.response.choices[0].message.content}")
        print(f"{budget.calls} calls for {budget.usd_used} USD; {budget.usd_remaining} USD are left.")


asyncio.run(main())
