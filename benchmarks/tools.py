"""Guarded tools against ActGuard 1.0.2 (the same code in both, each in its own process)."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.compare import alternately, ratio, workers
from benchmarks.figures import Figure

SINGLE = {
    "rate_limit": (0.60, 0.60),
    "rate_limit, scope": (0.30, 0.30),
    "circuit_breaker": (0.75, 0.60),
    "max_attempts": (0.60, 0.60),
    "timeout": (0.75, 0.60),
    "idempotent": (0.60, 0.60),
    "prove": (0.60, 0.60),
    "enforce": (0.60, 0.60),
}
"""Targets, sync and async."""
FLOORS = {"bare": "the bare function", "name only": "a wrapper that keeps the name of the tool and does nothing else"}
ROWS = {"tool, five guards": (0.70, 0.40), **SINGLE}


def main(quick: bool) -> Iterator[Figure]:
    rounds = 7 if quick else 41
    with workers("now", "earlier") as (now, earlier):
        for is_async in (True, False):
            kind = "async" if is_async else "sync"
            for floor, what in FLOORS.items():
                (series,) = alternately([now.case("tool_calls:guarded", guard=floor, is_async=is_async)], rounds)
                low, high = min(series.rounds) * 1e6, max(series.rounds) * 1e6
                yield Figure(f"{kind}: {what}", series.us, "µs", low, high)
            for guard, targets in ROWS.items():
                cases = [worker.case("tool_calls:guarded", guard=guard, is_async=is_async) for worker in (now, earlier)]
                ours, theirs = alternately(cases, rounds)
                yield ratio(f"{kind}: {guard} / actguard 1.0.2", ours, theirs, targets[is_async])
                for case in cases:
                    case.drop()
