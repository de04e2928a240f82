"""The columns of the calls and of the breakdown, shared by every way of showing them. 80 characters are enough for all
but the time of a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TypeAlias

from actguard.demo.amounts import usd
from actguard.demo.board import CallEntry
from actguard.guards.figures import BreakdownRow

Columns: TypeAlias = Sequence[tuple[str, int]]
"""Headings and widths; a negative width is left-aligned."""

CALLS: Columns = (
    ("time", 5),
    ("scope", -8),
    ("provider", -9),
    ("model", -21),
    ("input", 6),
    ("cached", 6),
    ("output", 6),
    ("USD", 9),
    ("left", 8),
)
BREAKDOWN: Columns = (
    ("scope", -8),
    ("provider", -9),
    ("model", -21),
    ("calls", 5),
    ("input", 7),
    ("cached", 7),
    ("output", 7),
    ("USD", 9),
)


DISPENSABLE = ("time", "provider", "calls", "cached", "output", "input")
"""Columns to leave out where there is no room for all, in this order."""


def shown(columns: Columns, room: int) -> list[int]:
    """The indexes of the columns that fit into ``room`` characters."""
    kept = list(range(len(columns)))
    for name in DISPENSABLE:
        if sum(abs(columns[index][1]) + 1 for index in kept) <= room + 1:
            break
        kept = [index for index in kept if columns[index][0] != name]
    return kept


def call_cells(call: CallEntry) -> tuple[str, ...]:
    """A call as texts, one for each column of `CALLS`."""
    return (
        f"{call.seconds:.1f}s",
        call.scope,
        call.provider,
        call.model,
        f"{call.input_tokens:,}",
        f"{call.cached_input_tokens:,}",
        f"{call.output_tokens:,}",
        ("~" if call.estimated else "") + usd(call.usd),
        usd(call.left),
    )


def row_cells(row: BreakdownRow) -> tuple[str, ...]:
    """A row of the breakdown as texts, one for each column of `BREAKDOWN`."""
    return (
        row.scope_name or "",
        row.provider,
        row.model,
        str(row.calls),
        f"{row.input_tokens:,}",
        f"{row.cached_input_tokens:,}",
        f"{row.output_tokens:,}",
        usd(row.usd),
    )


def total_cells(rows: list[BreakdownRow]) -> tuple[str, ...]:
    """The sums of a breakdown."""
    return (
        "total",
        "",
        "",
        str(sum(row.calls for row in rows)),
        f"{sum(row.input_tokens for row in rows):,}",
        f"{sum(row.cached_input_tokens for row in rows):,}",
        f"{sum(row.output_tokens for row in rows):,}",
        usd(sum((row.usd for row in rows), Decimal(0))),
    )


def fitted(text: str, width: int) -> str:
    """``text`` in at most ``width`` characters."""
    return text if len(text) <= width else text[: width - 1] + "…"
