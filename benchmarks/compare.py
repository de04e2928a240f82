"""Measuring: cases in processes of their own, blocks of calls taken in turns (A B A B …), medians and their ratios."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from types import TracebackType
from typing import Any

from benchmarks import peers
from benchmarks.figures import Figure

CASES = peers.ROOT / "benchmarks" / "cases"
BLOCK_S = 0.02
"""How long a block of calls takes, about: short enough that a disturbance hits few of them."""


class Worker:
    """A process that runs cases, see `benchmarks/cases/worker.py`."""

    def __init__(self, environment: str) -> None:
        command = [str(peers.python(environment)), str(CASES / "worker.py")]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=CASES, text=True, encoding="utf-8"
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()

    def case(self, name: str, /, **options: Any) -> Case:
        """A case of `benchmarks/cases`, by "module:function"."""
        return Case(self, self.order({"make": name, "with": options}))

    def order(self, order: dict[str, Any]) -> Any:
        """What the worker answers to ``order``.

        Raises:
            RuntimeError: it could not.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process ended with {self._process.wait()} while it was to {order}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["answer"]


class Case:
    """One case in its worker, and how many calls make a block."""

    def __init__(self, worker: Worker, number: int) -> None:
        self._worker = worker
        self._number = number
        self.count = 0

    def run(self, count: int) -> Any:
        """What a block of ``count`` calls returns."""
        return self._worker.order({"run": self._number, "count": count})

    def seconds(self) -> float:
        """Seconds for each call of one block."""
        return float(self.run(self.count)) / self.count

    def warm_up(self, block_s: float = BLOCK_S) -> None:
        """Run it until a block takes about ``block_s``, and twice more."""
        count = 16
        while (took := self.run(count)) < block_s / 4 and count < 1_000_000:
            count *= 2
        self.count = max(1, round(count * block_s / max(took, 1e-9)))
        for _ in range(2):
            self.run(self.count)

    def drop(self) -> None:
        """Let the worker forget it."""
        self._worker.order({"drop": self._number})


@dataclass(frozen=True)
class Series:
    """The rounds of one case: seconds for each call."""

    rounds: Sequence[float]

    @property
    def median(self) -> float:
        return median(self.rounds)

    @property
    def us(self) -> float:
        """The median in µs."""
        return self.median * 1e6


def alternately(cases: Sequence[Case], rounds: int, block_s: float = BLOCK_S) -> list[Series]:
    """The rounds of ``cases``, a block of each in turn, after warm-up."""
    for case in cases:
        case.warm_up(block_s)
    taken: list[list[float]] = [[] for _ in cases]
    for _ in range(rounds):
        for case, series in zip(cases, taken, strict=True):
            series.append(case.seconds())
    return [Series(series) for series in taken]


def ratio(name: str, ours: Series, theirs: Series, target: float | None, note: str = "") -> Figure:
    """The ratio of the medians, and the smallest and largest ratio of two blocks that were taken in a row."""
    each = [one / other for one, other in zip(ours.rounds, theirs.rounds, strict=True)]
    said = f"{ours.us:.2f} against {theirs.us:.2f} µs"
    return Figure(
        name,
        ours.median / theirs.median,
        low=min(each),
        high=max(each),
        target=target,
        note=f"{said}; {note}" if note else said,
    )


def added(name: str, with_it: Series, without: Series, target: float | None, note: str = "", per: int = 1) -> Figure:
    """The difference of the medians in µs, for each of ``per`` things in a call."""
    each = [(one - other) * 1e6 / per for one, other in zip(with_it.rounds, without.rounds, strict=True)]
    value = (with_it.median - without.median) * 1e6 / per
    return Figure(name, value, "µs", low=min(each), high=max(each), target=target, note=note)


@contextlib.contextmanager
def workers(*environments: str) -> Iterator[list[Worker]]:
    """A fresh worker in each of ``environments``."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Worker(environment)) for environment in environments]
