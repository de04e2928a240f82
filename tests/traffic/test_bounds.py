"""No recorded call had more input, or more output, than its request was bounded by."""

from __future__ import annotations

import json
from typing import Any

from traffic.harness import Row, Traffic

from actguard.guards.bounding import Bound
from actguard.integrations import anthropic_bound, google_bound, openai_bound, openai_request
from actguard.integrations.google_request import output_limit as google_output_limit


def body_of(row: Row) -> dict[str, Any] | None:
    body = row["request_body"]
    try:
        body = json.loads(body) if isinstance(body, str) else body
    except ValueError:  # a form
        return None
    return body if isinstance(body, dict) else None


def bound_of(row: Row, model: str) -> tuple[Bound, int | None]:
    """What the request is bounded by, and its own output limit over all answers."""
    body = body_of(row) or {}
    if row["provider"] == "anthropic":
        return anthropic_bound.bound_of(body, 1), body.get("max_tokens")
    if row["provider"] == "google":
        return google_bound.bound_of(model, body, 1), google_output_limit(body)
    api = openai_request.billed_api(row["path"].partition("?")[0].removeprefix("/v1/").strip("/"))
    assert api is not None
    limit = openai_request.output_limit(api, body)
    return openai_bound.bound_of(api, body, 1), limit and limit * openai_request.outputs(api, body)


def test_no_recorded_call_exceeds_its_bound(recorded: Traffic) -> None:
    bounded: list[str] = []
    reasons: set[str] = set()
    for key, row in recorded.exchanges.items():
        expected = recorded.expected[key]
        if body_of(row) is None or expected["input_tokens"] is None:
            continue
        bound, limit = bound_of(row, str(expected["model"]))
        if bound.unbounded is not None:
            reasons.add(bound.unbounded)
            continue
        bounded.append(key)
        assert expected["input_tokens"] <= bound.input_tokens, key
        assert limit is None or expected["output_tokens"] <= limit, key
    assert len(bounded) > 300
    assert len(reasons) > 15  # and they are of many kinds
