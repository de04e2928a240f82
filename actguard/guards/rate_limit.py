"""``rate_limit``: at most so many calls in any window of time, per tool and per value of one of its arguments."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, Literal, TypeVar, overload

from actguard import clock
from actguard.exceptions import ActGuardUsageError, RateLimitExceeded, ScopeValidationError, quoted
from actguard.guards.arguments import choice
from actguard.guards.guarding import Guard
from actguard.guards.protocol import Quick, refused
from actguard.guards.state import shared
from actguard.guards.tools import Call, Tool, shown_name
from actguard.rules import checks, values
from actguard.rules.window import Admitted, Refused, Waiting, Window
from actguard.scope import Reply
from actguard.stores.memory import Key

F = TypeVar("F", bound=Callable[..., Any])

_LONGEST_SHOWN = 200
"""Characters of a scope's value that go into an event."""

OnLimit = Literal["raise", "wait"]


class RateLimit(Guard[None]):
    """What `rate_limit` returns."""

    name = "rate_limit"

    def __init__(self, max_calls: int, period: float, scope: str | None, on_limit: OnLimit, key: object) -> None:
        super().__init__()
        self._window = Window(max_calls, period)
        if scope is not None:
            checks.name(scope, "scope", "rate_limit", ScopeValidationError)
            if key is not None:
                raise ScopeValidationError("rate_limit: give either scope or key, not both", field="key")
        self._scope = scope
        waiting = choice(on_limit, ("raise", "wait"), "on_limit", "rate_limit", error=ScopeValidationError)
        self._waits = waiting == "wait"
        self.key = key
        self._read: Callable[[tuple[Any, ...], dict[str, Any]], Any] | None = None
        # A direct use without a key is a limit of its own; one with a key shares it with all that name the same.
        self._owner: object = ("direct", self if key is None else None)
        self._state_key = self._key_for(self._owner, key)
        self._slot = shared.slot(self._state_key)

    def _key_for(self, owner: object, value: object) -> Key:
        settings = (self._window.max_calls, self._window.period)
        return ("rate_limit", owner, settings, None if value is None else values.key_of(value))

    def bind(self, tool: Tool) -> RateLimit:
        if self.key is not None:
            raise ScopeValidationError("rate_limit: key is for direct use; a decorator takes scope", field="key")
        bound = super().bind(tool)
        bound._owner = tool.name
        bound._state_key = self._key_for(tool.name, None)
        bound._slot = shared.slot(bound._state_key)
        if self._scope is None:
            return bound
        try:
            bound._read = tool.reader(self._scope)
        except ActGuardUsageError as error:
            problem = str(error)
        else:
            return bound
        raise ScopeValidationError(f"rate_limit: scope: {problem}", field="scope")

    def enter(self, call: Call) -> Coroutine[Any, Any, None] | None:
        if not self._waits:
            self._admit(call.args, call.kwargs)
            return None
        key = self._state_key
        if self._read is not None:
            key = self._key_for(self._owner, self._read(call.args, call.kwargs))
        turn = _Turn(self._window, key, call)
        decision = turn.ask()
        return turn.wait(decision) if isinstance(decision, Waiting) else None

    def quick(self) -> Quick | None:
        return None if self._waits else self._admit

    def _admit(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._read is None:
            value = self.key
            answer = self._slot.apply(self._window.admit, clock.monotonic())
        else:
            value = self._read(args, kwargs)
            answer = shared.apply(self._key_for(self._owner, value), self._window.admit, clock.monotonic())
        if isinstance(answer, Refused):
            raise self._refused(value, answer)

    def _refused(self, value: object, answer: Refused) -> RateLimitExceeded:
        error = RateLimitExceeded(
            tool_name=shown_name(self.tool),
            scope_value=value,
            max_calls=self._window.max_calls,
            period=self._window.period,
            retry_after=answer.retry_after,
        )
        # The value of the argument stands in the figures only, and not at any length.
        message = f"{error.tool_name} was called more than {error.max_calls} times in {error.period:g} s"
        figures = {**error.details, "scope_value": _shown(value)}
        return refused(self, error, message=message, figures=figures)


class _Turn:
    """A call that waits its turn: first come, first served, and whoever gives up leaves no gap."""

    __slots__ = ("_call", "_key", "_me", "_window")

    def __init__(self, window: Window, key: Key, call: Call) -> None:
        self._window = window
        self._key = key
        self._call = call
        self._me = _Waiter()

    def ask(self) -> Waiting | Admitted:
        decision = shared.apply(self._key, self._window.turn, self._me, clock.monotonic())
        if not isinstance(decision, Waiting):
            _wake(decision.wake)
        return decision

    async def wait(self, decision: Waiting | Admitted) -> None:
        try:
            while isinstance(decision, Waiting):
                with contextlib.suppress(TimeoutError):
                    await self._call.wait(self._me.bell, decision.delay)
                self._me.bell = Reply()
                decision = self.ask()
        except BaseException:
            _wake(shared.apply(self._key, self._window.leave, self._me))
            raise


class _Waiter:
    """One call in the queue. Its bell is rung when it becomes the first."""

    __slots__ = ("bell",)

    def __init__(self) -> None:
        self.bell: Reply[None] = Reply()


def _shown(value: object) -> object:
    if value is None or type(value) in (int, float, bool):
        return value
    return value[:_LONGEST_SHOWN] if type(value) is str else quoted(value, _LONGEST_SHOWN)


def _wake(waiter: Any) -> None:
    if waiter is not None:
        waiter.bell.answer(None)


@overload
def rate_limit(function: F, /) -> F: ...
@overload
def rate_limit(
    *,
    max_calls: int = 10,
    period: float = 60.0,
    scope: str | None = None,
    on_limit: OnLimit = "raise",
    key: object = None,
) -> RateLimit: ...
def rate_limit(
    function: Any = None,
    /,
    *,
    max_calls: int = 10,
    period: float = 60.0,
    scope: str | None = None,
    on_limit: OnLimit = "raise",
    key: object = None,
) -> Any:
    """Allow at most ``max_calls`` calls in any window of ``period`` seconds, per tool.

    Works bare, with arguments, and directly: ``async with rate_limit(max_calls=5, period=60, key="alice"): …``

    Args:
        max_calls: the most calls that go on in any window; refused ones do not count.
        period: the length of the window in seconds.
        scope: the name of an argument; each of its values has a limit of its own.
        on_limit: "raise" refuses; "wait" waits its turn, first come, first served (a plain function blocks its thread).
        key: in direct use, what takes the place of that argument; blocks that name the same key share the limit.

    Raises:
        ScopeValidationError: a setting is wrong, or the tool has no argument ``scope`` (when decorating).
        RateLimitExceeded: the limit is reached (when called).

    Example::

        @actguard.rate_limit(max_calls=5, period=60, scope="user_id")
        async def send_mail(user_id: str, text: str) -> None: ...
    """
    guard = RateLimit(max_calls, period, scope, on_limit, key)
    return guard if function is None else guard(function)
