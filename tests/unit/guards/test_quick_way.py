"""The quick way into guards, which most calls take, does what the way of all others does."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Runner
from guarding import PLAIN_KINDS, of_kind, outcome

from actguard.exceptions import GuardError
from actguard.guards.guarding import Guard
from actguard.guards.protocol import CallScope, Quick, Replayed
from actguard.guards.tools import Call, Replay


class Recorder(Guard[None]):
    """A guard that has both ways, and writes down what happens to it."""

    name = "recorder"

    def __init__(self, log: list[str], label: str, does: str = "", quick: bool = True) -> None:
        super().__init__()
        self.log, self.label, self.does, self.is_quick = log, label, does, quick

    def enter(self, call: Call) -> Any:
        try:
            return self._enter(call.args, call.kwargs)
        except Replayed as stored:
            return Replay(stored.value)

    def quick(self) -> Quick | None:
        return self._enter if self.is_quick else None

    def _enter(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> CallScope | None:
        self.log.append(f"{self.label} in {args}")
        if self.does == "refuse":
            raise GuardError("NO", "no")
        if self.does == "replay":
            raise Replayed("stored")
        return None if self.does == "only check" else _Recording(self)


class _Recording(CallScope):
    def __init__(self, guard: Recorder) -> None:
        self.guard = guard

    def returned(self, value: Any) -> Any:
        self.guard.log.append(f"{self.guard.label} returned {value}")
        if self.guard.does == "refuse at the end":
            raise GuardError("LATE", "late")
        return value

    def leave(self, error: BaseException | None) -> None:
        self.guard.log.append(f"{self.guard.label} left with {type(error).__name__ if error else None}")
        if self.guard.does == "replace":
            raise LookupError("mine")

    def withdraw(self, error: BaseException) -> None:
        self.guard.log.append(f"{self.guard.label} withdrawn for {type(error).__name__}")


async def log_of(kind: str, does: tuple[str, ...], quick: bool, body: Any) -> tuple[list[str], Any]:
    """What happens to guards that do this, the first the outermost, and how the call ends."""
    log: list[str] = []
    tool = of_kind(kind, body)
    for number in reversed(range(len(does))):
        tool = Recorder(log, f"guard {number}", does[number], quick)(tool)
    try:
        return log, await outcome(tool(7))
    except Exception as error:
        return log, repr(error)


def fail(value: int) -> None:
    raise ValueError(value)


CHAINS = [
    ("",),
    ("only check", ""),
    ("", "", ""),
    ("", "refuse", ""),
    ("", "", "refuse"),
    ("", "replay", ""),
    ("replace", "", ""),
    ("", "refuse at the end", ""),
    ("refuse at the end", "replace"),
    ("only check", "only check"),
]


@pytest.mark.parametrize("body", [lambda value: value, fail], ids=["returns", "raises"])
@pytest.mark.parametrize("does", CHAINS, ids=lambda does: " then ".join(each or "scope" for each in does))
@pytest.mark.parametrize("kind", PLAIN_KINDS)
def test_both_ways_do_the_same(kind: str, does: tuple[str, ...], body: Any, on_loop: Runner) -> None:
    async def main() -> None:
        quick = await log_of(kind, does, True, body)
        assert quick == await log_of(kind, does, False, body)
        assert len(quick[0]) >= len(does) - 1

    on_loop(main)


@pytest.mark.parametrize("kind", PLAIN_KINDS)
def test_a_refusal_withdraws_what_was_entered_and_an_error_of_the_body_leaves_it(kind: str, on_loop: Runner) -> None:
    async def main() -> None:
        log, _ = await log_of(kind, ("", "", "refuse"), True, lambda value: value)
        assert log == [
            *("guard 0 in (7,)", "guard 1 in (7,)", "guard 2 in (7,)"),
            *("guard 1 withdrawn for PolicyViolationError", "guard 0 withdrawn for PolicyViolationError"),
        ]
        log, end = await log_of(kind, ("", ""), True, fail)
        assert log[2:] == ["guard 1 left with ValueError", "guard 0 left with ValueError"]
        assert end == "ValueError(7)"

    on_loop(main)


@pytest.mark.parametrize("kind", PLAIN_KINDS)
def test_a_replay_leaves_the_outer_ones_without_an_error(kind: str, on_loop: Runner) -> None:
    async def main() -> None:
        log, end = await log_of(kind, ("", "replay", ""), True, fail)
        assert end == "stored"
        assert log == ["guard 0 in (7,)", "guard 1 in (7,)", "guard 0 left with None"]

    on_loop(main)
