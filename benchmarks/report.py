"""Tables on the terminal, and the same as JSON and SVG in benchmarks/results/."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import chart
from benchmarks.figures import Absent, Curve, Figure, Result

FOLDER = Path(__file__).parent / "results"
WIDTH = 70
Results = Mapping[str, list[Result]]


def title(text: str) -> None:
    print(f"\n{text}\n{'':-<{WIDTH}}  {'measured':>12}  {'min … max':>19}  target")


def line(result: Result) -> None:
    """One result as a line of its table."""
    match result:
        case Figure():
            spread = ""
            if result.low is not None and result.high is not None:
                spread = f"{_number(result.low)} … {_number(result.high)}"
            print(
                f"{result.name:<{WIDTH}}  {_number(result.value):>9} {result.unit:<3} {spread:>19}  {_target(result)}",
                flush=True,
            )
        case Curve():
            ends = [f"{_number(y)} at {x:,.0f}" for x, y in (result.points[0], result.points[-1])]
            bound = "" if result.expected is None else f" (at most {result.expected:g}: {_verdict(result.met)})"
            growth = f"{result.unit} {ends[0]} → {ends[1]} {result.x}; exponent {result.exponent:.2f}{bound}"
            print(f"{result.name:<{WIDTH}}  {growth}", flush=True)
        case Absent():
            print(f"{result.name:<{WIDTH}}  absent: {result.why}", flush=True)


def write(results: Results, *, quick: bool, seconds: float) -> None:
    """results.json and one chart.svg."""
    FOLDER.mkdir(exist_ok=True)
    content = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "quick": quick,
        "seconds": round(seconds, 1),
        "parts": {part: [_as_json(each) for each in of_part] for part, of_part in results.items()},
    }
    (FOLDER / "results.json").write_text(json.dumps(content, indent=1, allow_nan=True) + "\n", encoding="utf-8")
    (FOLDER / "chart.svg").write_text(chart.draw(results), encoding="utf-8")
    print(f"\n{seconds:.0f} s; written to {FOLDER / 'results.json'} and {FOLDER / 'chart.svg'}")


def summary(results: Results) -> None:
    """Says what is not met."""
    judged = [each for of_part in results.values() for each in of_part if not isinstance(each, Absent)]
    missed = [each for each in judged if each.met is False]
    met = sum(each.met is True for each in judged)
    print(f"{met} targets met, {len(missed)} not")
    for each in missed:
        print(f"  not met: {each.name}")


def _as_json(result: Result) -> dict[str, Any]:
    content = {"kind": type(result).__name__.lower(), **asdict(result)}
    if isinstance(result, Figure | Curve):
        content["met"] = result.met
    if isinstance(result, Curve):
        content["exponent"] = result.exponent
    return content


def _target(figure: Figure) -> str:
    if figure.target is None:
        return figure.note
    sign = ">=" if figure.at_least else "<="
    return f"{sign} {figure.target:g}: {_verdict(figure.met)}{'; ' if figure.note else ''}{figure.note}"


def _verdict(met: bool | None) -> str:
    return "met" if met else "NOT MET"


def _number(value: float) -> str:
    if math.isnan(value):
        return "?"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
