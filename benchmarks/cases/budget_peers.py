"""Counting the cost of one call with other budget libraries: what they do beside the call itself."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

from timed import Block, sync_block

MODEL = "gpt-4o"
ANSWER = SimpleNamespace(model=MODEL, usage=SimpleNamespace(prompt_tokens=120, completion_tokens=80, total_tokens=200))


def _agentbudget() -> Block:
    from agentbudget import AgentBudget

    # Its loop detection would end the block: 1,000 calls of one model are no loop here.
    session = AgentBudget(10**9, max_repeated_calls=10**9).session()
    session.__enter__()
    return sync_block(lambda: session.wrap(ANSWER))


def _floe_guard() -> Block:
    from floe_guard import BudgetGuard

    guard = BudgetGuard(limit_usd=10**9)

    def call() -> None:
        guard.check()
        guard.record(MODEL, ANSWER.usage.prompt_tokens, ANSWER.usage.completion_tokens)

    return sync_block(call)


def _agentguard() -> Block:
    from agentguard import BudgetGuard
    from agentguard.cost import estimate_cost

    guard = BudgetGuard(max_cost_usd=1e9)

    def call() -> None:
        guard.check()
        guard.consume(tokens=200, calls=1, cost_usd=estimate_cost(MODEL, 120, 80, provider="openai"))

    return sync_block(call)


PEERS: dict[str, Callable[[], Block]] = {
    "agentbudget": _agentbudget,
    "floe-guard": _floe_guard,
    "agentguard47": _agentguard,
}


def peer(name: str) -> Block:
    """What one call costs in another library."""
    return PEERS[name]()
