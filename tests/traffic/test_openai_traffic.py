"""Recorded OpenAI traffic is counted as expected, in every form that the SDK offers."""

from __future__ import annotations

import openai
import pytest
from traffic.harness import Kind, Mode, Traffic, known_differences

AGREEMENT = 0.98
pytestmark = pytest.mark.filterwarnings("ignore:The Assistants API is deprecated:DeprecationWarning")


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("mode", ["create", "raw", "helper"])
async def test_openai_is_counted_as_recorded(recorded: Traffic, kind: Kind, mode: Mode) -> None:
    report = await recorded.replay(recorded.rows("openai"), kind, mode)

    assert report.judged
    assert report.agreement >= AGREEMENT, str(report)
    assert set(report.differences) <= known_differences(), str(report)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_openai_errors_cost_nothing(recorded: Traffic, kind: Kind) -> None:
    rows = recorded.rows("openai", errors=True)

    assert rows
    for row in rows:
        counted, error = await recorded.count(row, kind, "create")
        assert isinstance(error, openai.APIStatusError), row["id"]
        assert counted.calls == 0, row["id"]
