"""The demo as a live display: the calls, a bar for each scope, the moment a cap stops an agent. Needs rich."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from types import TracebackType

from rich.console import Console, ConsoleOptions, Group, JustifyMethod, RenderableType, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from actguard.demo.amounts import usd
from actguard.demo.board import Board, Scope
from actguard.demo.columns import BREAKDOWN, CALLS, Columns, call_cells, row_cells, shown, total_cells
from actguard.demo.report import Report
from actguard.events import Event

MOST_NOTES = 3
WIDEST = 100
"""Columns of the display: figures far apart are hard to read together."""


class Dashboard:
    """Shows a `Board` while it fills. `tick` redraws it; nothing is drawn from another thread."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._board = Board()
        self._title: RenderableType = ""
        self._spinner = Spinner("dots")
        self._live = Live(console=console, get_renderable=lambda: self, auto_refresh=False)

    def __enter__(self) -> Dashboard:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def introduce(self, title: str, about: str) -> None:
        """Say what is about to be seen."""
        self._title = Group(Text(title, style="bold"), Text(about, style="dim"), "")

    def take(self, event: Event) -> None:
        """Take an event in; the next tick shows it."""
        self._board.take(event)

    def tick(self) -> None:
        """Draw."""
        self._live.refresh()

    def report(self, report: Report) -> None:
        """Show what it cost, below the last state of the display."""
        self._live.stop()
        table = _Table(BREAKDOWN, self._width)
        for row in report.rows:
            table.add(row_cells(row))
        table.add(total_cells(report.rows), "bold")
        self._console.print(Text("\nWhat it cost, by scope and model", style="bold"))
        self._console.print(table)
        self._console.print("", Text(report.sentence, style="green"), sep="\n", width=self._width)
        for line in report.hints:
            self._console.print(Text(line, style="dim"))

    @property
    def _width(self) -> int:
        return min(self._console.width, WIDEST)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The display, with as many calls as there is room for; with all of them once the run is over."""
        options = options.update(width=self._width, height=None)
        around = [self._title, "", self._bars(), "", *self._happening()]
        taken = sum(len(console.render_lines(part, options)) for part in around)
        room = None if self._board.ended else max(console.height - taken - 3, 2)
        yield from console.render(Group(self._title, self._calls(room), *around[1:]), options)

    def _calls(self, room: int | None) -> RenderableType:
        table = _Table(CALLS, self._width)
        hidden = 0 if room is None else max(len(self._board.calls) - room, 0)
        for call in self._board.calls[hidden:]:
            table.add(call_cells(call), "red" if call.left == 0 else "")
        if not hidden:
            return table
        return Group(Text(f"  … {hidden} earlier", style="dim"), table)

    def _bars(self) -> RenderableType:
        bars = Table.grid(padding=(0, 1))
        bars.add_column(width=8)
        bars.add_column()
        bars.add_column(justify="right")
        for scope in self._board.scopes.values():
            used = Text(f"{usd(scope.spent)} of {usd(scope.limit)} USD", style=_color(scope) if scope.full else "")
            bars.add_row(Text(scope.name, style="bold"), _bar(scope, max(self._width - 36, 10)), used)
        return bars

    def _happening(self) -> Sequence[RenderableType]:
        board = self._board
        parts: list[RenderableType] = []
        if board.stop is not None:
            parts.append(self._stopped())
        if board.ended and board.answer:
            parts.append(_panel(board.answer, "the answer to the customer"))
        if board.text:
            parts.append(_panel(board.text, "the note for the files, streamed"))
        elif not board.ended:
            parts += [
                Text(f"· {note.text}", style="dim", no_wrap=True, overflow="ellipsis")
                for note in board.notes[-MOST_NOTES:]
            ]
        if not board.ended:
            self._spinner.text = "" if board.scopes else "loading the SDKs and the prices"
            parts.append(self._spinner)
        return parts

    def _stopped(self) -> RenderableType:
        stop, told = self._board.stop, self._board.told
        assert stop is not None
        text = Text(stop.sentence[0].upper() + stop.sentence[1:], style="bold")
        if told is not None:
            text.append(f"\n{told.agent} is told: ", style="not bold").append(told.prompt, style="not bold italic")
            text.append(f"\n{told.agent} goes on with {usd(told.left)} USD.", style="green")
        return _panel(text, "STOPPED BY ITS CAP", "red")


def _panel(text: str | Text, title: str, style: str = "dim") -> Panel:
    return Panel(text if isinstance(text, Text) else Text(text), title=title, title_align="left", border_style=style)


class _Table(Table):
    """A table of those columns that fit."""

    def __init__(self, columns: Columns, room: int) -> None:
        super().__init__(box=None, header_style="bold cyan", padding=(0, 1, 0, 0), pad_edge=False)
        self._shown = shown(columns, room)
        for name, width in (columns[index] for index in self._shown):
            justify: JustifyMethod = "right" if width > 0 else "left"
            self.add_column(name, justify=justify, min_width=abs(width), no_wrap=True, overflow="ellipsis")

    def add(self, cells: Sequence[str], style: str = "") -> None:
        """Add a row with a cell for each column, shown or not."""
        self.add_row(*(cells[index] for index in self._shown), style=style)


def _bar(scope: Scope, width: int) -> Text:
    filled = int(min(scope.spent / scope.limit, Decimal(1)) * width)
    return Text("█" * filled, style=_color(scope)).append("░" * (width - filled), style="dim")


def _color(scope: Scope) -> str:
    share = scope.spent / scope.limit
    return "red" if share >= 1 else "yellow" if share > Decimal("0.7") else "green"
