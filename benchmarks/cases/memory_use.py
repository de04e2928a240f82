"""Memory, in fresh processes."""

from __future__ import annotations

import contextvars
import gc
import tracemalloc
from typing import Any

import actguard

CLIENT = actguard.Client()


def open_runs() -> Any:
    """Bytes for each of so many runs with a budget scope that are open at once, as tracemalloc counts them."""

    def open_one(scopes: Any) -> None:
        run = CLIENT.run()
        run.__enter__()
        budget = CLIENT.budget_guard(usd_limit=1)
        budget.__enter__()
        scopes += (run, budget)

    def block(count: int) -> float:
        contexts = [contextvars.Context() for _ in range(count)]
        scopes: list[list[Any]] = [[] for _ in range(count)]
        first: list[Any] = []
        contextvars.Context().run(open_one, first)
        first[1].wait_ready()  # the price list, once for all runs, is not what is measured
        tracemalloc.start()
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for context, mine in zip(contexts, scopes, strict=True):
            context.run(open_one, mine)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        for context, mine in zip(contexts, scopes, strict=True):
            for scope in reversed(mine):
                context.run(scope.__exit__, None, None, None)
        return taken / count

    return block


def resident_bytes() -> int:
    """The resident memory of this process."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * 4096


def guarded_calls() -> Any:
    """Growth of resident memory in bytes over so many calls under all five guards, in runs of 1,000 calls."""

    @actguard.tool(
        idempotent={},
        max_attempts={"calls": 10**9},
        circuit_breaker={"name": "bench-memory"},
        rate_limit={"max_calls": 10_000, "period": 0.05, "on_limit": "wait", "scope": "user"},
    )
    def tool(user: str, *, idempotency_key: str) -> int:
        return 1

    def block(count: int) -> float:
        def calls(runs: int) -> None:
            for run in range(runs):
                with CLIENT.run():
                    for number in range(1000):
                        tool(f"user-{run}", idempotency_key=f"{number}")

        calls(max(20, count // 10_000))
        gc.collect()
        before = resident_bytes()
        calls(count // 1000)
        gc.collect()
        return resident_bytes() - before

    return block
