"""What a part of the benchmarks yields: single figures, and curves that show how a cost grows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Figure:
    """One measured figure.

    Example:
        ``Figure("rate_limit against limits", 0.41, low=0.38, high=0.47, target=0.60)``
    """

    name: str
    value: float
    """The median of the rounds, or what else ``note`` says."""
    unit: str = "x"
    """"x" for a ratio, else "µs", "ms", "kB", …"""
    low: float | None = None
    """The smallest of the rounds."""
    high: float | None = None
    """The largest of the rounds."""
    target: float | None = None
    """None: for comparison only, such as a floor or a peer's own time."""
    at_least: bool = False
    """The target is a lower bound."""
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one. A figure that is not a number meets none."""
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target


@dataclass(frozen=True)
class Curve:
    """How a cost grows with ``x``: ``points`` are (x, cost), costs in ``unit``."""

    name: str
    x: str
    points: Sequence[tuple[float, float]]
    unit: str = "µs"
    expected: float | None = None
    """The most that the fitted exponent may be; None: for information."""
    note: str = field(default="")

    @property
    def exponent(self) -> float:
        """The slope of log(cost) over log(x), by least squares: 0 is constant, 1 is proportional. Points at 0 are
        left out."""
        logs = [(math.log(x), math.log(y)) for x, y in self.points if x > 0 and y > 0]
        if len(logs) < 2:
            return math.nan
        mean_x = sum(x for x, _ in logs) / len(logs)
        mean_y = sum(y for _, y in logs) / len(logs)
        spread = sum((x - mean_x) ** 2 for x, _ in logs)
        return sum((x - mean_x) * (y - mean_y) for x, y in logs) / spread if spread else math.nan

    @property
    def met(self) -> bool | None:
        """Whether it grows no faster than expected; None when nothing is expected."""
        return None if self.expected is None else self.exponent <= self.expected


@dataclass(frozen=True)
class Absent:
    """A peer that could not be measured, and why."""

    name: str
    why: str


Result = Figure | Curve | Absent
