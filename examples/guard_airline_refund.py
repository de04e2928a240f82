"""A refund that must be refused: the chain of custody of an airline's agent.

The model wants money back for a booking that nobody has looked up, for one of another customer, for too much, twice.
Each time the tool does not run, and the model is told in one line what to do instead.

Run it:    python examples/guard_airline_refund.py    (offline)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import actguard
from actguard import CumulativeLimit, RequireCall, RequireFact, Threshold

BOOKINGS = {"alice": ["KX7PQ2", "M3LLA9"], "bob": ["ZZ9YY8"]}
refunded: list[str] = []


@actguard.prove("booking", extract="reference")
def find_bookings(customer: str) -> list[dict[str, str]]:
    """What this tool returns is known to be true: its references may be used by `refund`."""
    return [{"reference": reference} for reference in BOOKINGS[customer]]


@actguard.tool
def check_identity(passport: str) -> str:
    return "verified"


@actguard.enforce(
    [
        RequireCall("check_identity", hint="Check the customer's passport first."),
        RequireFact("booking.reference", kind="booking", hint="Call find_bookings first.", consume=True),
        Threshold("booking.amount", max=500, min=0),
        CumulativeLimit("booking.amount", max=800),
    ]
)
def refund(booking: dict[str, Any]) -> str:
    refunded.append(booking["reference"])
    return f"{booking['amount']} EUR for {booking['reference']}"


def attempt(tool: Callable[..., Any], *arguments: Any) -> None:
    try:
        print(f"{'done':26}{tool(*arguments)}")
    except actguard.GuardError as refused:
        print(f"{refused.code:26}{refused.to_prompt()}")


with actguard.session("chat-alice", scope={"airline": "acme"}):
    attempt(refund, {"reference": "KX7PQ2", "amount": 120})
    attempt(check_identity, "P123")
    attempt(refund, {"reference": "QQ1QQ1", "amount": 120})  # made up
    attempt(find_bookings, "alice")
    attempt(refund, {"reference": "ZZ9YY8", "amount": 120})  # somebody else's
    attempt(refund, {"reference": "KX7PQ2", "amount": 5_000})
    attempt(refund, {"reference": "KX7PQ2", "amount": 450})
    attempt(refund, {"reference": "KX7PQ2", "amount": 10})  # a second time
    attempt(refund, {"reference": "M3LLA9", "amount": 400})  # 850 in all
    attempt(refund, {"reference": "M3LLA9", "amount": 350})

with actguard.session("chat-mallory", scope={"airline": "acme"}):
    attempt(check_identity, "P666")
    attempt(refund, {"reference": "M3LLA9", "amount": 1})  # known to another session only

print("refunded:", refunded)
