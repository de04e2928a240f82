"""Admit, call, charge: the one path that every provider call takes, whatever the SDK.

    hook (below)                 finds the budget scope; without one the SDK's method runs as if it were not patched
      └─ open_exchange(…)        per SDK: is this request billable? An `Exchange` for it, or None: free, never blocked
           └─ Exchange.request() what the request says about its cost           → the scope admits it (or refuses)
                └─ the SDK's own method, with the exchange's args and kwargs
                     ├─ it raises:  Exchange.failure(error) says what that cost    → the settlement
                     └─ it returns: Exchange.answer(result, settlement) charges it, or lets a stream charge it later

An integration writes two things, neither of which ever waits: a function ``open_exchange(client, args, kwargs)`` and a
subclass of `Exchange`. `sync_hook` and `async_hook` drive them; they differ by one ``await``. Streams are metered by
`actguard.integrations.streams`.

Reading a request or an answer never breaks the user's call: whatever goes wrong in an integration is reported once as
an `ActGuardMonitoringWarning`, and the call is charged with its estimate. The only error that a hook adds to a call is
the budget's own.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Protocol

from actguard.context import Process, active_budget, note_uncounted_call
from actguard.guards.admission import Asked
from actguard.guards.bounding import Bound
from actguard.guards.budget import BudgetGuard
from actguard.guards.charging import Ticket
from actguard.integrations.degraded import NOT_COUNTED, report
from actguard.integrations.settlement import FREE, Bill, Deferred, Outcome, Request, Settlement, Unknown
from actguard.scope import step

__all__ = [
    "FREE",
    "Bill",
    "Bound",
    "Deferred",
    "Exchange",
    "OpenExchange",
    "Outcome",
    "Request",
    "Settlement",
    "Switch",
    "Unknown",
    "async_hook",
    "sync_hook",
    "under_way",
]


class Exchange(ABC):
    """One billable request and its answer, as one SDK makes them. Subclasses read; they never wait.

    ``args`` and ``kwargs`` are what the SDK's method is called with. `request` may replace them (to ask a stream for
    its usage); the caller's own objects are not changed.
    """

    provider: str = "unknown"
    """Who answers, unless ``base_url`` says that it is somebody else."""
    base_url: str | None = None
    """Where the client sends its requests: a compatible server of another provider is known by its host."""
    refusable: bool = True
    """False for calls that may carry a bill but must work over budget (fetching a finished answer)."""
    uncounted: str | None = None
    """What the call uses that nobody can count, in the plural: ``"fine-tuning jobs"``; None: its cost will be known."""

    lost: int = 0
    """How many attempts the SDK has given up and made again although they may have been billed."""

    def __init__(self, client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.client = client
        self.args = args
        self.kwargs = kwargs

    @abstractmethod
    def request(self) -> Request:
        """Read what the request says about its cost."""

    @abstractmethod
    def failure(self, error: BaseException) -> Outcome:
        """What a call that ended in ``error`` did cost. Cancellation after sending is `Unknown`."""

    @abstractmethod
    def answer(self, result: Any, settlement: Settlement) -> Any:
        """Charge ``result``, or arrange for a stream to charge itself; return what the caller gets.

        A crossing is raised by the hook, with the returned object as ``.response``. An exchange whose SDK goes on to
        convert the result takes it with ``settlement.take_error()`` and raises it itself, where the answer is complete.
        """

    def bound(self) -> Bound | None:
        """The most that the call can cost, for scopes with ``enforcement="hard"``; None: nobody knows."""
        return None

    def reasoning_effort(self) -> Any:
        """How hard the model is asked to think, in the provider's words; no text: the request does not say."""
        return None

    def limit_output(self, tokens: int) -> None:
        """Lower (or set) the request's output limit to ``tokens`` per answer. Only called where `bound` allows it."""
        raise NotImplementedError

    def resend(self, error: BaseException) -> bool:
        """True when the request was changed and shall be sent once more instead of raising ``error``."""
        return False


class Switch(Protocol):
    """Whether the hooks are on. A hook that another tool has wrapped cannot be taken out: it is switched off."""

    applied: bool


OpenExchange = Callable[[Any, tuple[Any, ...], dict[str, Any]], Exchange | None]
"""(client, args, kwargs) of the SDK's method → an exchange, or None when the request is free."""


class Call:
    """One admitted call between the hook and the settlement: everything about it that does not wait."""

    __slots__ = ("_exchange", "_settlement")

    def __init__(self, budget: BudgetGuard, exchange: Exchange, ticket: Ticket) -> None:
        self._exchange = exchange
        self._settlement = Settlement(ticket, budget)
        if ticket.is_listed:
            ticket.reasoning_effort = effort_of(exchange)
        if ticket.output_limit is not None:
            try:
                exchange.limit_output(ticket.output_limit)
            except BaseException:  # a call that cannot be limited is not sent
                ticket.release()
                raise

    def failed(self, error: BaseException) -> bool:
        """Settle a call that raised; True: send it again instead."""
        try:
            if self._exchange.resend(error):
                return True
            if self._exchange.lost:
                self._settlement.lost(self._exchange.lost)
            outcome = self._exchange.failure(error)
        except Exception as problem:  # noqa: BLE001  the user gets the SDK's error, not ours
            report("read the error of a call", self._exchange.provider, problem)
            outcome = Unknown()
        self._settlement.settle(outcome)
        return False

    def answered(self, result: Any) -> Any:
        """Settle a call that returned; what the caller gets.

        Raises:
            BudgetExceededError: this call crossed a limit; the answer is its ``.response``.
        """
        exchange, settlement = self._exchange, self._settlement
        try:
            if exchange.lost:
                settlement.lost(exchange.lost)
            result = exchange.answer(result, settlement)
        except Exception as problem:  # noqa: BLE001  the answer is paid: it is delivered whatever our reading does
            report("read an answer", exchange.provider, problem)
            settlement.unknown()
        if (error := settlement.take_error()) is not None:
            error.response = result
            raise error
        return result


under_way: ContextVar[Exchange | None] = ContextVar("actguard_exchange", default=None)
"""The exchange that an SDK is making in this context, for hooks on what it does meanwhile."""


def opened(open_exchange: OpenExchange, client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Exchange | None:
    """The exchange for a call of an SDK's method; None when it is free."""
    try:
        return open_exchange(client, args, kwargs)
    except Exception as problem:  # noqa: BLE001  a request that cannot be read is the SDK's to judge
        report("route a request", "provider", problem, NOT_COUNTED)
        return None


def question(budget: BudgetGuard, exchange: Exchange) -> Asked:
    """Reads the request of ``exchange`` for ``budget``, whose prices are loaded.

    Raises:
        GuardError: nobody can count what it costs, and the scope needs to know (``UNPRICED_CALL``).
    """
    if exchange.uncounted is not None:
        budget.note_uncounted(exchange.provider, exchange.uncounted)
    try:
        request = exchange.request()
        bound = exchange.bound() if budget.bounds and exchange.refusable else None
    except Exception as problem:  # noqa: BLE001  the answer will still say what it cost
        report("read a request", exchange.provider, problem)
        request, bound = Request(model="unknown", api="unknown"), None
    provider = budget.prices.provider_for_url(exchange.base_url, exchange.provider)
    return Asked(provider, *request, bound, exchange.refusable)


def effort_of(exchange: Exchange) -> str | None:
    """`Exchange.reasoning_effort`, as far as it can be read."""
    try:
        effort = exchange.reasoning_effort()
    except Exception as problem:  # noqa: BLE001  an addition to the settlement, no more
        report("read a request", exchange.provider, problem)
        return None
    return effort if isinstance(effort, str) and effort else None


def note_if_billable(open_exchange: OpenExchange, client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A call found no scope while one is open elsewhere: have it reported when it is a billable one."""
    exchange = opened(open_exchange, client, args, kwargs)
    if exchange is not None and exchange.refusable:
        note_uncounted_call(exchange.provider)


def sync_hook(original: Callable[..., Any], open_exchange: OpenExchange, switch: Switch) -> Callable[..., Any]:
    """Meter an SDK method that returns its answer (or a generator, sync or async, that fetches it lazily).

    Example: ``SyncAPIClient.request = sync_hook(SyncAPIClient.request, open_exchange, switch)``
    """

    @functools.wraps(original)
    def request(client: Any, *args: Any, **kwargs: Any) -> Any:
        if (budget := active_budget()) is None or not switch.applied:
            if Process.open_roots and switch.applied:
                note_if_billable(open_exchange, client, args, kwargs)
            return original(client, *args, **kwargs)
        if (exchange := opened(open_exchange, client, args, kwargs)) is None:
            return original(client, *args, **kwargs)
        if not budget.ready:
            budget.wait_ready()
        asked = question(budget, exchange)
        ticket = budget.admit_at_once(asked) or step(budget.admit_in_turn(asked))
        call = Call(budget, exchange, ticket)
        while True:
            token = under_way.set(exchange)
            try:
                result = original(client, *exchange.args, **exchange.kwargs)
            except BaseException as error:
                if call.failed(error):
                    continue
                raise
            finally:
                under_way.reset(token)
            return call.answered(result)

    return request


def async_hook(
    original: Callable[..., Awaitable[Any]], open_exchange: OpenExchange, switch: Switch
) -> Callable[..., Awaitable[Any]]:
    """Meter an SDK method that is a coroutine function: `sync_hook` with an ``await``."""

    @functools.wraps(original)
    async def request(client: Any, *args: Any, **kwargs: Any) -> Any:
        if (budget := active_budget()) is None or not switch.applied:
            if Process.open_roots and switch.applied:
                note_if_billable(open_exchange, client, args, kwargs)
            return await original(client, *args, **kwargs)
        if (exchange := opened(open_exchange, client, args, kwargs)) is None:
            return await original(client, *args, **kwargs)
        if not budget.ready:
            await budget.await_ready()
        asked = question(budget, exchange)
        ticket = budget.admit_at_once(asked) or await budget.admit_in_turn(asked)
        call = Call(budget, exchange, ticket)
        while True:
            token = under_way.set(exchange)
            try:
                result = await original(client, *exchange.args, **exchange.kwargs)
            except BaseException as error:
                if call.failed(error):
                    continue
                raise
            finally:
                under_way.reset(token)
            return call.answered(result)

    return request
