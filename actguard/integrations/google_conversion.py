"""Delivering a crossing as the user should see it, past what the Google SDK does above the hooks.

The hooks see HTTP responses, which methods above them convert: a crossing is kept while such a method runs, and raised
when its result is there. And streams that break off are taken up again above the hooks, unless a budget ended them.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from actguard.context import Process, active_budget
from actguard.exceptions import BudgetExceededError
from actguard.guards.tree import raises
from actguard.integrations.metering import Settlement, Switch
from actguard.rules import ledger


class _Conversion:
    """A method of the SDK that will turn the answer into what the user gets."""

    __slots__ = ("_crossing",)

    def __init__(self) -> None:
        self._crossing: BudgetExceededError | None = None

    def take(self, settlement: Settlement) -> None:
        self._crossing = settlement.take_error() or self._crossing

    def delivered(self, result: Any) -> Any:
        """The method's result, or the crossing with it.

        Raises:
            BudgetExceededError: the call crossed a limit; ``result`` is its ``.response``.
        """
        if (crossing := self._crossing) is None:
            return result
        crossing.response = result
        raise crossing


_conversion: ContextVar[_Conversion | None] = ContextVar("actguard_google_conversion", default=None)


def conversion_takes(settlement: Settlement) -> None:
    """Leave the crossing of a settled call to the method that converts its answer, if there is one."""
    conversion = _conversion.get()
    if conversion is not None:
        conversion.take(settlement)


def sync_conversion(original: Callable[..., Any], switch: Switch) -> Callable[..., Any]:
    """Wrap a method that converts what a hooked one returns. It looks nothing up where no scope is open."""

    @functools.wraps(original)
    def convert(owner: Any, *args: Any, **kwargs: Any) -> Any:
        if not Process.open_roots or not switch.applied:
            return original(owner, *args, **kwargs)
        conversion = _Conversion()
        token = _conversion.set(conversion)
        try:
            result = original(owner, *args, **kwargs)
        finally:
            _conversion.reset(token)
        return conversion.delivered(result)

    return convert


def async_conversion(original: Callable[..., Awaitable[Any]], switch: Switch) -> Callable[..., Awaitable[Any]]:
    """`sync_conversion` for a coroutine function."""

    @functools.wraps(original)
    async def convert(owner: Any, *args: Any, **kwargs: Any) -> Any:
        if not Process.open_roots or not switch.applied:
            return await original(owner, *args, **kwargs)
        conversion = _Conversion()
        token = _conversion.set(conversion)
        try:
            result = await original(owner, *args, **kwargs)
        finally:
            _conversion.reset(token)
        return conversion.delivered(result)

    return convert


def budget_ends_stream(original: Callable[..., Any], switch: Switch) -> Callable[..., Any]:
    """Wrap the method with which the SDK takes up an interrupted stream again: what a budget stopped stays stopped."""

    @functools.wraps(original)
    def end_hop(state: Any, error: Exception | None = None) -> Any:
        if switch.applied and isinstance(error, BudgetExceededError):
            raise error
        goes_on = original(state, error)
        return goes_on and not (switch.applied and error is None and _ended_quietly())

    return end_hop


def _ended_quietly() -> bool:
    """True when the scope here is full and says so by ending streams, not by an error."""
    budget = active_budget()
    if budget is None:
        return False
    with budget.tree.lock:
        return ledger.full(budget.account) is not None and ledger.full(budget.account, raises) is None
