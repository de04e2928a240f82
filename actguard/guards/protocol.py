"""How guards surround a call: the one protocol.

    enter     the scopes of the guards are entered, from the outside in
    the body  runs; the drivers in `actguard.guards.wrapping` do that, one per kind of function
    leave     it returned: the scopes are left, from the inside out
    failed    it raised, or a guard refused: those that were entered are left with the error

None of the functions ever waits. Where a guard has to wait, `enter` returns a coroutine for the driver to wait for and
is called again with its result. Nearly no guard has to, so nearly every call costs no more than plain function calls.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, NoReturn, Protocol, TypeVar

from actguard import clock
from actguard.context import active_budget, active_run, current_session, current_tool
from actguard.events import GuardBlocked, GuardIntervention, ScopedEvent, ToolFailure, ToolInvoke
from actguard.exceptions import ActGuardError, ToolGuardError
from actguard.guards.tools import Call, Replay

LONGEST_MESSAGE = 256
"""Characters of a failure's message that go into an event."""


R = TypeVar("R", bound=ToolGuardError)
Waiting = Coroutine[Any, Any, Replay | None]


class CallScope(ABC):
    """One guard around one call: entered, then left, whatever happens in between. Neither of the two waits."""

    __slots__ = ()

    @abstractmethod
    def enter(self) -> Replay | Waiting | None:
        """Let the call go on (None), give its result (`Replay`), refuse it by raising; or wait first: a coroutine
        that ends in the same way."""

    def returned(self, value: Any) -> Any:
        """The body has returned ``value``; called before the scope is left, and only then. What the caller gets."""
        return value

    def leave(self, error: BaseException | None) -> None:  # noqa: B027  many guards have nothing to do then
        """The call has ended, with ``error`` or without. What is raised here takes the place of the error."""


class Named(Protocol):
    """A guard, as far as an event has to name it."""

    @property
    def name(self) -> str: ...


class Surrounding(Named, Protocol):
    """A guard, as far as the protocol knows it."""

    def scope(self, call: Call) -> CallScope: ...


def enter(call: Call, guards: Sequence[Surrounding], waited_for: Replay | None = None) -> Waiting | None:
    """Enter the scopes of ``guards`` that are not entered yet; afterwards the body runs, unless ``call.replay`` is set.

    When a coroutine is returned: call this again with what it ends with.
    """
    entered = call.entered
    if call.waiting is not None:
        entered.append(call.waiting)
        call.waiting, call.replay = None, waited_for
    if call.replay is None:
        for guard in guards[len(entered) :]:
            scope = guard.scope(call)
            decision = scope.enter()
            if decision is None:
                entered.append(scope)
            elif isinstance(decision, Replay):
                entered.append(scope)
                call.replay = decision
                return None
            else:
                call.waiting = scope
                return decision
        call.started = True
        run = active_run()
        if run is not None and run.bus.wants(ToolInvoke):
            call.began_at = clock.monotonic()
    return None


def leave(call: Call, value: Any) -> Any:
    """The body has returned ``value``, or did not have to run. What the caller gets."""
    replay = call.replay
    if replay is not None:
        value = replay.value
    elif call.began_at is not None:
        publish(ToolInvoke, call, duration_s=clock.monotonic() - call.began_at)
    entered = call.entered
    try:
        while entered:
            scope = entered[-1]
            if replay is None:
                value = scope.returned(value)
            entered.pop()
            scope.leave(None)
    except BaseException as refusal:  # noqa: BLE001  raised again
        _leave_with(call, refusal)
    if replay is None and (session := current_session.get()) is not None:
        session.session.succeeded(call.tool)
    return value


def failed(call: Call, error: BaseException) -> NoReturn:
    """A guard refused the call or its body raised: called where ``error`` is handled; it, or what a guard makes of it,
    is raised again."""
    if call.started and isinstance(error, Exception) and not isinstance(error, ActGuardError):
        publish(ToolFailure, call, error_type=type(error).__name__, error_message=_message_of(error)[:LONGEST_MESSAGE])
    _leave_with(call, error)


def _leave_with(call: Call, error: BaseException) -> NoReturn:
    entered, final = call.entered, error
    while entered:
        try:
            entered.pop().leave(final)
        except BaseException as replacement:  # noqa: BLE001  raised below
            final = replacement
    try:
        raise final
    finally:
        del error, final  # the traceback refers to this frame


# --- announcing -----------------------------------------------------------------------------------------------------


def publish(kind: type[ScopedEvent], call: Call, **facts: Any) -> None:
    """Publish an event of the active run, if somebody wants it; without a run there is nobody to tell."""
    run = active_run()
    if run is None or not run.bus.wants(kind):
        return
    budget = active_budget()
    where: Any = {} if budget is None else budget.identity()
    tool_name = call.tool.name if call.tool is not None else current_tool.get()
    run.bus.publish(kind(run_id=run.run_id, user_id=run.user_id, tool_name=tool_name, **where, **facts))


def refused(
    guard: Named,
    call: Call,
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
        call,
        guard_name=guard.name,
        error_type=type(error).__name__,
        error_message=(str(error) if message is None else message)[:LONGEST_MESSAGE],
        figures=error.details if figures is None else figures,
    )
    return error


def intervened(guard: Named, call: Call, **figures: Any) -> None:
    """Announce that ``guard`` changed how the call ends."""
    publish(GuardIntervention, call, guard_name=guard.name, figures=figures)


def _message_of(failure: Exception) -> str:
    try:
        return str(failure)
    except Exception:  # noqa: BLE001  a hostile __str__ must not replace the failure
        return ""
