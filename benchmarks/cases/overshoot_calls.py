"""Many calls at once through the OpenAI SDK, inside one budget scope, each task calling until it is refused.

Who serves them keeps the bill. ActGuard 1.0.2 limits nothing but cost units by a gateway's tariff, so that is where the
two are compared, at one cost unit for a token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx2
import openai

import actguard
from actguard.exceptions import BudgetExceededError

QUESTION: Any = [{"role": "user", "content": "What is the weather like in Paris today?"}]
MOST_CALLS = 400
"""Of one task: where a limit stops nobody, something has to."""


def crowd(
    url: str, stream: bool, limits: dict[str, Any], asked: dict[str, Any], gateway: str | None = None
) -> Callable[[int], dict[str, int]]:
    """A block ``(tasks)``: so many tasks call until they are refused.

    Returns how many calls came back, were refused, and ended in another error.
    """
    client = actguard.Client(gateway_url=gateway, api_key="none", event_mode="off") if gateway else actguard.Client()

    async def call(api: openai.AsyncOpenAI, counts: dict[str, int]) -> None:
        for _ in range(MOST_CALLS):
            try:
                answer: Any = await api.chat.completions.create(
                    model="gpt-4o-mini", messages=QUESTION, stream=stream, **asked
                )
                if stream:
                    async for _chunk in answer:
                        pass
            except BudgetExceededError:
                counts["refused"] += 1
                return
            except Exception:
                counts["failed"] += 1
                return
            counts["answered"] += 1

    async def together(tasks: int) -> dict[str, int]:
        counts = {"answered": 0, "refused": 0, "failed": 0}
        http = httpx2.AsyncClient(limits=httpx2.Limits(max_connections=None), timeout=120, verify=False)
        api = openai.AsyncOpenAI(api_key="none", base_url=url, max_retries=0, http_client=http)
        async with api, client.run(), client.budget_guard(**limits):
            await asyncio.gather(*(call(api, counts) for _ in range(tasks)))
        return counts

    return lambda tasks: asyncio.run(together(tasks))
