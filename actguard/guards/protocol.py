"""How guards surround a call: the one protocol.

`guarded` is a generator that says what to do next and never waits itself. It enters the scopes of the guards from the
outside in, has the body run, and leaves the scopes from the inside out, whatever happens on the way. The drivers in
`actguard.guards.wrapping` do what it says, for plain, coroutine and generator functions.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator, Mapping, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from actguard import clock
from actguard.context import active_budget, active_run, current_session, current_tool
from actguard.events import GuardBlocked, GuardIntervention, ScopedEvent, ToolFailure, ToolInvoke
from actguard.exceptions import ActGuardError, ToolGuardError
from actguard.guards.tools import Call
from actguard.scope import Scope

LONGEST_MESSAGE = 256
"""Characters of a failure's message that go into an event."""


R = TypeVar("R", bound=ToolGuardError)


class Replay(NamedTuple):
    """What entering a scope can return to say that the body must not run: here is its result."""

    value: Any


class CallScope(Scope[Any]):
    """One guard around one call. Entering it gives None, or a `Replay`."""

    __slots__ = ()

    def returned(self, value: Any) -> Any:
        """The body has returned ``value``; called before the scope is left, and only then. What the caller gets."""
        return value


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
            replay = yield scope.__aenter__()
        except BaseException as refusal:  # noqa: BLE001  raised again by the driver
            error = refusal
            break
        entered.append(scope)
        if replay is not None:
            value, replayed = replay.value, True
            break
    else:
        started_at = clock.monotonic()
        try:
            call.started = True
            value = yield BODY
            _invoked(call, clock.monotonic() - started_at)
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
            trace = None if error is None else error.__traceback__
            yield scope.__aexit__(None if error is None else type(error), error, trace)
        except BaseException as replacement:  # noqa: BLE001  raised again by the driver
            error = replacement
    if error is None and not replayed and (entered := current_session.get()) is not None:
        entered.session.succeeded(call.tool)
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


def _invoked(call: Call, duration_s: float) -> None:
    publish(ToolInvoke, call, duration_s=duration_s)


def _message_of(failure: Exception) -> str:
    try:
        return str(failure)
    except Exception:  # noqa: BLE001  a hostile __str__ must not replace the failure
        return ""
