"""How cost grows: with nested scopes, concurrent tasks, live keys and subscribers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.compare import Worker, alternately, workers
from benchmarks.figures import Curve

DEPTHS = (1, 2, 3, 5, 10, 20)
TASKS = (1, 10, 100, 1_000, 10_000)
KEYS = (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)
SUBSCRIBERS = (0, 1, 2, 5, 10, 20, 50)


def main(quick: bool) -> Iterator[Curve]:
    rounds = 3 if quick else 15
    keys, tasks = (KEYS[:-1], TASKS[:-1]) if quick else (KEYS, TASKS)
    for name, x, values, case, option, fixed, expected in (
        ("a provider call in nested scopes", "scopes", DEPTHS, "provider_calls:plain_call", "depth", {}, 1.0),
        ("a provider call among concurrent tasks", "tasks", tasks, "provider_calls:concurrent_calls", "tasks", {}, 0.1),
        ("a guarded call among concurrent tasks", "tasks", tasks, "task_calls:concurrent", "tasks", {}, 0.1),
        ("rate_limit with a scope", "live keys", keys, "tool_calls:live_keys", "keys", {}, 0.1),
        ("publishing", "subscribers", SUBSCRIBERS, "bus_calls:publishing", "subscribers", {"where": "loop"}, 1.0),
    ):
        with workers("now") as (worker,):
            points = _points(worker, case, option, values, fixed, rounds)
        yield Curve(name, x, points, expected=expected)


def _points(
    worker: Worker, case: str, option: str, values: tuple[int, ...], fixed: dict[str, Any], rounds: int
) -> list[tuple[float, float]]:
    """(value, µs for each call), all of them measured in turns."""
    cases = [worker.case(case, **{option: value}, **fixed) for value in values]
    return [(value, series.us) for value, series in zip(values, alternately(cases, rounds), strict=True)]
