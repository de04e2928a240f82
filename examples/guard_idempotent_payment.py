"""A payment that is made once, however often the agent asks for it.

Run it:    python examples/guard_idempotent_payment.py    (offline)
"""

from __future__ import annotations

import asyncio

import actguard
from actguard.exceptions import IdempotencyKeyReused, IdempotencyOutcomeUnknown, ToolTimeoutError

ledger: list[str] = []


class CardDeclined(Exception):
    """The bank says no: nothing was paid, and the same payment may be tried again."""


@actguard.tool(idempotent={"safe_exceptions": (CardDeclined,), "on_in_progress": "wait"}, timeout=0.2)
async def pay(invoice: str, amount: int, *, card: str = "visa", idempotency_key: str) -> str:
    if card == "expired":
        raise CardDeclined
    await asyncio.sleep(5 if card == "slow" else 0.01)
    ledger.append(f"{invoice}: {amount} EUR")
    return f"receipt {len(ledger)}"


async def main() -> None:
    client = actguard.Client()
    async with client, client.run():
        # The model asks three times at once, and once more later: one payment, one receipt.
        print(await asyncio.gather(*(pay("INV-1", 40, idempotency_key="inv-1") for _ in range(3))))
        print(await pay("INV-1", 40, idempotency_key="inv-1"), "again")

        # It changes the amount and keeps the key.
        try:
            await pay("INV-1", 400, idempotency_key="inv-1")
        except IdempotencyKeyReused as refused:
            print("refused:", refused.to_prompt())

        # A declined card frees the key; a call that was given up half-way does not.
        try:
            await pay("INV-2", 7, card="expired", idempotency_key="inv-2")
        except CardDeclined:
            print("declined, then", await pay("INV-2", 7, idempotency_key="inv-2"))
        try:
            await pay("INV-3", 9, card="slow", idempotency_key="inv-3")
        except ToolTimeoutError as late:
            print("late:   ", late.to_prompt())
        try:
            await pay("INV-3", 9, card="slow", idempotency_key="inv-3")
        except IdempotencyOutcomeUnknown as refused:
            print("refused:", refused.to_prompt())
    print(ledger)


asyncio.run(main())
