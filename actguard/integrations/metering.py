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
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from actguard.context import _Process, active_budget, note_uncounted_call
from actguard.exceptions import BudgetExceededError
from actguard.integrations.answers import CountedAnswers, answers_of
from actguard.integrations.degraded import report
from actguard.money.usage import Usage


@dataclass(frozen=True, slots=True)
class Request:
    """What a request says about its cost before it is sent."""

    model: str
    """The model as the provider will read it; ``"unknown"`` when the request does not name one."""
    api: str
    """Which API: ``"chat.completions"``, ``"messages"``, ``"generate_content"`` …"""
    stream: bool = False
    estimate: Usage = Usage()  # noqa: RUF009  frozen
    """The input as estimated from the body; its output is not looked at."""
    output_limit: int | None = None
    """The most output tokens that the provider will generate for this request; None: it names no limit."""


@dataclass(frozen=True, slots=True)
class Bill:
    """What one call did cost, read from its answer."""

    usage: Usage
    model: str | None = None
    """The model that answered, when the answer names it."""
    provider: str | None = None
    """The provider that answered, when it is another one than was asked."""
    context: Mapping[str, str] | None = None
    """Price context: ``{"service_tier": "flex"}``, ``{"processing": "batch"}``, ``{"speed": "fast"}``."""
    estimated: bool = False
    """The usage is not the provider's own and final figure."""
    id: str | None = None
    """The answer's id, when the same answer can be fetched again: it is then charged once per id and client."""


class Unknown(NamedTuple):
    """A failed call that was sent: the provider may have billed it, and nobody can say how much."""

    attempts: int = 1
    """How many times it was sent: an SDK that retries a timeout may be billed for each."""


Outcome = Bill | Unknown | None
"""What a failed call cost: a known amount, an unknown one, or nothing (None)."""

FREE: None = None
"""Nothing was billed: an error status, a connection that never stood, a request that was not sent."""


class Settlement:
    """How one admitted call ends. Streams outlive their call and hold on to this.

    All methods are thread-safe, cheap, never suspend and never raise, and may be called from ``__del__``. The first
    one that settles wins; only an exact charge after an estimated one still counts, and corrects it.
    """

    __slots__ = ("_answers", "_error", "_ticket")

    def __init__(self, ticket: Any, answers: CountedAnswers) -> None:
        self._ticket = ticket
        self._answers = answers
        self._error: BudgetExceededError | None = None

    @property
    def settled(self) -> bool:
        """True once something was charged or the hold was given back."""
        return bool(self._ticket.settled)

    def charge(self, bill: Bill) -> None:
        """Charge what the call did cost. An answer that was counted before under the same id costs nothing again."""
        ticket = self._ticket if bill.id is None else self._answers.claim(bill.id, self._ticket)
        if ticket is None:
            self._ticket.release()
            return
        if ticket is not self._ticket:
            self._ticket.release()
            self._ticket = ticket
        error = ticket.charge(
            bill.usage, provider=bill.provider, model=bill.model, context=bill.context, estimated=bill.estimated
        )
        if bill.id is not None and not bill.estimated:
            self._answers.counted(bill.id)
        self._error = error or self._error

    def unknown(self, attempts: int = 1) -> None:
        """The call was sent and nobody can say what it used: charge the estimate, once per attempt."""
        self._error = self._ticket.charge_estimate(attempts) or self._error

    def release(self) -> None:
        """Nothing was billed: give the hold back."""
        self._ticket.release()

    def defer(self, answer_id: str) -> None:
        """The answer will be generated in the background: its usage comes with a later call that has this id.

        The hold stays until then, and becomes an estimated charge when the scope ends first.
        """
        ticket = self._answers.claim(answer_id, self._ticket)
        if ticket is not self._ticket:
            self._ticket.release()

    def settle(self, outcome: Outcome) -> None:
        """Charge a failed call's `Outcome`."""
        if outcome is None:
            self.release()
        elif isinstance(outcome, Bill):
            self.charge(outcome)
        else:
            self.unknown(outcome.attempts)

    def watch(self, so_far: Callable[[], Usage]) -> None:
        """Say where the scope can ask, when it ends first, what a stream has used so far."""
        self._ticket.watch(so_far)

    def check(self, so_far: Usage) -> tuple[BudgetExceededError | None, int]:
        """Has a running stream reached a limit? And how many output tokens later to ask again."""
        error, tokens = self._ticket.check(so_far)
        return error, tokens

    def take_error(self) -> BudgetExceededError | None:
        """The crossing to raise, at most once: who takes it sets ``.response`` or ``.partial`` and raises it."""
        error, self._error = self._error, None
        return error


class Exchange(ABC):
    """One billable request and its answer, as one SDK makes them. Subclasses read; they never wait.

    ``args`` and ``kwargs`` are what the SDK's method is called with. `request` may replace them (to ask a stream for
    its usage); the caller's own objects are not changed.
    """

    provider: str = "unknown"
    refusable: bool = True
    """False for calls that may carry a bill but must work over budget (fetching a finished answer)."""

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

    def __init__(self, exchange: Exchange, settlement: Settlement) -> None:
        self._exchange = exchange
        self._settlement = settlement

    @property
    def args(self) -> tuple[Any, ...]:
        return self._exchange.args

    @property
    def kwargs(self) -> dict[str, Any]:
        return self._exchange.kwargs

    def failed(self, error: BaseException) -> bool:
        """Settle a call that raised; True: send it again instead."""
        try:
            if self._exchange.resend(error):
                return True
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
        try:
            result = self._exchange.answer(result, self._settlement)
        except Exception as problem:  # noqa: BLE001  the answer is paid: it is delivered whatever our reading does
            report("read an answer", self._exchange.provider, problem)
            self._settlement.unknown()
        if (error := self._settlement.take_error()) is not None:
            error.response = result
            raise error
        return result


def admit(
    budget: Any, open_exchange: OpenExchange, client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Call | None:
    """Admit one call of an SDK's method to ``budget``; None when it is free.

    Raises:
        BudgetExceededError: a scope in the chain is full.
        GuardError: the model has no price and the client says ``on_unpriced="raise"``.
    """
    try:
        exchange = open_exchange(client, args, kwargs)
    except Exception as problem:  # noqa: BLE001  a request that cannot be read is the SDK's to judge
        report("read a request", "the provider", problem)
        return None
    if exchange is None:
        return None
    try:
        request = exchange.request()
    except Exception as problem:  # noqa: BLE001  the answer will still say what it cost
        report("read a request", exchange.provider, problem)
        request = Request(model="unknown", api="unknown")
    ticket = budget.admit(
        provider=exchange.provider,
        model=request.model,
        api=request.api,
        stream=request.stream,
        estimate=request.estimate,
        output_limit=request.output_limit,
        refusable=exchange.refusable,
    )
    return Call(exchange, Settlement(ticket, answers_of(budget)))


def note_if_billable(open_exchange: OpenExchange, client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A call found no scope while one is open elsewhere: have it reported when it is a billable one."""
    try:
        exchange = open_exchange(client, args, kwargs)
    except Exception as problem:  # noqa: BLE001  outside a scope the SDK works as if it were not patched
        report("read a request", "the provider", problem)
        return
    if exchange is not None and exchange.refusable:
        note_uncounted_call(exchange.provider)


def sync_hook(original: Callable[..., Any], open_exchange: OpenExchange, switch: Switch) -> Callable[..., Any]:
    """Meter an SDK method that returns its answer (or a generator, sync or async, that fetches it lazily).

    Example: ``SyncAPIClient.request = sync_hook(SyncAPIClient.request, open_exchange, switch)``
    """

    @functools.wraps(original)
    def request(client: Any, *args: Any, **kwargs: Any) -> Any:
        if (budget := active_budget()) is None or not switch.applied:
            if _Process.open_roots and switch.applied:
                note_if_billable(open_exchange, client, args, kwargs)
            return original(client, *args, **kwargs)
        if (call := admit(budget, open_exchange, client, args, kwargs)) is None:
            return original(client, *args, **kwargs)
        while True:
            try:
                result = original(client, *call.args, **call.kwargs)
            except BaseException as error:
                if call.failed(error):
                    continue
                raise
            return call.answered(result)

    return request


def async_hook(
    original: Callable[..., Awaitable[Any]], open_exchange: OpenExchange, switch: Switch
) -> Callable[..., Awaitable[Any]]:
    """Meter an SDK method that is a coroutine function: `sync_hook` with an ``await``."""

    @functools.wraps(original)
    async def request(client: Any, *args: Any, **kwargs: Any) -> Any:
        if (budget := active_budget()) is None or not switch.applied:
            if _Process.open_roots and switch.applied:
                note_if_billable(open_exchange, client, args, kwargs)
            return await original(client, *args, **kwargs)
        if (call := admit(budget, open_exchange, client, args, kwargs)) is None:
            return await original(client, *args, **kwargs)
        while True:
            try:
                result = await original(client, *call.args, **call.kwargs)
            except BaseException as error:
                if call.failed(error):
                    continue
                raise
            return call.answered(result)

    return request
