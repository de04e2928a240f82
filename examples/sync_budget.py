"""The same in a plain script: `with` in place of `async with`. Here the limit is in tokens, and nothing raises.

With `on_crossing="return"` the call that reaches the limit hands its answer back as usual; the next one is refused
before it is sent, so it costs nothing.

Run it:    python examples/sync_budget.py         (offline: a scripted provider on this machine)
For real:  use `anthropic.Anthropic()` in place of `provider.anthropic()`, and set ANTHROPIC_API_KEY.
"""

from __future__ import annotations

from anthropic import Anthropic

import actguard
from actguard.testing import Answer, LoopbackProvider


def ask(anthropic: Anthropic, question: str) -> str:
    message = anthropic.messages.create(
        model="claude-haiku-4-5", max_tokens=300, messages=[{"role": "user", "content": question}]
    )
    return "".join(block.text for block in message.content if block.type == "text")


def main() -> None:
    reply = Answer(text="Forty-two.", input_tokens=400, output_tokens=120)
    with LoopbackProvider(default=reply) as provider, actguard.Client() as client:
        anthropic = provider.anthropic()
        with client.run(), client.budget_guard(token_limit=1_000, on_crossing="return") as budget:
            for number in range(1, 5):
                try:
                    answer = ask(anthropic, f"Question {number}: how many?")
                except actguard.BudgetExceededError as full:
                    print(f"question {number}: refused. {full}")
                else:
                    print(f"question {number}: {answer} ({budget.tokens_used} of {budget.token_limit} tokens used)")
        print(f"The provider has billed {provider.billed.total_tokens} tokens in {provider.billed.calls} calls.")


main()
