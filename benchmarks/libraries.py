"""Rate limits and breakers against other libraries, in memory, in one process."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import peers
from benchmarks.compare import Case, Worker, alternately, ratio, workers
from benchmarks.figures import Absent, Figure, Result

AGAINST = {
    "rate_limit": {"pyrate-limiter": 0.35, "limits": 0.60, "agentguard47": None},
    "circuit_breaker": {"purgatory": 1.0, "aiobreaker": 1.0, "pybreaker": 1.0, "tenacity": None, "stamina": None},
}
"""Targets. The retry libraries are here because their wrapper sits in the same place; they do something else."""
ONLY_SYNC = {"pybreaker": "its async form needs tornado", "agentguard47": "has no async form"}


def main(quick: bool) -> Iterator[Result]:
    rounds = 7 if quick else 41
    absent = peers.absent()
    for name, why in absent.items():
        yield Absent(name, why)
    with workers("now") as (worker,):
        for guard, targets in AGAINST.items():
            for is_async in (False, True):
                for peer, target in targets.items():
                    if peer in absent or (is_async and peer in ONLY_SYNC):
                        continue
                    yield _against(worker, guard, peer, is_async, target, rounds)
        yield _live_entries(worker, rounds)


def _against(worker: Worker, guard: str, peer: str, is_async: bool, target: float | None, rounds: int) -> Figure:
    cases = [
        worker.case("peer_calls:ours", guard=guard, is_async=is_async),
        worker.case("peer_calls:peer", name=peer, is_async=is_async),
    ]
    ours, theirs = alternately(cases, rounds)
    _drop(cases)
    return ratio(f"{'async' if is_async else 'sync'}: {guard} / {peer}", ours, theirs, target)


def _live_entries(worker: Worker, rounds: int) -> Figure:
    cases = [worker.case("tool_calls:live_entries", entries=entries) for entries in (100_000, 10)]
    many, few = alternately(cases, rounds)
    _drop(cases)
    return ratio("rate_limit with 100,000 live entries / with 10", many, few, 1.2)


def _drop(cases: list[Case]) -> None:
    for case in cases:
        case.drop()
