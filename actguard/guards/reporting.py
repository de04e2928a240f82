"""Events that users publish themselves: `emit_event`, and `emit_violation` for an error of ActGuard."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, get_args

from actguard.context import active_budget, active_run, current_tool
from actguard.events import OWN_KINDS, BudgetLimitExceeded, CustomEvent, GuardBlocked, Outcome, ScopedEvent, Severity
from actguard.exceptions import (
    ActGuardError,
    BudgetExceededError,
    CircuitOpenError,
    DuplicateIdempotencyKey,
    IdempotencyInProgress,
    IdempotencyKeyReused,
    IdempotencyOutcomeUnknown,
    MaxAttemptsExceeded,
    RateLimitExceeded,
    ReportingContractError,
    ToolTimeoutError,
)

_NAME = re.compile(r"[A-Za-z][\w-]{0,63}(\.[\w-]{1,64})*", re.ASCII)
_SEVERITIES, _OUTCOMES = get_args(Severity), get_args(Outcome)
_IDENTITY = ("scope_id", "scope_name", "scope_kind", "parent_scope_id", "root_scope_id", "plan_key")
_FIGURES = ("limit_type", "tokens_used", "token_limit", "usd_used", "usd_limit", "cost_used", "cost_limit", "origin")
_GUARDS: dict[type[ActGuardError], str] = {
    RateLimitExceeded: "rate_limit",
    CircuitOpenError: "circuit_breaker",
    MaxAttemptsExceeded: "max_attempts",
    ToolTimeoutError: "timeout",
    **dict.fromkeys(
        (IdempotencyInProgress, DuplicateIdempotencyKey, IdempotencyOutcomeUnknown, IdempotencyKeyReused), "idempotent"
    ),
}
"""Whose errors they are. Their figures may be told; those of other errors may show arguments."""


def emit_event(
    category: str,
    name: str,
    payload: Mapping[str, Any] | None = None,
    *,
    severity: Severity = "",
    outcome: Outcome = "",
    user_id: str | None = None,
    tool_name: str | None = None,
) -> None:
    """Publish an event of your own on the bus of the active run; outside a run, do nothing.

    It is exported (in mode "verbose") with the run, the budget scope and the tool that are active here.

    Args:
        category: first half of the identity, such as "billing".
        name: second half of the identity.
        payload: whatever you want to tell, exported as it is: keep secrets out of it.
        severity: "debug", "info", "warning", "error" or "critical".
        outcome: "success", "blocked", "failed" or "intervened".
        user_id: whom it is about; the run's user when omitted.
        tool_name: which tool it is about; the one that is running when omitted.

    Raises:
        ReportingContractError: an argument cannot be part of an event, or category and name are those of an event of
            ActGuard's own; ``.field`` names it.

    Example:
        ``actguard.emit_event("billing", "invoice_sent", {"invoice": invoice.id}, severity="info")``
    """
    _identifier(category, "category")
    _identifier(name, "name")
    if f"{category}.{name}" in OWN_KINDS:
        raise ReportingContractError(
            f"emit_event: {category}.{name} is an event of ActGuard's own; give yours another name, "
            "or report an error with emit_violation(error)",
            field="name",
        )
    content: Any = {} if payload is None else payload
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise ReportingContractError("emit_event: payload must be a dict whose keys are texts", field="payload")
    _check(severity, _SEVERITIES, "severity", "emit_event")
    _check(outcome, _OUTCOMES, "outcome", "emit_event")
    _text(user_id, "user_id", "emit_event")
    _text(tool_name, "tool_name", "emit_event")
    _publish(
        CustomEvent,
        lambda facts: CustomEvent(
            **facts, category=category, name=name, payload=dict(content), severity=severity, outcome=outcome
        ),
        user_id=user_id,
        tool_name=tool_name,
    )


def emit_violation(error: BaseException, **overrides: Any) -> None:
    """Publish ``error`` as an event of the active run; outside a run, do nothing.

    A `BudgetExceededError` becomes ``budget.limit_exceeded``, any other error of ActGuard ``guard.blocked`` (outcome
    "blocked" or "failed", as the error says). Guards announce their refusals themselves: this is for errors that you
    raise, or want to be seen once more. Errors that are not ActGuard's are ignored.

    Args:
        error: the error, as you caught it.
        overrides: ``severity``, ``outcome``, ``user_id``, ``tool_name``, or a field of the budget scope, in place of
            what the error and the context say.

    Raises:
        ReportingContractError: an override is unknown or of a wrong kind; ``.field`` names it.

    Example:
        ``except actguard.BudgetExceededError as error: actguard.emit_violation(error); raise``
    """
    for field, value in overrides.items():
        if field in {"severity", "outcome"}:
            _check(value, _SEVERITIES if field == "severity" else _OUTCOMES, field, "emit_violation")
        elif field in {"user_id", "tool_name", *_IDENTITY}:
            _text(value, field, "emit_violation")
        else:
            raise ReportingContractError(f"emit_violation: there is no field {field!r} to override", field=field)
    if isinstance(error, BudgetExceededError):
        known = {name: getattr(error, name, None) for name in (*_FIGURES, *_IDENTITY, "user_id")}
        chosen = {name: value for name, value in known.items() if value is not None} | overrides
        _publish(BudgetLimitExceeded, lambda facts: BudgetLimitExceeded(**facts), **chosen)
    elif isinstance(error, ActGuardError):
        guard = next((name for kind, name in _GUARDS.items() if isinstance(error, kind)), None)
        figures = {"code": error.code} | (error.details if guard is not None else {})
        said = {"outcome": error.outcome, "guard_name": guard or error.reason, "error_type": type(error).__name__}
        chosen = said | {"figures": figures} | overrides
        _publish(GuardBlocked, lambda facts: GuardBlocked(**facts), **chosen)


def _publish(kind: type[ScopedEvent], build: Callable[[dict[str, Any]], ScopedEvent], **facts: Any) -> None:
    """Publish what ``build`` makes of ``facts`` and of what is active here."""
    run = active_run()
    if run is None or run.closed or not run.bus.wants(kind):
        return
    here: dict[str, Any] = {"run_id": run.run_id, "user_id": run.user_id, "tool_name": current_tool.get()}
    if (budget := active_budget()) is not None:
        here.update(budget.identity())
    here.update({name: value for name, value in facts.items() if value is not None})
    run.bus.publish(build(here))


def _identifier(value: object, field: str) -> None:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ReportingContractError(
            f"emit_event: {field} must be a short name of letters, digits, _, - and dots", field=field
        )


def _check(value: object, allowed: tuple[str, ...], field: str, what: str) -> None:
    if value not in allowed:
        names = ", ".join(f'"{each}"' for each in allowed)
        raise ReportingContractError(f"{what}: {field} must be one of {names}", field=field)


def _text(value: object, field: str, what: str) -> None:
    if value is not None and (not isinstance(value, str) or not value):
        raise ReportingContractError(f"{what}: {field} must be a non-empty str or None", field=field)
