"""Counting calls of a tool in a run."""

from __future__ import annotations

from typing import Any

import pytest

from actguard.exceptions import MaxAttemptsConfigurationError
from actguard.rules.attempts import Attempt, attempt, checked_limit, used


def test_refused_calls_are_counted_too() -> None:
    state = None
    decisions = []
    for _ in range(5):
        state, decision = attempt(state, 3)
        decisions.append(decision)
    assert decisions == [
        Attempt(True, 1),
        Attempt(True, 2),
        Attempt(True, 3),
        Attempt(False, 4),
        Attempt(False, 5),
    ]
    assert used(state) == (state, 5)


def test_asking_makes_no_state() -> None:
    assert used(None) == (None, 0)


@pytest.mark.parametrize("calls", [0, -1, True, 2.5, "3", None])
def test_a_wrong_limit_names_the_parameter(calls: Any) -> None:
    with pytest.raises(MaxAttemptsConfigurationError, match="calls") as caught:
        checked_limit(calls)
    assert caught.value.field == "calls"
    assert checked_limit(7) == 7
