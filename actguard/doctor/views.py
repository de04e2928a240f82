"""How findings are shown: lines for files and pipes, the same in colours for a terminal, or JSON for programs."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from actguard.doctor.findings import Finding, counted

try:
    from rich.console import Console
    from rich.text import Text
except ModuleNotFoundError:  # the extra "cli" is not installed: plain lines then
    HAS_RICH = False
else:
    HAS_RICH = True

STATUS_WIDTH = 9
CHECK_WIDTH = 20
INDENT = " " * (2 + STATUS_WIDTH + CHECK_WIDTH + 1)
NARROWEST = 80
"""A terminal with fewer columns wraps lines by itself."""
_STYLES = {"ok": "green", "warning": "bold yellow", "problem": "bold red"}


class Lines:
    """One line for each finding, and one more for how to fix it; on a terminal they are folded to its width."""

    def __init__(self, out: TextIO) -> None:
        self._width = _width(out)
        self._write: Callable[[str, str], None] = _painter(out) if _is_colourful(out) and HAS_RICH else _plainly(out)

    def title(self, text: str) -> None:
        """The first line."""
        self._write("", text)

    def section(self, name: str, findings: Sequence[Finding]) -> None:
        """What was found in one area."""
        self._write("", "")
        self._write("", name)
        for each in findings:
            self._tell(each.status, f"  {each.status:{STATUS_WIDTH}}{each.check:{CHECK_WIDTH}} {each.message}", INDENT)
            if each.fix is not None:
                self._tell("", f"{INDENT}→ {each.fix}", f"{INDENT}  ")

    def sum_up(self, findings: Sequence[Finding]) -> None:
        """The last line."""
        self._write("", "")
        self._write("", summary(findings))

    def _tell(self, status: str, text: str, indent: str) -> None:
        if self._width is None:
            self._write(status, text)
            return
        # Commands and paths are not broken: they are there to be copied.
        folded = textwrap.wrap(
            text, self._width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
        for number, line in enumerate(folded):
            self._write(status if number == 0 else "", line)


def _width(out: TextIO) -> int | None:
    """The width of a terminal that is wide enough; files and pipes have none."""
    columns = shutil.get_terminal_size().columns if out.isatty() else 0
    return columns if columns >= NARROWEST else None


def _plainly(out: TextIO) -> Callable[[str, str], None]:
    return lambda _status, text: print(text, file=out, flush=True)


def _painter(out: TextIO) -> Callable[[str, str], None]:
    console = Console(file=out, soft_wrap=True, highlight=False)

    def paint(status: str, text: str) -> None:
        line = Text(text)
        if status:
            line.stylize(_STYLES[status], 2, 2 + len(status))
        console.print(line)

    return paint


def _is_colourful(out: TextIO) -> bool:
    """A terminal whose user wants colours."""
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") not in ("dumb", "unknown")


def summary(findings: Sequence[Finding]) -> str:
    """How it stands, in one sentence."""
    problems, warnings = (sum(each.status == status for each in findings) for status in ("problem", "warning"))
    if not problems and not warnings:
        return "All is well."
    text = " and ".join(
        counted(number, what) for number, what in ((problems, "problem"), (warnings, "warning")) if number
    )
    return f"{text}." if problems else f"{text}, and nothing that keeps ActGuard from working."


def print_json(
    head: Mapping[str, str],
    settings: Mapping[str, Mapping[str, str]],
    sections: Sequence[tuple[str, Sequence[Finding]]],
    out: TextIO | None = None,
) -> None:
    """Everything as one JSON object."""
    found: list[dict[str, Any]] = [
        {"section": name, "check": each.check, "status": each.status, "message": each.message, "fix": each.fix}
        for name, findings in sections
        for each in findings
    ]
    print(json.dumps({**head, "settings": settings, "findings": found}, indent=2), file=out or sys.stdout)
