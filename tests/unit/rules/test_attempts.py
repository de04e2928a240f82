"""Counting calls of a tool in a run."""

from __future__ import annotations

from typing import Any

import pytest

from actguard.exceptions import MaxAttemptsConfigurationError
from actguard.rules.attempts import attempt, checked_limit, used


def test_every_call_is_counted() -> None:
    state, counts = None, []
    for _ in range(5):
        state, count = attempt(state)
        counts.append(count)
    assert counts == [1, 2, 3, 4, 5]
    assert used(state) == (state, 5)


def test_asking_makes_no_state() -> None:
    assert used(None) == (None, 0)


@pytest.mark.parametrize("calls", [0, -1, True, 2.5, "3", None])
def test_a_wrong_limit_names_the_parameter(calls: Any) -> None:
    with pytest.raises(MaxAttemptsConfigurationError, match="calls") as caught:
        checked_limit(calls)
    assert caught.value.field == "calls"
    assert checked_limit(7) == 7
