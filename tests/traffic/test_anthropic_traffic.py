"""Recorded Anthropic traffic is counted as expected, in every form that the SDK offers."""

from __future__ import annotations

import anthropic
import pytest
from traffic.harness import Kind, Mode, Traffic, known_differences

AGREEMENT = 0.98
pytestmark = pytest.mark.filterwarnings("ignore:The model '.*' is deprecated:DeprecationWarning")


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("mode", ["create", "raw", "helper"])
async def test_anthropic_is_counted_as_recorded(recorded: Traffic, kind: Kind, mode: Mode) -> None:
    report = await recorded.replay(recorded.rows("anthropic"), kind, mode)

    assert report.judged
    assert report.agreement >= AGREEMENT, str(report)
    assert set(report.differences) <= known_differences(), str(report)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_what_a_compaction_used_is_counted_on_top(recorded: Traffic, kind: Kind) -> None:
    rows = [row for row in recorded.rows("anthropic") if "iterations" in recorded.expected[row["id"]]["shapes"]]

    assert rows
    for row in rows:
        counted, error = await recorded.count(row, kind, "create")
        expected = recorded.expected[row["id"]]
        assert error is None
        assert (counted.input_tokens, counted.output_tokens) == (expected["input_tokens"], expected["output_tokens"])


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_anthropic_errors_cost_nothing(recorded: Traffic, kind: Kind) -> None:
    rows = recorded.rows("anthropic", errors=True)

    assert rows
    for row in rows:
        counted, error = await recorded.count(row, kind, "create")
        assert isinstance(error, anthropic.APIStatusError), row["id"]
        assert counted.calls == 0, row["id"]
