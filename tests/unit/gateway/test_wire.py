"""What goes over the wire, field by field."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from actguard.events import CallEntry, ReserveRequested
from actguard.gateway.failures import GatewayFailure, of_status
from actguard.gateway.http import Answer
from actguard.gateway.wire import granted, payment_required, reserve_request, settle_request

CALL = CallEntry(
    provider="openai",
    model="gpt-4o",
    input_tokens=100,
    cached_input_tokens=40,
    output_tokens=7,
    cache_write_tokens_5m=3,
    web_searches=2,
    scope_name="research",
)
LAST = CallEntry(provider="anthropic", model="claude", input_tokens=10, output_tokens=1, cache_write_tokens_1h=5)
COST = CallEntry(model="maps", cost_cu=4, scope_name="outer")
TAKEN_BACK = CallEntry()


def body(message: Any) -> Any:
    return json.loads(message.to_json())


def test_a_reserve_leaves_out_what_is_unknown() -> None:
    assert body(reserve_request(ReserveRequested(run_id="r", scope_id="s"))) == {"run_id": "r"}


def test_a_reserve_says_all_that_is_known() -> None:
    request = ReserveRequested(
        run_id="r", scope_id="s", user_id="alice", usd_limit=Decimal("0.0500001"), cost_limit=7, plan_key="pro"
    )
    assert body(reserve_request(request)) == {
        "run_id": "r",
        "usd_limit_micros": 50_001,  # a limit is never rounded down to less than the user allows
        "cost_limit": 7,
        "plan_key": "pro",
        "user_id": "alice",
    }


def test_the_smallest_limit_is_not_zero() -> None:
    request = ReserveRequested(run_id="r", scope_id="s", usd_limit=Decimal("1e-9"))
    assert body(reserve_request(request))["usd_limit_micros"] == 1


def test_a_settle_sums_up_and_lists_each_call() -> None:
    assert body(settle_request("res", (CALL, COST, TAKEN_BACK, LAST))) == {
        "reserve_id": "res",
        "provider": "anthropic",
        "provider_model_id": "claude",
        "input_tokens": 110,
        "cached_input_tokens": 40,
        "output_tokens": 8,
        "usage_breakdown": [
            {
                "provider": "openai",
                "provider_model_id": "gpt-4o",
                "input_tokens": 100,
                "cached_input_tokens": 40,
                "output_tokens": 7,
                "scope_name": "research",
            },
            {"type": "custom_cost", "name": "maps", "cost_cu": 4, "scope_name": "outer"},
            {
                "provider": "anthropic",
                "provider_model_id": "claude",
                "input_tokens": 10,
                "cached_input_tokens": 0,
                "output_tokens": 1,
            },
        ],
        "cache_write_tokens_5m": 3,
        "cache_write_tokens_1h": 5,
        "web_search_count": 2,
    }


@pytest.mark.parametrize("entries", [(), (TAKEN_BACK,)])
def test_a_settle_of_nothing_says_none(entries: tuple[CallEntry, ...]) -> None:
    assert body(settle_request("res", entries)) == {
        "reserve_id": "res",
        "provider": "none",
        "provider_model_id": "none",
        "input_tokens": 0,
        "cached_input_tokens": 0,
        "output_tokens": 0,
        "usage_breakdown": [],
    }


def test_the_last_call_counts_as_the_model_even_when_an_outside_cost_came_after_it() -> None:
    settled = body(settle_request("res", (CALL, COST)))
    assert (settled["provider"], settled["provider_model_id"]) == ("openai", "gpt-4o")


def test_a_negative_count_of_a_provider_does_not_cost_the_settlement() -> None:
    odd = CallEntry(provider="odd", model="m", input_tokens=-5, output_tokens=3)
    settled = body(settle_request("res", (odd,)))
    assert (settled["input_tokens"], settled["usage_breakdown"][0]["input_tokens"]) == (0, 0)


def test_text_that_is_no_unicode_is_still_sent() -> None:
    request = ReserveRequested(run_id="r\ud800", scope_id="s")
    assert json.loads(reserve_request(request).to_json())["run_id"] == "r?"


@pytest.mark.parametrize(
    "payload",
    [
        {
            "UserMessage": "Hi",
            "CurrentBalance": 1,
            "RequiredAmount": "2.50",
            "Shortfall": 1.5,
            "TopupUrl": "https://x",
            "TopupSessionId": "cs",
            "UserId": "u",
        },
        {
            "user_message": "Hi",
            "current_balance": 1,
            "required_amount": "2.50",
            "shortfall": 1.5,
            "topup_url": "https://x",
            "topup_session_id": "cs",
            "user_id": "u",
        },
    ],
)
def test_a_402_in_either_style(payload: dict[str, Any]) -> None:
    error = payment_required("/api/v1/reserve", payload)
    assert (error.path, error.status, error.user_message, error.user_id) == ("/api/v1/reserve", 402, "Hi", "u")
    assert (error.current_balance, error.required_amount, error.shortfall) == (1, "2.50", 1.5)
    assert (error.topup_url, error.topup_session_id) == ("https://x", "cs")
    assert error.response_payload == payload


@pytest.mark.parametrize("payload", [None, [], "text", {}, {"TopupUrl": 5, "UserMessage": ["a"], "UserId": None}])
def test_a_402_with_nothing_usable_in_it(payload: Any) -> None:
    error = payment_required("/p", payload)
    facts = (error.user_message, error.current_balance, error.topup_url, error.user_id)
    assert facts == (None, None, None, None)
    assert error.response_payload == (payload if isinstance(payload, dict) else {})


def test_a_402_cannot_flood_the_terminal() -> None:
    error = payment_required("/p", {"user_message": "line\nline\x1b[31m" + "x" * 10_000})
    assert len(str(error)) < 2_500
    assert "\n" not in str(error)
    assert "\x1b" not in str(error)


def test_a_grant_is_read_and_what_the_gateway_adds_is_let_through() -> None:
    grant = granted(Answer(200, {"reserve_id": "r", "usd_limit_micros": 2_500_000, "region": "eu", "status": None}))
    assert (grant.reserve_id, grant.usd_limit, grant.cost_limit) == ("r", Decimal("2.5"), None)


@pytest.mark.parametrize(
    ("payload", "kept"),
    [
        ({"reserve_id": "r", "usd_limit_micros": "1"}, "r"),
        ({"reserve_id": "r", "usd_limit_micros": 1.5}, "r"),
        ({"reserve_id": "r", "cost_limit": -1}, "r"),
        ({"reserve_id": "r", "cost_limit": True}, "r"),
        ({"reserve_id": 5}, None),
        ({"reserve_id": ""}, None),
        ({}, None),
        ([], None),
        (None, None),
    ],
)
def test_a_grant_of_wrong_types_is_malformed_but_a_reservation_in_it_is_not_forgotten(payload: Any, kept: Any) -> None:
    with pytest.raises(GatewayFailure) as caught:
        granted(Answer(200, payload))
    failure = caught.value
    assert (failure.kind, failure.retryable, failure.status, failure.payload) == ("malformed", False, 200, kept)


def test_requests_are_strict() -> None:
    with pytest.raises(ValidationError):
        reserve_request(ReserveRequested(run_id="", scope_id=""))


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (301, "redirect", False),
        (304, "redirect", False),
        (400, "rejected", False),
        (401, "unauthorized", False),
        (403, "unauthorized", False),
        (404, "rejected", False),
        (418, "rejected", False),
        (422, "rejected", False),
        (429, "rate_limited", True),
        (500, "server_error", True),
        (503, "server_error", True),
        (599, "server_error", True),
    ],
)
def test_what_a_status_means(status: int, kind: str, retryable: bool) -> None:
    failure = of_status("/p", status, {}, None, None)
    assert (failure.kind, failure.retryable, failure.status) == (kind, retryable, status)
    warned = failure.degraded("reserve", subsystem="budget")
    facts = (warned.subsystem, warned.operation, warned.failure_kind, warned.path, warned.status_code)
    assert facts == ("budget", "reserve", kind, "/p", status)
    assert warned.summary.endswith("local limits only.")


def test_a_redirect_names_where_it_leads_on_one_line() -> None:
    failure = of_status("/p", 302, {"Location": "https://evil.example/\n" + "x" * 500}, None, None)
    assert "evil.example" in failure.summary
    assert "\n" not in failure.summary
    assert len(failure.summary) < 300
