"""What a check has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    """What was looked at, in a word or two."""
    status: Status
    message: str
    fix: str | None = None
    """What to do about it; there is always something unless it is ok."""


def ok(check: str, message: str) -> Finding:
    """All is well."""
    return Finding(check, "ok", message)


def warning(check: str, message: str, fix: str) -> Finding:
    """It works, but not as its owner may think."""
    return Finding(check, "warning", message, fix)


def problem(check: str, message: str, fix: str) -> Finding:
    """It does not work."""
    return Finding(check, "problem", message, fix)


def counted(number: int, thing: str) -> str:
    """A number of things, as people write it: ``"1 event"``, ``"2 events"``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
