"""Recorded Google traffic is counted as expected, in every form that the SDK offers."""

from __future__ import annotations

import pytest
from google.genai import errors
from traffic.harness import Kind, Traffic, known_differences

AGREEMENT = 0.98
pytestmark = [
    pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning"),
]


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_google_is_counted_as_recorded(recorded: Traffic, kind: Kind) -> None:
    report = await recorded.replay(recorded.rows("google"), kind)

    assert report.judged
    assert report.agreement >= AGREEMENT, str(report)
    assert set(report.differences) <= known_differences(), str(report)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_the_flex_tier_of_vertex_has_its_price(recorded: Traffic, kind: Kind) -> None:
    rows = [row for row in recorded.rows("google") if recorded.expected[row["id"]].get("ambiguous")]

    assert rows
    for row in rows:
        counted, error = await recorded.count(row, kind, "create")
        expected = recorded.expected[row["id"]]
        assert error is None
        assert (counted.input_tokens, counted.output_tokens) == (expected["input_tokens"], expected["output_tokens"])
        assert 0 < counted.usd < float(expected["cost_usd"])


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_google_errors_cost_nothing(recorded: Traffic, kind: Kind) -> None:
    rows = recorded.rows("google", errors=True)

    assert rows
    for row in rows:
        counted, error = await recorded.count(row, kind, "create")
        assert isinstance(error, errors.APIError), row["id"]
        assert counted.calls == 0, row["id"]
