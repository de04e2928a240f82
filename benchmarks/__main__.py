"""``python -m benchmarks [--quick] [part …]``: measure, print tables, write JSON and a chart to benchmarks/results/."""

from __future__ import annotations

import argparse
import importlib
import inspect
import pkgutil
import time
import traceback
from collections.abc import Callable, Iterable, Iterator

import benchmarks
from benchmarks import report
from benchmarks.figures import Absent, Result

Main = Callable[..., Iterable[Result]]


def parts(wanted: list[str]) -> Iterator[tuple[str, str, Main]]:
    """(name, title, main) of each module of this package with a ``main(quick)``."""
    for found in sorted(pkgutil.iter_modules(benchmarks.__path__), key=lambda each: each.name):
        if found.name.startswith("_") or (wanted and found.name not in wanted):
            continue
        module = importlib.import_module(f"benchmarks.{found.name}")
        main = getattr(module, "main", None)
        if callable(main) and "quick" in inspect.signature(main).parameters:
            yield found.name, (module.__doc__ or found.name).strip().splitlines()[0], main


def measured(main: Main, quick: bool) -> Iterator[Result]:
    """What a part yields; if it breaks, what it yielded so far and the reason."""
    try:
        yield from main(quick=quick)
    except Exception as error:
        traceback.print_exc()
        yield Absent("the rest of this part", f"{type(error).__name__}: {error}")


def run() -> None:
    arguments = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="fewer rounds; under two minutes in all")
    arguments.add_argument("parts", nargs="*", help="only these parts")
    options = arguments.parse_args()
    started = time.perf_counter()
    results: dict[str, list[Result]] = {}
    for name, title, main in parts(options.parts):
        results[name] = []
        report.title(title)
        for result in measured(main, options.quick):
            results[name].append(result)
            report.line(result)
    if not results:
        arguments.error(f"no such part: {' or '.join(options.parts)}")
    report.write(results, quick=options.quick, seconds=time.perf_counter() - started)
    report.summary(results)


if __name__ == "__main__":
    run()
