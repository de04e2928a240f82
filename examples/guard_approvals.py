"""Approvals: a policy lets small things pass, forbids some, and asks a human in the terminal about the rest.

Run it:    python examples/guard_approvals.py    (offline; without a terminal a scripted human answers)
"""

from __future__ import annotations

import asyncio
import sys

import actguard
from actguard import Ask, Deny, ToolCall
from actguard.events import ApprovalRequested


def policy(call: ToolCall) -> str | Ask | Deny:
    """What the owner of this agent allows."""
    amount = call.arguments["amount"]
    if amount > 1_000:
        return Deny("Payments over 1,000 EUR are made by people.")
    return "allow" if amount <= 50 else Ask(f"{amount} EUR is more than 50")


@actguard.tool(policy={"check": policy, "ask_timeout_s": 60})
async def pay(to: str, amount: int) -> str:
    return f"{amount} EUR paid to {to}"


def approve(request: ApprovalRequested) -> bool | str:
    """Runs in the background while the agent waits. True allows; False, or a reason, denies."""
    question = f"{request.tool_name} wants {dict(request.arguments)} ({request.reason}). Allow? [y/N] "
    if sys.stdin is not None and sys.stdin.isatty():
        return input(question).strip().lower() == "y"
    answer = "y" if request.arguments["to"] == "Alice" else "n"
    print(f"{question}{answer}")
    return answer == "y" or "Ask Carol about payments to strangers."


async def main() -> None:
    async with actguard.Client() as client:
        client.bus.add_answerer(approve, ApprovalRequested)
        async with client.run(user_id="carol"):
            for to, amount in (("Bob", 20), ("Alice", 200), ("Mallory", 900), ("Bob", 5_000)):
                try:
                    print(await pay(to, amount))
                except actguard.GuardError as refused:
                    print(refused.to_prompt())
        client.bus.remove_answerer(ApprovalRequested)
        async with client.run():
            try:
                await pay("Alice", 200)
            except actguard.GuardError as refused:
                print(f"nobody there: {refused}")


asyncio.run(main())
