"""Starting: imports, and the first budget scope of a program."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from benchmarks.compare import Series, workers
from benchmarks.compare import ratio as ratio_of
from benchmarks.figures import Figure

UNWANTED = ("aiohttp", "openai", "anthropic", "google.genai", "genai_prices", "sqlite3")
OTHER_SDKS = {"anthropic", "google"}


def main(quick: bool) -> Iterator[Figure]:
    rounds = 7 if quick else 21
    with workers("now", "earlier") as (now, earlier):
        for what, name, target in (
            ("import", "import actguard", 0.6),
            ("client", "import actguard and use Client", None),
            ("tools", "import actguard and use Client and tool", None),
        ):
            cases = [worker.case("start_up:importing", what=what) for worker in (now, earlier)]
            taken: list[list[float]] = [[], []]
            for turn in range(rounds + 1):
                for case, series in zip(cases, taken, strict=True):
                    took = case.run(1)
                    if turn:  # the first reads the files
                        series.append(took)
            ours, theirs = map(Series, taken)
            yield ratio_of(f"{name} / actguard 1.0.2, CPU time", ours, theirs, target)
            modules = set(now.case("start_up:imported", what=what).run(1))
            unwanted = sorted(modules & set(UNWANTED))
            yield Figure(f"{name}: unwanted packages imported", len(unwanted), "", target=0, note=" ".join(unwanted))
        entries = [now.case("start_up:first_entry").run(1) for _ in range(rounds + 1)][1:]
    walls, owns = [[1000 * entry[place] for entry in entries] for place in (0, 1)]
    other = sorted(OTHER_SDKS & set(entries[0][2]))
    yield Figure("first budget_guard entry: wall time", median(walls), "ms", min(walls), max(walls), 5.0)
    yield Figure("first budget_guard entry: CPU time of the caller's thread", median(owns), "ms", min(owns), max(owns))
    yield Figure("first budget_guard entry: other SDKs imported", len(other), "", target=0, note=" ".join(other))
