"""How guards surround a call: the one protocol.

`guarded` is a generator that says what to do next and never waits itself. It enters the scopes of the guards from the
outside in, has the body run, and leaves the scopes from the inside out, whatever happens on the way. The drivers in
`actguard.guards.wrapping` do what it says, for plain, coroutine and generator functions: they run the body, and wait
where a guard has to wait. Nearly no guard has to, so nearly every call costs no more than plain function calls.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Coroutine, Generator, Mapping, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from actguard import clock
from actguard.context import active_budget, active_run, current_session, current_tool
from actguard.events import GuardBlocked, GuardIntervention, ScopedEvent, ToolFailure, ToolInvoke
from actguard.exceptions import ActGuardError, ToolGuardError
from actguard.guards.tools import Call

LONGEST_MESSAGE = 256
"""Characters of a failure's message that go into an event."""


R = TypeVar("R", bound=ToolGuardError)


class Replay(NamedTuple):
    """What entering a scope can return to say that the body must not run: here is its result."""

    value: Any


class CallScope(ABC):
    """One guard around one call: entered, then left, whatever happens in between. Neither of the two waits."""

    __slots__ = ()

    @abstractmethod
    def enter(self) -> Replay | Coroutine[Any, Any, Replay | None] | None:
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


class Body(Enum):
    """The type of `BODY`."""

    BODY = "body"


BODY: Final = Body.BODY
"""What `guarded` yields to have the tool's body run."""


class Ended(NamedTuple):
    """How a guarded call ended: with a value, or with the error to raise."""

    value: Any
    error: BaseException | None


def guarded(call: Call, guards: Sequence[Surrounding]) -> Generator[Coroutine[Any, Any, Any] | Body, Any, Ended]:
    """Yields coroutines to await (or step) and `BODY` to have the tool's body run; ends with how the call ended."""
    entered: list[CallScope] = []
    value: Any = None
    error: BaseException | None = None
    replayed = False
    for guard in guards:
        try:
            scope = guard.scope(call)
            replay = scope.enter()
            if replay is not None and not isinstance(replay, Replay):
                replay = yield replay
        except BaseException as refusal:  # noqa: BLE001  raised again by the driver
            error = refusal
            break
        entered.append(scope)
        if replay is not None:
            value, replayed = replay.value, True
            break
    else:
        run = active_run()
        began_at = clock.monotonic() if run is not None and run.bus.wants(ToolInvoke) else None
        try:
            call.started = True
            value = yield BODY
            if began_at is not None:
                publish(ToolInvoke, call, duration_s=clock.monotonic() - began_at)
        except BaseException as failure:  # noqa: BLE001  raised again by the driver
            error = failure
            _failed(call, failure)
    while entered:
        scope = entered.pop()
        if error is None and not replayed:
            try:
                value = scope.returned(value)
            except BaseException as refusal:  # noqa: BLE001  raised again by the driver
                error = refusal
        try:
            scope.leave(error)
        except BaseException as replacement:  # noqa: BLE001  raised again by the driver
            error = replacement
    if error is None and not replayed and (session := current_session.get()) is not None:
        session.session.succeeded(call.tool)
    return Ended(value, error)


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


def _failed(call: Call, failure: BaseException) -> None:
    if isinstance(failure, Exception) and not isinstance(failure, ActGuardError):
        publish(
            ToolFailure, call, error_type=type(failure).__name__, error_message=_message_of(failure)[:LONGEST_MESSAGE]
        )


def _message_of(failure: Exception) -> str:
    try:
        return str(failure)
    except Exception:  # noqa: BLE001  a hostile __str__ must not replace the failure
        return ""
