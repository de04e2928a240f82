"""Clients with middleware, which may answer a call themselves, or send it more than once (from SDK 0.112).

So it is not the call that is metered there but each request that goes out below the middleware: the SDK's own fallback
after a refusal, for one, is billed for the answer of every model that it asked. A crossing is raised by the call, with
what the middleware made of the answers; a request that a full budget refuses ends the call.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from actguard.context import active_budget, current_budget
from actguard.exceptions import BudgetExceededError
from actguard.integrations.anthropic import AnthropicExchange
from actguard.integrations.bodies import meter_body, unread
from actguard.integrations.metering import FREE, Bound, Exchange, Outcome, Request, Settlement, Switch
from actguard.integrations.metering import async_hook as metered_async
from actguard.integrations.metering import sync_hook as metered_sync
from actguard.integrations.stainless import json_of

_MARK = "actguard_call"


class MiddlewareExchange(AnthropicExchange):
    """A call through middleware: it costs nothing itself, and is refused when the budget is full."""

    def __init__(self, client: Any, args: tuple[Any, ...], kwargs: dict[str, Any], api: str) -> None:
        super().__init__(client, args, kwargs, api)
        self.budget = active_budget()
        self._crossing: BudgetExceededError | None = None
        self._paid: Any = None

    @property
    def lost(self) -> int:
        """None: each request that goes out is charged by itself, also when no answer comes."""
        return 0

    @lost.setter
    def lost(self, attempts: int) -> None:
        pass

    def request(self) -> Request:
        self.replace_options()
        self.options.__dict__[_MARK] = self  # copies of the options, which middleware makes, have it too
        return Request(model=self.model, api=self.api, stream=self.streams, output_limit=0)

    def bound(self) -> Bound | None:
        return Bound(0, output_tokens=0)

    def paid(self, answer: Any, crossing: BudgetExceededError | None) -> None:
        """A request was answered and charged."""
        self._paid = answer
        self._crossing = crossing or self._crossing

    def answer(self, result: Any, settlement: Settlement) -> Any:
        settlement.release()
        settlement.crossed(self._crossing)
        return result

    def failure(self, error: BaseException) -> Outcome:
        if isinstance(error, BudgetExceededError) and error.response is None and isinstance(self._paid, Mapping):
            construct = getattr(self.args[0] if self.args else self.kwargs.get("cast_to"), "construct", None)
            error.response = self._paid if construct is None else construct(**self._paid)
        return FREE


class AttemptExchange(AnthropicExchange):
    """One request below the middleware: a call of ``_attempt_request``."""

    def __init__(self, call: MiddlewareExchange, client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__(client, args, kwargs, call.api)
        self._call = call

    @property
    def options(self) -> Any:
        return _options(self.args, self.kwargs)

    @property
    def attempts(self) -> int:
        return 1

    def replace_options(self, **changes: Any) -> None:
        args, kwargs = self.args, self.kwargs
        self.args, self.kwargs = (None, *args), {**kwargs, "options": self.options}  # as of a call with ``cast_to``
        super().replace_options(**changes)
        options = self.kwargs["options"]
        self.args, self.kwargs = ((options, *args[1:]), kwargs) if args else (args, {**kwargs, "options": options})

    def see_parsed_answers(self) -> None:
        """Nothing is parsed here."""

    def answer(self, result: Any, settlement: Settlement) -> Any:
        response = result[0]
        if response.status_code >= 400:  # middleware may try again; else the SDK makes an exception of it
            settlement.release()
        elif unread(response):
            meter_body(response, self._body_reader(response), settlement, None)
        else:
            answer = json_of(response)
            self._settle_answer(answer, settlement)
            self._call.paid(answer, settlement.take_error())
        return result


def _options(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return kwargs["options"] if "options" in kwargs else args[0]


def call_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> MiddlewareExchange | None:
    """The call that a request is made for, when it goes through middleware and belongs to a scope."""
    call = _options(args, kwargs).__dict__.get(_MARK)
    return call if isinstance(call, MiddlewareExchange) else None


def open_attempt(client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Exchange | None:
    """An exchange for a request below middleware; None for all others, which their calls meter."""
    call = call_of(args, kwargs)
    return None if call is None else AttemptExchange(call, client, args, kwargs)


def sync_attempt(original: Callable[..., Any], switch: Switch) -> Callable[..., Any]:
    """Meter the requests below middleware in the scope of their call, which may be left by then."""
    metered = metered_sync(original, open_attempt, switch)

    @functools.wraps(original)
    def attempt(client: Any, *args: Any, **kwargs: Any) -> Any:
        if not switch.applied or (call := call_of(args, kwargs)) is None:
            return original(client, *args, **kwargs)
        token = current_budget.set(call.budget)
        try:
            return metered(client, *args, **kwargs)
        finally:
            current_budget.reset(token)

    return attempt


def async_attempt(original: Callable[..., Awaitable[Any]], switch: Switch) -> Callable[..., Awaitable[Any]]:
    """`sync_attempt` for a coroutine function."""
    metered = metered_async(original, open_attempt, switch)

    @functools.wraps(original)
    async def attempt(client: Any, *args: Any, **kwargs: Any) -> Any:
        if not switch.applied or (call := call_of(args, kwargs)) is None:
            return await original(client, *args, **kwargs)
        token = current_budget.set(call.budget)
        try:
            return await metered(client, *args, **kwargs)
        finally:
            current_budget.reset(token)

    return attempt


def has_middleware(client: Any) -> bool:
    """True when something stands between the calls of ``client`` and what goes out."""
    return bool(getattr(client, "_middleware", None)) and hasattr(client, "_attempt_request")
