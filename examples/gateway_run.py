"""A run with a gateway: its budget is reserved there before it starts and settled there when it ends.

The limit comes from the gateway, which grants Alice two cents. Bob's account is empty: the gateway answers 402, and his
run ends before anything is spent. Events are exported in the background; closing the client delivers the last ones.

Run it:    python examples/gateway_run.py        (offline: gateway and provider are both on this machine)
For real:  give `actguard.Client` the address of your gateway and your key; in place of `provider.openai()` use
           `openai.OpenAI()`, and set OPENAI_API_KEY.
"""

from __future__ import annotations

from openai import OpenAI

import actguard
from actguard.testing import Answer, LoopbackProvider
from actguard.testing.gateway import Fault, LoopbackGateway

EMPTY = Fault(
    status=402,
    body={
        "user_message": "Your balance is 0.00 USD.",
        "current_balance": 0,
        "required_amount": 0.02,
        "topup_url": "https://gateway.example/topup",
    },
)


def support(client: actguard.Client, openai: OpenAI, user: str) -> None:
    """An agent that asks until its budget is used up."""
    with client.run(user_id=user), client.budget_guard(name="ticket", plan_key="support") as budget:
        print(f"{user}: the gateway grants {budget.usd_limit} USD")
        try:
            while True:
                openai.chat.completions.create(model="gpt-5.4-mini", messages=[{"role": "user", "content": "Next?"}])
                print(f"  {budget.usd_used:.6f} USD used")
        except actguard.BudgetExceededError as full:
            print(f"  stopped: {full}")


def main() -> None:
    reply = Answer(text="The next step is …", input_tokens=2_000, output_tokens=1_200)
    with (
        LoopbackProvider(default=reply) as provider,
        LoopbackGateway(grants={"usd_limit_micros": 20_000}) as gateway,
    ):
        with actguard.Client(gateway_url=gateway.url, api_key=gateway.api_key) as client:
            openai = provider.openai()
            support(client, openai, "alice")
            gateway.fail("reserve", EMPTY)
            try:
                support(client, openai, "bob")
            except actguard.ActGuardPaymentRequired as payment:
                print(f"bob: {payment.user_message} Top up here: {payment.topup_url}")
        print("what the gateway has in its books:")
        for reservation in gateway.reservations:
            (settlement,) = reservation.settlements
            print(
                f"  {reservation.reserve_id} for {reservation.body['user_id']}, plan {reservation.body['plan_key']}: "
                f"settled with {len(settlement['usage_breakdown'])} calls, {settlement['input_tokens']} tokens in, "
                f"{settlement['output_tokens']} out"
            )
        print("what its operators have seen:")
        for event in gateway.events:
            kind = f"{event['category']}.{event['name']}"
            print(f"  {kind:15} {event['user_id']:6} {event['outcome'] or 'begins'}")


main()
