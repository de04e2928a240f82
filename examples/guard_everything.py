"""All guards in one `@tool`, on a plain function and a coroutine, with what operators see of it.

Run it:    python examples/guard_everything.py    (offline)
"""

from __future__ import annotations

import asyncio
import time

import actguard
from actguard import ToolCall
from actguard.events import GuardBlocked, GuardIntervention, ToolFailure, ToolInvoke


def no_weekends(call: ToolCall) -> str:
    return "deny" if call.arguments.get("day") == "sunday" else "allow"


guards = actguard.tool(
    # They run in this order, whatever order they are written in.
    idempotent={"ttl_s": 600},
    max_attempts={"calls": 6},
    policy=no_weekends,
    circuit_breaker={"name": "warehouse", "max_fails": 2, "reset_timeout": 30},
    rate_limit={"max_calls": 4, "period": 60, "scope": "customer"},
    timeout=0.5,
)


@guards
async def order(customer: str, item: str, day: str = "monday", *, idempotency_key: str) -> str:
    """Order an item."""
    await asyncio.sleep(5 if item == "piano" else 0)
    return f"{item} for {customer}"


@guards
def reserve(customer: str, item: str, *, idempotency_key: str) -> str:
    """A plain function: it runs in a worker thread, because it has a deadline."""
    time.sleep(5 if item == "piano" else 0)
    return f"{item} reserved for {customer}"


async def attempt(call: object) -> None:
    try:
        print("  ", await call if asyncio.iscoroutine(call) else call())  # type: ignore[operator]
    except actguard.ActGuardToolError as refused:
        print("  ", refused.to_prompt())


async def main() -> None:
    async with actguard.Client() as client:
        with client.bus.subscribe(GuardBlocked, GuardIntervention, ToolFailure, ToolInvoke) as events:
            async with client.run(user_id="alice"):
                await attempt(order("alice", "tea", idempotency_key="1"))
                await attempt(order("alice", "tea", idempotency_key="1"))  # the stored result
                await attempt(order("alice", "tea", "sunday", idempotency_key="2"))
                await attempt(order("alice", "piano", idempotency_key="3"))  # too slow
                await attempt(lambda: reserve("alice", "piano", idempotency_key="4"))  # too slow: the breaker opens
                await attempt(lambda: reserve("alice", "cup", idempotency_key="5"))
                for key in ("6", "7", "8"):
                    await attempt(order("alice", "cup", idempotency_key=key))
            print("what operators see:")
            for event in events.pending():
                print("  ", event.kind, event.tool_name.partition(":")[2], getattr(event, "guard_name", ""))


asyncio.run(main())
