"""ActGuard keeps AI agents inside the money and the actions that their owners allow.

The names below are loaded when they are first used, so that ``import actguard`` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actguard import events, exceptions, providers, testing
    from actguard.client import Client
    from actguard.context import carry
    from actguard.exceptions import (
        ActGuardError,
        ActGuardPaymentRequired,
        ActGuardToolError,
        BudgetExceededError,
        GuardError,
        MonitoringDegradedError,
    )
    from actguard.guards.budget import BudgetGuard, add_cost
    from actguard.guards.circuit_breaker import circuit_breaker
    from actguard.guards.enforce import enforce
    from actguard.guards.figures import BreakdownRow
    from actguard.guards.idempotent import idempotent
    from actguard.guards.max_attempts import max_attempts
    from actguard.guards.policy import Ask, Deny, ToolCall
    from actguard.guards.prove import prove
    from actguard.guards.rate_limit import rate_limit
    from actguard.guards.reporting import emit_event, emit_violation
    from actguard.guards.run import Run
    from actguard.guards.session import session, trust
    from actguard.guards.timeout import timeout
    from actguard.guards.workers import shutdown
    from actguard.money.own_prices import Price
    from actguard.rules.custody import (
        AllOf,
        AnyOf,
        BlockRegex,
        CumulativeLimit,
        OneOf,
        RequireCall,
        RequireFact,
        Rule,
        Threshold,
    )
    from actguard.rules.failures import (
        FAIL_ON_DEFAULT,
        FAIL_ON_INFRA_ONLY,
        FAIL_ON_STRICT,
        IGNORE_ON_DEFAULT,
        FailureKind,
    )
    from actguard.tool_decorator import tool

__version__ = "2.0.0.dev0"

_HOMES = {
    "ActGuardError": "actguard.exceptions",
    "ActGuardPaymentRequired": "actguard.exceptions",
    "ActGuardToolError": "actguard.exceptions",
    "AllOf": "actguard.rules.custody",
    "AnyOf": "actguard.rules.custody",
    "Ask": "actguard.guards.policy",
    "BlockRegex": "actguard.rules.custody",
    "BreakdownRow": "actguard.guards.figures",
    "BudgetExceededError": "actguard.exceptions",
    "BudgetGuard": "actguard.guards.budget",
    "Client": "actguard.client",
    "CumulativeLimit": "actguard.rules.custody",
    "Deny": "actguard.guards.policy",
    "FAIL_ON_DEFAULT": "actguard.rules.failures",
    "FAIL_ON_INFRA_ONLY": "actguard.rules.failures",
    "FAIL_ON_STRICT": "actguard.rules.failures",
    "FailureKind": "actguard.rules.failures",
    "GuardError": "actguard.exceptions",
    "IGNORE_ON_DEFAULT": "actguard.rules.failures",
    "MonitoringDegradedError": "actguard.exceptions",
    "OneOf": "actguard.rules.custody",
    "Price": "actguard.money.own_prices",
    "RequireCall": "actguard.rules.custody",
    "RequireFact": "actguard.rules.custody",
    "Rule": "actguard.rules.custody",
    "Run": "actguard.guards.run",
    "Threshold": "actguard.rules.custody",
    "ToolCall": "actguard.guards.policy",
    "add_cost": "actguard.guards.budget",
    "carry": "actguard.context",
    "circuit_breaker": "actguard.guards.circuit_breaker",
    "emit_event": "actguard.guards.reporting",
    "emit_violation": "actguard.guards.reporting",
    "enforce": "actguard.guards.enforce",
    "idempotent": "actguard.guards.idempotent",
    "max_attempts": "actguard.guards.max_attempts",
    "prove": "actguard.guards.prove",
    "rate_limit": "actguard.guards.rate_limit",
    "session": "actguard.guards.session",
    "shutdown": "actguard.guards.workers",
    "timeout": "actguard.guards.timeout",
    "tool": "actguard.tool_decorator",
    "trust": "actguard.guards.session",
}
_MODULES = ("events", "exceptions", "providers", "testing")

__all__ = [
    "ActGuardError",
    "ActGuardPaymentRequired",
    "ActGuardToolError",
    "AllOf",
    "AnyOf",
    "Ask",
    "BlockRegex",
    "BreakdownRow",
    "BudgetExceededError",
    "BudgetGuard",
    "Client",
    "CumulativeLimit",
    "Deny",
    "FAIL_ON_DEFAULT",
    "FAIL_ON_INFRA_ONLY",
    "FAIL_ON_STRICT",
    "FailureKind",
    "GuardError",
    "IGNORE_ON_DEFAULT",
    "MonitoringDegradedError",
    "OneOf",
    "Price",
    "RequireCall",
    "RequireFact",
    "Rule",
    "Run",
    "Threshold",
    "ToolCall",
    "add_cost",
    "carry",
    "circuit_breaker",
    "emit_event",
    "emit_violation",
    "enforce",
    "events",
    "exceptions",
    "idempotent",
    "max_attempts",
    "prove",
    "providers",
    "rate_limit",
    "session",
    "shutdown",
    "testing",
    "timeout",
    "tool",
    "trust",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"actguard.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'actguard' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
