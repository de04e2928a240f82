"""Events that users publish themselves."""

from __future__ import annotations

from typing import Any

import pytest
from guarding import published

from actguard import BudgetExceededError, GuardError, emit_event, emit_violation, tool
from actguard.client import Client
from actguard.events import BudgetLimitExceeded, CustomEvent, GuardBlocked
from actguard.exceptions import ActGuardUsageError, ReportingContractError, ToolTimeoutError
from actguard.guards.tools import name_of


def test_outside_a_run_nothing_happens(client: Client) -> None:
    with published(client, CustomEvent, GuardBlocked) as events:
        emit_event("billing", "note", {"a": 1})
        emit_violation(GuardError("NO", "no"))
    assert events == []


def test_an_event_of_ones_own_says_where_it_happened(client: Client) -> None:
    @tool
    def bill() -> None:
        emit_event("billing", "invoice.sent", {"invoice": 7}, severity="info", outcome="success")

    with (
        client.run(user_id="alice") as run,
        client.budget_guard(usd_limit=1, name="task") as budget,
        published(client, CustomEvent) as events,
    ):
        bill()
        emit_event("billing", "note", user_id="bob", tool_name="other")
    first, second = events
    assert (first.kind, dict(first.payload), first.severity) == ("billing.invoice.sent", {"invoice": 7}, "info")
    assert (first.run_id, first.user_id, first.tool_name) == (run.run_id, "alice", name_of(bill))
    assert (first.scope_name, first.scope_id) == ("task", budget.identity()["scope_id"])
    assert (second.user_id, second.tool_name, second.outcome, dict(second.payload)) == ("bob", "other", "", {})


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"category": ""}, "category"),
        ({"category": "a b"}, "category"),
        ({"name": 7}, "name"),
        ({"payload": ["x"]}, "payload"),
        ({"payload": {5: 6}}, "payload"),
        ({"severity": "loud"}, "severity"),
        ({"outcome": "fine"}, "outcome"),
        ({"user_id": 7}, "user_id"),
        ({"tool_name": ""}, "tool_name"),
        ({"category": "llm", "name": "usage"}, "name"),
        ({"category": "run", "name": "end"}, "name"),
        ({"category": "budget", "name": "reserved"}, "name"),
    ],
)
def test_what_cannot_be_an_event_is_named(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(ReportingContractError) as refused:
        emit_event(**{"category": "billing", "name": "note", **arguments})
    assert refused.value.field == field


def test_a_violation_becomes_the_event_of_its_kind(client: Client) -> None:
    with client.run() as run, published(client, BudgetLimitExceeded, GuardBlocked) as events:
        emit_violation(
            BudgetExceededError(usd_used=1.5, usd_limit=1.0, limit_type="usd", scope_id="s", scope_name="task"),
            tool_name="mine",
        )
        emit_violation(GuardError("NO_WEEKENDS", "secret value 7", {"value": 7}))
        emit_violation(ToolTimeoutError(tool_name="t", timeout_s=1), severity="critical")
        emit_violation(ValueError("not ours"))
    budget, rule, timed_out = events
    assert (budget.kind, budget.usd_used, budget.usd_limit, budget.scope_name) == (
        *("budget.limit_exceeded", 1.5, 1.0, "task"),
    )
    assert (budget.run_id, budget.tool_name) == (run.run_id, "mine")
    assert (rule.error_type, rule.outcome, dict(rule.figures)) == (
        *("PolicyViolationError", "blocked", {"code": "NO_WEEKENDS"}),
    )
    assert "secret" not in repr(rule)
    assert (timed_out.outcome, timed_out.severity, timed_out.guard_name) == ("failed", "critical", "timeout")
    assert timed_out.figures["timeout_s"] == 1


@pytest.mark.parametrize(
    ("overrides", "field"), [({"payload": 1}, "payload"), ({"severity": "x"}, "severity"), ({"user_id": 1}, "user_id")]
)
def test_a_wrong_override_is_named(overrides: dict[str, Any], field: str) -> None:
    with pytest.raises(ReportingContractError) as refused:
        emit_violation(GuardError("NO", "no"), **overrides)
    assert refused.value.field == field
    assert isinstance(refused.value, ActGuardUsageError)
