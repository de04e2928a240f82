"""Your own telemetry: subscribe to typed events, and the guarded code neither knows nor waits.

Three ways: `async for` in a task, a handler on ActGuard's own thread, and an event of your own on the same bus.

Run it:    python examples/telemetry_subscriber.py   (offline: a scripted provider on this machine)
For real:  use `openai.AsyncOpenAI()` in place of `provider.async_openai()`, and set OPENAI_API_KEY.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import actguard
from actguard.events import BudgetBlocked, CustomEvent, LlmUsage, RunEnd
from actguard.testing import Answer, LoopbackProvider


async def agent(client: actguard.Client, provider: LoopbackProvider) -> None:
    openai = provider.async_openai()
    for model in ("gpt-5.4-nano", "gpt-5.4-mini", "gpt-5.4", "gpt-5.4"):
        await openai.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hello"}])
        client.bus.publish(CustomEvent(category="shop", name="greeted", payload={"by": model}))


async def print_as_it_happens(client: actguard.Client, ready: asyncio.Event) -> None:
    async with client.bus.subscribe(LlmUsage, BudgetBlocked, CustomEvent) as events:
        ready.set()
        async for event in events:  # ends when the client is closed
            match event:
                case LlmUsage():
                    print(
                        f"  {event.kind}: {event.model}, {event.input_tokens} tokens in, {event.usd_micros} millionths"
                    )
                case BudgetBlocked():
                    print(f"  {event.kind}: {event.usd_used} of {event.usd_limit} USD")
                case CustomEvent():
                    print(f"  {event.kind}: {event.payload}")


async def main() -> None:
    totals: Counter[str] = Counter()
    hi = Answer(text="Hi!", input_tokens=700, output_tokens=90)
    async with LoopbackProvider(default=hi) as provider, asyncio.TaskGroup() as tasks, actguard.Client() as client:
        client.bus.add_handler(lambda event: totals.update([f"{event.kind} {event.outcome}"]), LlmUsage, RunEnd)
        tasks.create_task(print_as_it_happens(client, ready := asyncio.Event()))
        await ready.wait()
        try:
            async with client.run(), client.budget_guard(usd_limit="0.004"):
                await agent(client, provider)
        except actguard.BudgetExceededError:
            print("  (the budget has ended the run)")
    for kind, count in totals.items():
        print(f"{count} × {kind}")


asyncio.run(main())
