"""Memory: what an open run takes, and what a million calls leave behind."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.compare import workers
from benchmarks.figures import Figure

OPEN_RUNS = 10_000


def main(quick: bool) -> Iterator[Figure]:
    with workers("now") as (worker,):
        taken = worker.case("memory_use:open_runs").run(OPEN_RUNS) / 1000
        yield Figure(f"memory of an open run with a budget scope, {OPEN_RUNS:,} at once", taken, "kB", target=3.0)
    calls = 100_000 if quick else 1_000_000
    with workers("now") as (worker,):
        grown = worker.case("memory_use:guarded_calls").run(calls) / 1e6
        yield Figure(f"resident memory after {calls:,} guarded calls: growth", grown, "MB", target=2.0)
