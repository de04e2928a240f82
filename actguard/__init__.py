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
    from actguard.guards.figures import BreakdownRow
    from actguard.guards.run import Run
    from actguard.money.own_prices import Price

__version__ = "2.0.0.dev0"

_HOMES = {
    "ActGuardError": "actguard.exceptions",
    "ActGuardPaymentRequired": "actguard.exceptions",
    "ActGuardToolError": "actguard.exceptions",
    "BreakdownRow": "actguard.guards.figures",
    "BudgetExceededError": "actguard.exceptions",
    "BudgetGuard": "actguard.guards.budget",
    "Client": "actguard.client",
    "GuardError": "actguard.exceptions",
    "MonitoringDegradedError": "actguard.exceptions",
    "Price": "actguard.money.own_prices",
    "Run": "actguard.guards.run",
    "add_cost": "actguard.guards.budget",
    "carry": "actguard.context",
}
_MODULES = ("events", "exceptions", "providers", "testing")

__all__ = [
    "ActGuardError",
    "ActGuardPaymentRequired",
    "ActGuardToolError",
    "BreakdownRow",
    "BudgetExceededError",
    "BudgetGuard",
    "Client",
    "GuardError",
    "MonitoringDegradedError",
    "Price",
    "Run",
    "add_cost",
    "carry",
    "events",
    "exceptions",
    "providers",
    "testing",
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
