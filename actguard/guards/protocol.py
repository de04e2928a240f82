"""How guards surround a call: the one protocol.

    enter     the guards are entered, from the outside in
    the body  runs; the drivers in `actguard.guards.wrapping` do that, one per kind of function
    leave     it returned: what was entered is left, from the inside out
    failed    it raised, or a guard refused: what was entered is left with the error

None of the functions ever waits. Where a guard has to wait, `enter` returns a coroutine for the driver to wait for.
Nearly no guard has to, and many have nothing to do at the end, so nearly every call costs a few plain function calls.
Guards that never wait, and need nothing of a call but its arguments, have a way in that is quicker still (`Quick`): no
object stands for the call then, 1.0 µs less. `quick_way` tells whether it is open to all guards of a tool.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, Protocol, TypeVar

from actguard import clock
from actguard.context import active_budget, active_run, current_session, current_tool
from actguard.events import GuardBlocked, GuardIntervention, ScopedEvent, ToolFailure, ToolInvoke
from actguard.exceptions import ActGuardError, ToolGuardError
from actguard.guards.tools import Call, Replay, Tool

LONGEST_MESSAGE = 256
"""Characters of a failure's message that go into an event."""


R = TypeVar("R", bound=ToolGuardError)


class CallScope:
    """A guard around one call that has something to do when it ends. Neither of its two exits waits."""

    __slots__ = ()

    given: Any = None
    """What ``async with`` gives when the guard is entered directly."""

    def returned(self, value: Any) -> Any:
        """The exit when the body has returned ``value``: what the caller gets. What it raises, `leave` is told."""
        return value

    def leave(self, error: BaseException | None) -> None:
        """The exit when the call ends with ``error``, or (None) when its body did not have to run. What is raised here
        takes the place of the error."""

    def withdraw(self, error: BaseException) -> None:
        """The exit when the call ends with ``error`` before its body has begun: it had no effect."""
        self.leave(error)


Entered = CallScope | Replay | None
"""What entering a guard gives: a scope to leave, the result in place of the body's, or nothing to do when it ends."""
Waiting = Coroutine[Any, Any, Entered]
Quick = Callable[[tuple[Any, ...], dict[str, Any]], CallScope | None]
"""The quick way into a guard: lets the call with these ``(args, kwargs)`` go on, or refuses it by raising, or raises
`Replayed`."""


class Replayed(BaseException):
    """Raised by the quick way into a guard: here is the result, the body must not run. An exception, so that the many
    calls that are none need not look. It never leaves the driver."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


class Named(Protocol):
    """A guard, as far as an event has to name it."""

    @property
    def name(self) -> str: ...
    @property
    def tool(self) -> Tool | None: ...


class Surrounding(Named, Protocol):
    """A guard, as far as the protocol knows it."""

    def enter(self, call: Call) -> Entered | Waiting:
        """Let the call go on, or refuse it by raising; or wait first: a coroutine that ends in the same way."""

    def quick(self) -> Quick | None:
        """The quick way in, if there is one; it does what `enter` does."""


def enter(call: Call, guards: Iterable[Surrounding]) -> Coroutine[Any, Any, None] | None:
    """Enter ``guards``; afterwards the body runs, unless ``call.replay`` is set.

    A coroutine is for the driver to wait for: a guard has to wait, and the rest is entered after that.
    """
    ahead = iter(guards)
    for guard in ahead:
        entered = guard.enter(call)
        if entered is None:
            continue
        if isinstance(entered, CallScope):
            call.entered.append(entered)
        elif isinstance(entered, Replay):
            call.replay = entered
            return None
        else:
            return _enter_later(call, entered, ahead)
    call.started = True
    call.began_at = began_at()
    return None


async def _enter_later(call: Call, waiting: Waiting, ahead: Iterator[Surrounding]) -> None:
    """Enter a guard that has to wait, and those ``ahead``."""
    entered = await waiting
    if isinstance(entered, Replay):
        call.replay = entered
        return
    if entered is not None:
        call.entered.append(entered)
    rest = enter(call, ahead)
    if rest is not None:
        await rest


def began_at() -> float | None:
    """The time, where somebody wants to know how long the body takes."""
    run = active_run()
    return clock.monotonic() if run is not None and run.bus.watched and run.bus.wants(ToolInvoke) else None


def leave(call: Call, value: Any) -> Any:
    """The body has returned ``value``, or did not have to run. What the caller gets."""
    if call.replay is not None:
        _leave_without(call.entered)
        return call.replay.value
    if call.began_at is not None:
        invoked(call.tool, call.began_at)
    entered = call.entered
    if entered:
        try:
            while entered:
                value = entered[-1].returned(value)
                entered.pop()
        except BaseException as refusal:  # noqa: BLE001  raised again
            leave_with(entered, refusal)
    if (session := current_session.get()) is not None:
        session.session.succeeded(call.tool)
    return value


def _leave_without(entered: list[CallScope]) -> None:
    """Leave what is ``entered``: the body does not have to run."""
    try:
        while entered:
            entered.pop().leave(None)
    except BaseException as refusal:  # noqa: BLE001  raised again
        leave_with(entered, refusal, False)


def failed(tool: Tool | None, entered: list[CallScope], started: bool, error: BaseException) -> NoReturn:
    """A guard refused the call or, once it was ``started``, its body raised: called where ``error`` is handled; it, or
    what a guard makes of it, is raised again."""
    if started and isinstance(error, Exception) and not isinstance(error, ActGuardError):
        publish(ToolFailure, tool, error_type=type(error).__name__, error_message=_message_of(error)[:LONGEST_MESSAGE])
    leave_with(entered, error, started)


def leave_with(entered: list[CallScope], error: BaseException, started: bool = True) -> NoReturn:
    """Leave what is ``entered``, the innermost first, and raise ``error``, or what takes its place."""
    final = error
    while entered:
        scope = entered.pop()
        try:
            if started:
                scope.leave(final)
            else:
                scope.withdraw(final)
        except BaseException as replacement:  # noqa: BLE001  raised below
            final = replacement
    try:
        raise final
    finally:
        del error, final  # the traceback refers to this frame


# --- the quick way --------------------------------------------------------------------------------------------------


def quick_way(guards: Sequence[Surrounding]) -> Quick | None:
    """The quick way into all ``guards``, if each of them has one."""
    ways = [way for guard in guards if (way := guard.quick()) is not None]
    if len(ways) < len(guards):
        return None
    return ways[0] if len(ways) == 1 else _through(ways)


def _through(ways: Sequence[Quick]) -> Quick:
    def enter_all(args: tuple[Any, ...], kwargs: dict[str, Any]) -> CallScope | None:
        entered: list[CallScope] = []
        try:
            for way in ways:
                if (scope := way(args, kwargs)) is not None:
                    entered.append(scope)
        except Replayed:
            _leave_without(entered)
            raise
        except BaseException as refusal:  # noqa: BLE001  raised again
            leave_with(entered, refusal, False)
        if len(entered) < 2:
            return entered[0] if entered else None
        return _Several(entered)

    return enter_all if ways else lambda args, kwargs: None


class _Several(CallScope):
    """Several scopes as one, the outermost first."""

    __slots__ = ("_entered",)

    def __init__(self, entered: list[CallScope]) -> None:
        self._entered = entered

    def returned(self, value: Any) -> Any:
        entered = self._entered
        while entered:
            value = entered[-1].returned(value)
            entered.pop()
        return value

    def leave(self, error: BaseException | None) -> None:
        assert error is not None  # the body runs, once all have been entered
        leave_with(self._entered, error)

    def withdraw(self, error: BaseException) -> None:
        leave_with(self._entered, error, False)


# --- announcing -----------------------------------------------------------------------------------------------------


def publish(kind: type[ScopedEvent], tool: Tool | None, **facts: Any) -> None:
    """Publish an event of the active run about ``tool`` (None: the one that is running here), if somebody wants it;
    without a run there is nobody to tell."""
    run = active_run()
    if run is None or not run.bus.wants(kind):
        return
    budget = active_budget()
    where: Any = {} if budget is None else budget.identity()
    tool_name = tool.name if tool is not None else current_tool.get()
    run.bus.publish(kind(run_id=run.run_id, user_id=run.user_id, tool_name=tool_name, **where, **facts))


def invoked(tool: Tool | None, began: float) -> None:
    """Announce that the body, which ``began`` then, has returned."""
    publish(ToolInvoke, tool, duration_s=clock.monotonic() - began)


def refused(
    guard: Named,
    error: R,
    *,
    message: str | None = None,
    figures: Mapping[str, Any] | None = None,
) -> R:
    """``error``, announced as `GuardBlocked`.

    ``message`` and ``figures`` take the place of its own where those may show an argument.
    """
    publish(
        GuardBlocked,
        guard.tool,
        guard_name=guard.name,
        error_type=type(error).__name__,
        error_message=(str(error) if message is None else message)[:LONGEST_MESSAGE],
        figures=error.details if figures is None else figures,
    )
    return error


def intervened(guard: Named, **figures: Any) -> None:
    """Announce that ``guard`` changed how the call ends."""
    publish(GuardIntervention, guard.tool, guard_name=guard.name, figures=figures)


def _message_of(failure: Exception) -> str:
    try:
        return str(failure)
    except Exception:  # noqa: BLE001  a hostile __str__ must not replace the failure
        return ""
