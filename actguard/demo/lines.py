"""The demo as plain lines: for files, pipes, dumb terminals, and where rich is not installed."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from types import TracebackType
from typing import TextIO

from actguard.demo.amounts import usd
from actguard.demo.board import Board, CallEntry, Entry, NoteEntry, StopEntry, ToldEntry
from actguard.demo.columns import BREAKDOWN, CALLS, Columns, call_cells, fitted, row_cells, shown, total_cells
from actguard.demo.report import Report
from actguard.events import Event

WIDTH = 80
INDENT = " " * 2


class Lines:
    """Prints each event when it comes."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._board = Board()

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def introduce(self, title: str, about: str) -> None:
        """Say what is about to be seen."""
        self._print(title)
        self._wrapped(about)
        self._print()
        self._print(_row(CALLS, [name for name, _ in CALLS]))

    def take(self, event: Event) -> None:
        """Show an event."""
        entry = self._board.take(event)
        if entry is not None:
            self._show(entry)

    def tick(self) -> None:
        """Time passes: nothing moves here."""

    def report(self, report: Report) -> None:
        """Show what it cost."""
        for title, text in report.texts:
            self._print()
            self._print(title)
            self._wrapped(text)
        self._print()
        self._print("What it cost, by scope and model")
        self._print(_row(BREAKDOWN, [name for name, _ in BREAKDOWN]))
        for row in report.rows:
            self._print(_row(BREAKDOWN, row_cells(row)))
        self._print(_row(BREAKDOWN, total_cells(report.rows)))
        self._print()
        self._wrapped(report.sentence)
        for line in report.hints:
            self._print(line)

    def _show(self, entry: Entry) -> None:
        match entry:
            case CallEntry():
                self._print(_row(CALLS, call_cells(entry)))
            case StopEntry():
                self._wrapped(f"STOPPED: {entry.sentence}", INDENT)
            case ToldEntry():
                self._wrapped(f"{entry.agent} is told: {entry.prompt}", INDENT)
                self._wrapped(f"{entry.agent} goes on with {usd(entry.left)} USD.", INDENT)
            case NoteEntry():
                self._wrapped(entry.text, INDENT)

    def _wrapped(self, text: str, indent: str = "") -> None:
        self._print(textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent))

    def _print(self, line: str = "") -> None:
        print(line, file=self._out, flush=True)


def _row(columns: Columns, cells: Sequence[str]) -> str:
    texts = []
    for index in shown(columns, WIDTH):
        width, cell = columns[index][1], cells[index]
        texts.append(cell.rjust(width) if width > 0 else fitted(cell, -width).ljust(-width))
    return " ".join(texts).rstrip()
