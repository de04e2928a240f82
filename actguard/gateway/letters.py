"""Letters: what waits for the gateway, wherever it waits. Nothing here needs SQLite: most programs have no spool."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple


class Letter(NamedTuple):
    """Something to deliver."""

    key: str
    """The id of an event, the Idempotency-Key of a settlement: the same letter is never there twice."""
    body: bytes
    """JSON."""


def choose(letters: Iterable[Letter], count: int, size: int | None, skip: Collection[str]) -> list[Letter]:
    """The first ``count`` of ``letters`` that are not to be skipped, of at most ``size`` bytes (but always one)."""
    chosen: list[Letter] = []
    total = 0
    for letter in letters:
        if letter.key in skip:
            continue
        total += len(letter.body)
        if chosen and size is not None and total > size:
            break
        chosen.append(letter)
        if len(chosen) == count:
            break
    return chosen


class Waiting(NamedTuple):
    """How much waits."""

    letters: int = 0
    size: int = 0
    """Bytes."""


class SpoolError(Exception):
    """The file cannot do it. ``kind`` is "corrupt", "full", "locked", "version" or "io"."""

    def __init__(self, kind: str, summary: str) -> None:
        super().__init__(summary)
        self.kind = kind
        self.summary = summary

    @property
    def lasting(self) -> bool:
        """True when trying again is of no use."""
        return self.kind in {"corrupt", "version"}
