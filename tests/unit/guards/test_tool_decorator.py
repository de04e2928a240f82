"""``@tool``: its parts, their order, their settings, and what it announces."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import Runner
from guarding import KINDS, fresh, of_kind, outcome, published

import actguard
from actguard import max_attempts, rate_limit, tool
from actguard.client import Client
from actguard.events import GuardBlocked, ToolFailure, ToolInvoke
from actguard.exceptions import (
    ActGuardUsageError,
    CircuitBreakerConfigurationError,
    InvalidIdempotentToolError,
    MaxAttemptsConfigurationError,
    MaxAttemptsExceeded,
    ScopeValidationError,
    TimeoutUsageError,
)
from actguard.guards.tools import name_of


def test_the_parts_stand_in_the_documented_order() -> None:
    decorator = tool(
        timeout=5,
        rate_limit={},
        circuit_breaker={"name": fresh()},
        policy=lambda call: "allow",
        max_attempts={"calls": 3},
        idempotent={},
    )
    names = [guard.name for guard in decorator.guards]
    assert names == ["idempotent", "max_attempts", "policy", "circuit_breaker", "rate_limit", "timeout"]


@pytest.mark.parametrize(
    ("parts", "field", "error"),
    [
        ({"rate_limit": {"max_call": 5}}, "rate_limit.max_call", ActGuardUsageError),
        ({"rate_limit": {"key": "x"}}, "rate_limit.key", ActGuardUsageError),
        ({"rate_limit": {"max_calls": 0}}, "max_calls", ScopeValidationError),
        ({"rate_limit": {"scope": "nobody"}}, "scope", ScopeValidationError),
        ({"rate_limit": 5}, "rate_limit", ActGuardUsageError),
        ({"rate_limit": True}, "rate_limit", ActGuardUsageError),
        ({"max_attempts": {}}, "max_attempts.calls", ActGuardUsageError),
        ({"max_attempts": {"calls": 0}}, "calls", MaxAttemptsConfigurationError),
        ({"max_attempts": 3}, "max_attempts", ActGuardUsageError),
        ({"circuit_breaker": {}}, "circuit_breaker.name", ActGuardUsageError),
        ({"circuit_breaker": {"name": "x", "fails": 3}}, "circuit_breaker.fails", ActGuardUsageError),
        ({"circuit_breaker": {"name": "x", "max_fails": "3"}}, "max_fails", CircuitBreakerConfigurationError),
        ({"idempotent": {"ttl": 3}}, "idempotent.ttl", ActGuardUsageError),
        ({"idempotent": {"key": "x"}}, "idempotent.key", ActGuardUsageError),
        ({"idempotent": {}}, "idempotency_key", InvalidIdempotentToolError),
        ({"timeout": 0}, "seconds", TimeoutUsageError),
        ({"timeout": "5"}, "seconds", TimeoutUsageError),
        ({"timeout": {"seconds": 5, "sec": 1}}, "timeout.sec", ActGuardUsageError),
        ({"timeout": {}}, "timeout.seconds", ActGuardUsageError),
        ({"timeout": 5, "timeout_executor": 1}, "executor", TimeoutUsageError),
        ({"timeout_executor": ThreadPoolExecutor(1)}, "timeout_executor", ActGuardUsageError),
    ],
)
def test_a_wrong_part_is_named_when_decorating(parts: dict[str, Any], field: str, error: type[Exception]) -> None:
    with pytest.raises(error) as refused:
        tool(**parts)(lambda: None)
    assert isinstance(refused.value, ActGuardUsageError)
    assert refused.value.field == field


def test_an_unknown_part_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="retries"):
        tool(retries=3)  # type: ignore[call-overload]


def test_the_executor_can_stand_in_both_places() -> None:
    with ThreadPoolExecutor(1, thread_name_prefix="mine") as executor:
        for parts in (
            {"timeout": 30, "timeout_executor": executor},
            {"timeout": {"seconds": 30, "executor": executor}},
            {"timeout": {"seconds": 30}, "timeout_executor": executor},
        ):
            assert tool(**parts)(lambda: "ran")() == "ran"
        with pytest.raises(ActGuardUsageError, match="once"):
            tool(timeout={"seconds": 1, "executor": executor}, timeout_executor=ThreadPoolExecutor(1))


@pytest.mark.parametrize("kind", KINDS)
def test_bare_it_announces_runs_and_failures(kind: str, client: Client, on_loop: Runner) -> None:
    async def main() -> None:
        def body(fails: bool) -> str:
            if fails:
                raise ValueError("x" * 1_000)
            return "ran"

        guarded = tool(of_kind(kind, body))
        with client.run() as run, published(client, ToolInvoke, ToolFailure) as events:
            assert await outcome(guarded(False)) == "ran"
            with pytest.raises(ValueError, match="x"):
                await outcome(guarded(True))
        invoked, failed = events
        assert (invoked.kind, invoked.outcome, invoked.run_id, invoked.tool_name) == (
            *("tool.invoke", "success", run.run_id, name_of(guarded)),
        )
        assert invoked.duration_s >= 0
        assert (failed.error_type, failed.error_message) == ("ValueError", "x" * 256)

    on_loop(main)


def test_stacked_guards_announce_one_run(client: Client) -> None:
    guarded = tool(rate_limit(max_attempts(5)(of_kind("function", lambda: 1))))
    with client.run(), published(client, ToolInvoke) as events:
        guarded()
    assert len(events) == 1


def test_a_refusal_is_announced_once_however_many_guards_it_passes(client: Client) -> None:
    @tool(rate_limit={}, circuit_breaker={"name": fresh()})
    def outer() -> None:
        inner()

    @tool(max_attempts={"calls": 1}, circuit_breaker={"name": fresh()})
    def inner() -> None: ...

    with client.run() as run, published(client, GuardBlocked, ToolFailure) as events:
        outer()
        with pytest.raises(MaxAttemptsExceeded) as refused:
            outer()
        assert run.get_attempt_count(name_of(inner)) == refused.value.used == 2
    (event,) = events
    assert (event.tool_name, event.guard_name) == (name_of(inner), "max_attempts")
    assert {"limit": 1, "used": 2}.items() <= event.figures.items()


def test_max_attempts_counts_by_tool_and_run(client: Client) -> None:
    guarded = max_attempts(calls=2)(of_kind("function", lambda: "ran"))
    for _ in range(2):
        with client.run() as run:
            assert [guarded(), guarded()] == ["ran", "ran"]
            with pytest.raises(MaxAttemptsExceeded) as refused:
                guarded()
            assert (refused.value.limit, refused.value.used, refused.value.run_id) == (2, 3, run.run_id)
    with pytest.raises(actguard.exceptions.MissingRuntimeContextError):
        guarded()
    limit = max_attempts(1)
    with client.run(), limit, pytest.raises(MaxAttemptsExceeded, match="this block"), limit:
        pass


def test_a_second_guard_that_would_count_the_same_calls_is_refused() -> None:
    with pytest.raises(ActGuardUsageError, match="two max_attempts") as refused:
        tool(max_attempts={"calls": 5})(max_attempts(3)(lambda: None))
    assert refused.value.field == "max_attempts"


@pytest.mark.parametrize("calls", [0, -1, True, 1.0, "3", None])
def test_max_attempts_takes_a_whole_number(calls: Any) -> None:
    with pytest.raises(MaxAttemptsConfigurationError) as refused:
        max_attempts(calls)
    assert refused.value.field == "calls"


def test_the_public_name_is_the_decorator_however_it_was_imported() -> None:
    assert callable(actguard.tool)
    assert tool is actguard.tool
