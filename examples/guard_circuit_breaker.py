"""A circuit breaker: a dependency that keeps failing is left alone, then tried with a single call.

Run it:    python examples/guard_circuit_breaker.py    (offline)
"""

from __future__ import annotations

import asyncio

import actguard
from actguard.exceptions import CircuitOpenError

down = {"crm"}
"""What does not work at the moment."""

crm = actguard.circuit_breaker("crm", max_fails=3, reset_timeout=0.3)
"""All tools that name "crm" share this breaker."""


@crm
async def find_customer(email: str) -> dict[str, str]:
    if "crm" in down:
        raise ConnectionError("the CRM does not answer")
    return {"email": email, "name": "Alice"}


@crm
async def update_customer(email: str, name: str) -> str:
    return f"{email} is now called {name}"


async def attempt(call: object) -> None:
    try:
        print(await call)  # type: ignore[misc]
    except CircuitOpenError as refused:
        print("refused:", refused.to_prompt())
    except ConnectionError as error:
        print("failed: ", error)


async def main() -> None:
    for _ in range(3):
        await attempt(find_customer("alice@example.com"))
    await attempt(update_customer("alice@example.com", "Alicia"))  # the other tool is not even tried

    await asyncio.sleep(0.35)
    await attempt(find_customer("alice@example.com"))  # the probe fails: open again
    await attempt(find_customer("alice@example.com"))

    down.clear()
    await asyncio.sleep(0.35)
    await attempt(find_customer("alice@example.com"))  # the probe succeeds: closed
    await attempt(update_customer("alice@example.com", "Alicia"))


asyncio.run(main())
