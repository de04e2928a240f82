"""``python -m tests.traffic.report``: how the recorded provider traffic is counted, by API and by shape.

Each exchange is replayed through the real SDK client in every form that it has: sync and async, plain, raw and by the
helper. A cell says how many of the replays that can be judged agree with what is expected, in tokens and in cost.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import sys
import warnings
from collections import Counter
from collections.abc import Iterable

from tests.traffic.harness import TRAFFIC, Kind, Mode, Row, Traffic, known_differences, traffic

FORMS: tuple[tuple[Kind, Mode], ...] = (
    ("sync", "create"),
    ("async", "create"),
    ("sync", "raw"),
    ("async", "raw"),
    ("sync", "helper"),
    ("async", "helper"),
)
PROVIDERS = ("openai", "anthropic", "google")
ONLY_PLAIN = ("google",)
"""What these SDKs offer has one form."""


class Tally:
    """Replays judged, and those that agree, by form and by some word for what was replayed."""

    def __init__(self) -> None:
        self._judged: Counter[tuple[str, str]] = Counter()
        self._agree: Counter[tuple[str, str]] = Counter()
        self.words: Counter[str] = Counter()

    def note(self, word: str, form: str, agrees: bool) -> None:
        self._judged[word, form] += 1
        self._agree[word, form] += agrees

    def lines(self, title: str) -> Iterable[str]:
        forms = [f"{kind} {mode}" for kind, mode in FORMS]
        yield f"{title:<44} {'exchanges':>9}  " + "  ".join(f"{form:>13}" for form in forms)
        for word, count in sorted(self.words.items()):
            yield f"{word:<44} {count:>9}  " + "  ".join(f"{self._cell(word, form):>13}" for form in forms)

    def _cell(self, word: str, form: str) -> str:
        judged = self._judged[word, form]
        return f"{self._agree[word, form]} of {judged}" if judged else "-"


def words_for(recorded: Traffic, row: Row) -> tuple[str, list[str]]:
    """An exchange by its API, and by its shapes."""
    streamed = "streamed" if row["stream"] else "whole"
    shapes = [shape.partition(":")[0] for shape in recorded.expected[row["id"]]["shapes"]] or ["(nothing special)"]
    return f"{row['provider']} {row['api']}, {streamed}", sorted(set(shapes))


async def report(recorded: Traffic) -> tuple[list[str], dict[str, str]]:
    """Replays everything: the tables, and by id how exchanges differ that are not known to."""
    by_api, by_shape = Tally(), Tally()
    for row in recorded.exchanges.values():
        api, shapes = words_for(recorded, row)
        by_api.words[api] += 1
        by_shape.words.update(shapes)
    differ: dict[str, str] = {}
    for provider in PROVIDERS:
        for kind, mode in FORMS:
            if mode != "create" and provider in ONLY_PLAIN:
                continue
            found = await recorded.replay(recorded.rows(provider), kind, mode)
            differ |= found.differences
            for key in found.judged:
                api, shapes = words_for(recorded, recorded.exchanges[key])
                for tally, words in ((by_api, [api]), (by_shape, shapes)):
                    for word in words:
                        tally.note(word, f"{kind} {mode}", key not in found.differences)
    unknown = {key: why for key, why in differ.items() if key not in known_differences()}
    return [*by_api.lines("API"), "", *by_shape.lines("Shape of the answer")], unknown


def main() -> int:
    if not TRAFFIC.is_dir():
        print(f"The recorded provider traffic is not here: {TRAFFIC}", file=sys.stderr)
        return 1
    warnings.simplefilter("ignore")
    logging.disable()
    context = ssl.create_default_context()  # each of Google's clients would load all root certificates three times
    ssl.create_default_context = lambda *_, **__: context
    with traffic() as recorded:
        lines, differ = asyncio.run(report(recorded))
    differences = [f"{key}: {why}" for key, why in sorted(differ.items())]
    print("\n".join([*lines, "", *(differences or ["No exchange differs that is not known to."])]))
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
