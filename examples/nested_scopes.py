"""A scope inside a scope: a sub-agent with a cap of its own is stopped, and the agent around it goes on.

A call is charged to its scope and to every scope around it, so a nested cap can only be stricter. The error names
the scope that is full: that is how the outer agent knows whether to go on.

Run it:    python examples/nested_scopes.py       (offline: a scripted provider on this machine)
For real:  use `openai.OpenAI()` in place of `provider.openai()`, and set OPENAI_API_KEY.
"""

from __future__ import annotations

from openai import OpenAI

import actguard
from actguard.testing import Answer, LoopbackProvider


def ask(openai: OpenAI, text: str) -> str:
    completion = openai.chat.completions.create(model="gpt-5.4-mini", messages=[{"role": "user", "content": text}])
    return completion.choices[0].message.content or ""


def research(client: actguard.Client, openai: OpenAI) -> str:
    """A sub-agent that never comes to an end."""
    with client.budget_guard(name="research", usd_limit="0.01") as budget:
        try:
            while True:
                ask(openai, "Have another look.")
                print(f"  research: {budget.usd_used:.6f} of {budget.usd_limit} USD")
        except actguard.BudgetExceededError as full:
            if full.scope_id != budget.scope_id:
                raise  # the scope around this one is full: nothing goes on
            return full.to_prompt()  # one line that tells the model what happened and what to do


def main() -> None:
    hm = Answer(text="Hm.", input_tokens=1_500, output_tokens=400)
    with LoopbackProvider(default=hm) as provider, actguard.Client() as client:
        openai = provider.openai()
        with client.run(), client.budget_guard(name="ticket", usd_limit="0.05") as ticket:
            ask(openai, "What do we know?")
            told = research(client, openai)
            print(f"the outer agent is told: {told}")
            ask(openai, f"Answer the customer. Research said: {told}")
        for row in ticket.breakdown():
            print(f"{row.scope_name:10} {row.model:14} {row.calls} calls {row.usd:.6f} USD")
        print(f"{'total':10} {ticket.usd_used:.6f} of {ticket.usd_limit} USD")


main()
