"""``@tool``: all guards of a tool in one decorator.

The module is not called ``tool``: importing it would put it in the place of the decorator ``actguard.tool``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Any, TypeVar, overload

from actguard.exceptions import ActGuardUsageError
from actguard.guards.circuit_breaker import circuit_breaker as make_circuit_breaker
from actguard.guards.guarding import Guard
from actguard.guards.idempotent import idempotent as make_idempotent
from actguard.guards.max_attempts import max_attempts as make_max_attempts
from actguard.guards.policy import Check, Policy
from actguard.guards.rate_limit import rate_limit as make_rate_limit
from actguard.guards.timeout import timeout as make_timeout
from actguard.guards.wrapping import decorate

F = TypeVar("F", bound=Callable[..., Any])
Settings = Mapping[str, Any]


class ToolDecorator:
    """What `tool` returns when it is called with arguments: the guards, the outermost first."""

    def __init__(self, guards: tuple[Guard[Any], ...]) -> None:
        self.guards = guards

    def __call__(self, function: F) -> F:
        """Decorate ``function``."""
        return decorate(function, *self.guards)


def _part(name: str, make: Callable[..., Guard[Any]], settings: object, left_out: str = "") -> tuple[Guard[Any], ...]:
    """The guard that ``settings`` describe; none for None."""
    if settings is None:
        return ()
    if not isinstance(settings, Mapping):
        raise ActGuardUsageError(
            f"tool: {name} must be a dict of the parameters of {name}, not a {type(settings).__name__}", field=name
        )
    parameters = inspect.signature(make).parameters.values()
    known = [each.name for each in parameters if each.kind is not each.POSITIONAL_ONLY and each.name != left_out]
    unknown = next((key for key in settings if key not in known), None)
    if unknown is not None:
        raise ActGuardUsageError(
            f"tool: {name} has no parameter {unknown!s:.40}; it has {', '.join(known)}", field=f"{name}.{unknown}"
        )
    for each in parameters:
        if each.default is each.empty and each.name in known and each.name not in settings:
            raise ActGuardUsageError(f"tool: {name} needs {each.name}", field=f"{name}.{each.name}")
    return (make(**settings),)


def _timeout(settings: object, executor: Executor | None) -> tuple[Guard[Any], ...]:
    if settings is None:
        if executor is not None:
            raise ActGuardUsageError("tool: timeout_executor needs a timeout", field="timeout_executor")
        return ()
    given = dict(settings) if isinstance(settings, Mapping) else {"seconds": settings}
    if executor is not None and given.setdefault("executor", executor) is not executor:
        raise ActGuardUsageError(
            "tool: give the executor once, as timeout_executor or in timeout", field="timeout_executor"
        )
    return _part("timeout", make_timeout, given)


def _policy(settings: object) -> tuple[Guard[Any], ...]:
    return _part("policy", Policy, {"check": settings} if callable(settings) else settings)


@overload
def tool(function: F, /) -> F: ...
@overload
def tool(
    *,
    idempotent: Settings | None = None,
    max_attempts: Settings | None = None,
    policy: Check | Settings | None = None,
    circuit_breaker: Settings | None = None,
    rate_limit: Settings | None = None,
    timeout: float | Settings | None = None,
    timeout_executor: Executor | None = None,
) -> ToolDecorator: ...
def tool(
    function: Any = None,
    /,
    *,
    idempotent: Settings | None = None,
    max_attempts: Settings | None = None,
    policy: Check | Settings | None = None,
    circuit_breaker: Settings | None = None,
    rate_limit: Settings | None = None,
    timeout: float | Settings | None = None,
    timeout_executor: Executor | None = None,
) -> Any:
    """Guard a tool with several guards at once; bare, only watch it (``tool.invoke``, ``tool.failure``).

    They run in this order, whatever order they are written in: idempotent, max_attempts, policy, circuit_breaker,
    rate_limit, timeout, then the function. `prove` and `enforce` are decorators of their own, below this one.

    Args:
        idempotent: the parameters of `idempotent`, as a dict (``{}`` for its defaults).
        max_attempts: the parameters of `max_attempts`: ``{"calls": 3}``.
        policy: a function ``(ToolCall) -> "allow" | "deny" | "ask" | Deny(reason) | Ask(reason)``, plain or async; or a
            dict with that function as ``check``, ``ask_timeout_s`` (how long an approval is waited for, 300 seconds)
            and ``default`` ("deny" or "allow": what holds when nobody decided in that time). An async policy of a
            plain tool runs in an event loop of its own, in a worker thread. A plain tool blocks its thread meanwhile.
        circuit_breaker: the parameters of `circuit_breaker`; ``name`` is needed.
        rate_limit: the parameters of `rate_limit`.
        timeout: seconds, or the parameters of `timeout`.
        timeout_executor: where a plain function with a timeout runs instead of ActGuard's own workers.

    Raises:
        ActGuardUsageError: a part or a setting is wrong; ``.field`` names it (when decorating). Settings raise the
            subclass that the part itself raises.
        ActGuardToolError: a guard refused the call (when called).

    Example::

        @actguard.tool(
            idempotent={}, max_attempts={"calls": 3}, circuit_breaker={"name": "bank"},
            rate_limit={"max_calls": 10, "period": 60, "scope": "account"}, timeout=5,
        )
        async def transfer(account: str, amount: int, *, idempotency_key: str) -> str: ...
    """
    guards = (
        *_part("idempotent", make_idempotent, idempotent, left_out="key"),
        *_part("max_attempts", make_max_attempts, max_attempts),
        *_policy(policy),
        *_part("circuit_breaker", make_circuit_breaker, circuit_breaker),
        *_part("rate_limit", make_rate_limit, rate_limit, left_out="key"),
        *_timeout(timeout, timeout_executor),
    )
    decorator = ToolDecorator(guards)
    return decorator if function is None else decorator(function)
