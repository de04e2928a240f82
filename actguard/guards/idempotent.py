"""``idempotent``: a call under the same key takes effect once in a run; later calls get its result."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any, Literal, TypeVar, overload

from actguard import clock
from actguard.exceptions import (
    DuplicateIdempotencyKey,
    IdempotencyInProgress,
    IdempotencyKeyReused,
    IdempotencyOutcomeUnknown,
    InvalidIdempotentToolError,
    ToolGuardError,
)
from actguard.guards.arguments import choice
from actguard.guards.guarding import Guard
from actguard.guards.protocol import CallScope, Quick, Replayed, intervened, refused
from actguard.guards.repeats import PARAMETER, check_key, exception_classes, fingerprint, is_used_up
from actguard.guards.state import run_of
from actguard.guards.tools import Call, Replay, Tool, shown_name
from actguard.rules import keys, values
from actguard.rules.keys import Decision, Verdict
from actguard.scope import Reply
from actguard.stores.memory import Key

F = TypeVar("F", bound=Callable[..., Any])

OnDuplicate = Literal["return", "raise"]
OnInProgress = Literal["raise", "wait"]


class Outcome:
    """What entering `idempotent` directly yields: a stored result, or a place for the new one.

    Example::

        async with actguard.idempotent(key=order_id) as outcome:
            if not outcome.replayed:
                outcome.result = await pay(order_id)
        return outcome.result
    """

    __slots__ = ("replayed", "result")

    def __init__(self, replayed: bool, result: Any) -> None:
        self.replayed = replayed
        """True when the block has been done before: skip its work, the result is here."""
        self.result = result
        """The stored result; or what to store when the block is left without an exception."""

    def __repr__(self) -> str:
        return f"<Outcome {'replayed' if self.replayed else 'new'}>"


class Idempotent(Guard[Outcome]):
    """What `idempotent` returns."""

    name = "idempotent"
    once = True

    def __init__(
        self,
        ttl_s: float,
        on_duplicate: OnDuplicate,
        on_in_progress: OnInProgress,
        safe_exceptions: type[BaseException] | tuple[type[BaseException], ...],
        key: str | None,
    ) -> None:
        super().__init__()
        self.ttl_s = keys.checked_ttl(ttl_s)
        self.raises = _choice(on_duplicate, ("return", "raise"), "on_duplicate") == "raise"
        self.waits = _choice(on_in_progress, ("raise", "wait"), "on_in_progress") == "wait"
        self.safe: tuple[type[BaseException], ...] = exception_classes(safe_exceptions)
        if key is not None:
            check_key(key)
        self.key = key
        self._read: Callable[[tuple[Any, ...], dict[str, Any]], Any] | None = None

    def bind(self, tool: Tool) -> Idempotent:
        if self.key is not None:
            raise InvalidIdempotentToolError(
                f"idempotent: key is for direct use; a decorated function takes {PARAMETER}", field="key"
            )
        if tool.kind.is_generator:
            raise InvalidIdempotentToolError(
                f"idempotent: {tool.name} is a {tool.kind.value}, and a consumed stream cannot be given again. "
                "Return a list, or guard the function that consumes it.",
                field="function",
            )
        if PARAMETER not in tool.parameters:
            raise InvalidIdempotentToolError(
                f"idempotent: {tool.name} has no parameter {PARAMETER!r}; add one: `{PARAMETER}: str`", field=PARAMETER
            )
        bound = super().bind(tool)
        bound._read = tool.reader(PARAMETER)
        return bound

    def enter(self, call: Call) -> Any:
        key = check_key(self.key if self._read is None else self._read(call.args, call.kwargs))
        if self.tool is None:
            call.started = True
            return _Block(self, key, call.args, call.kwargs).begin(call)
        return _Work(self, key, call.args, call.kwargs).begin(call)

    def quick(self) -> Quick | None:
        return None if self.waits else self._begin

    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> CallScope:
        assert self._read is not None
        work = _Work(self, check_key(self._read(args, kwargs)), args, kwargs)
        decision = work.ask()
        if decision is keys.START:
            return work
        entered = work.decided(decision)
        raise Replayed(entered.value)


class _Work(CallScope):
    """One call under its key. This object stands for the call in the state of the key."""

    __slots__ = ("_args", "_bell", "_fingerprint", "_guard", "_key", "_kwargs", "_outer", "_run", "_store")

    def __init__(self, guard: Idempotent, key: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._guard = guard
        self._run = run_of("idempotent")
        self._store = self._run.store
        self._args = args
        self._kwargs = kwargs
        tool = guard.tool
        self._key: Key = ("idempotent", None if tool is None else tool.name, values.scalar_key(key))
        self._fingerprint: Any = None if tool is None else fingerprint(tool.arguments(args, kwargs))
        self._bell: Reply[None] | None = None

    def begin(self, call: Call) -> Any:
        """What entering the guard gives."""
        decision = self._ask_and_wait() if self._guard.waits else self.ask()
        if self._bell is not None and decision.verdict is Verdict.IN_PROGRESS:
            return self._wait(call, self._bell)
        return self.decided(decision)

    def ask(self) -> Decision:
        """Ask for the key."""
        return self._store.apply(self._key, keys.begin, self, self._fingerprint, clock.monotonic())

    def _ask_and_wait(self) -> Decision:
        """The same; when another call has it, there is a bell for this one, which waits."""
        self._bell = Reply()
        decision = self._store.apply(self._key, keys.begin, self, self._fingerprint, clock.monotonic(), True)
        if decision.owner in _working.get():  # it would wait for itself
            self._store.apply(self._key, keys.leave, self)
            self._bell = None
        return decision

    async def _wait(self, call: Call, bell: Reply[None]) -> Any:
        while True:
            try:
                await call.wait(bell)
            except BaseException:
                self._store.apply(self._key, keys.leave, self)
                raise
            decision = self._ask_and_wait()
            if self._bell is None or decision.verdict is not Verdict.IN_PROGRESS:
                return self.decided(decision)
            bell = self._bell

    def decided(self, decision: Decision) -> Any:
        """What entering gives, once nothing is left to wait for."""
        if decision.verdict is Verdict.START:
            if self._guard.waits:
                self._outer = _working.get()
                _working.set((*self._outer, self))
            return self
        if decision.verdict is Verdict.REPLAY and not self._guard.raises and not is_used_up(decision.result):
            intervened(self._guard, action="return_cached")
            return Replay(decision.result)
        refusal = _REFUSALS[decision.verdict](
            tool_name=shown_name(self._guard.tool), run_id=run_of("idempotent").run_id
        )
        raise refused(self._guard, refusal)

    def returned(self, value: Any) -> Any:
        guard = self._guard
        if guard.waits:
            self._work_no_more()
        if wake := self._store.apply(self._key, keys.finish, self, value, clock.monotonic(), guard.ttl_s):
            _ring(wake)
        return value

    def leave(self, error: BaseException | None) -> None:
        self._work_no_more()
        if error is None:
            return
        if self._had_no_effect(error):
            self._end(keys.release)
        else:
            self._end(keys.lose, clock.monotonic(), self._guard.ttl_s)

    def withdraw(self, error: BaseException) -> None:
        self._work_no_more()
        self._end(keys.release)

    def _work_no_more(self) -> None:
        if self._guard.waits and _working.get()[-1:] == (self,):
            _working.set(self._outer)

    def _had_no_effect(self, error: BaseException) -> bool:
        if isinstance(error, self._guard.safe):
            return True
        # Arguments that do not fit the function: its body never began.
        tool = self._guard.tool
        return isinstance(error, TypeError) and tool is not None and not tool.fits(self._args, self._kwargs)

    def _end(self, transition: Callable[..., Any], *facts: Any) -> None:
        _ring(self._store.apply(self._key, transition, self, *facts))

    def ring(self) -> None:
        if self._bell is not None:
            self._bell.answer(None)


def _ring(waiting: Iterable[Any]) -> None:
    for work in waiting:
        work.ring()


class _Block(_Work):
    """A block of code under a key, entered directly."""

    __slots__ = ("given",)

    def decided(self, decision: Decision) -> _Block:
        entered = super().decided(decision)
        self.given = Outcome(True, entered.value) if isinstance(entered, Replay) else Outcome(False, None)
        return self

    def returned(self, value: Any) -> Any:
        return super().returned(self.given.result)


_working: ContextVar[tuple[_Work, ...]] = ContextVar("actguard_idempotent_calls", default=())
"""The calls under a key that this code runs inside of: none of them ends while it waits for it."""

_REFUSALS: dict[Verdict, Callable[..., ToolGuardError]] = {
    Verdict.REPLAY: DuplicateIdempotencyKey,
    Verdict.IN_PROGRESS: IdempotencyInProgress,
    Verdict.UNKNOWN: IdempotencyOutcomeUnknown,
    Verdict.REUSED: IdempotencyKeyReused,
}


_choice = functools.partial(choice, what="idempotent", error=InvalidIdempotentToolError)


@overload
def idempotent(function: F, /) -> F: ...
@overload
def idempotent(
    *,
    ttl_s: float = 3600,
    on_duplicate: OnDuplicate = "return",
    on_in_progress: OnInProgress = "raise",
    safe_exceptions: type[BaseException] | tuple[type[BaseException], ...] = (),
    key: str | None = None,
) -> Idempotent: ...
def idempotent(
    function: Any = None,
    /,
    *,
    ttl_s: float = 3600,
    on_duplicate: OnDuplicate = "return",
    on_in_progress: OnInProgress = "raise",
    safe_exceptions: type[BaseException] | tuple[type[BaseException], ...] = (),
    key: str | None = None,
) -> Any:
    """Let a call take effect once per run, tool and key; a repeat gets the stored result.

    The tool has a parameter ``idempotency_key``, a non-empty str. A call that fails or is cancelled half-way leaves its
    outcome unknown, and the key is refused for ``ttl_s`` seconds; one whose body did not begin, because a guard inside
    refused it, frees the key. The same key with other arguments is refused. The stored result is the very object that
    the first call returned. Works bare, with arguments, and directly: ``async with idempotent(key="order-7") as
    outcome: …`` (see `Outcome`).

    Args:
        ttl_s: how long a result (or an unknown outcome) is kept after the call ended, in seconds.
        on_duplicate: "return" gives the stored result, "raise" refuses.
        on_in_progress: "raise" refuses while the first call is running, "wait" waits for it and shares its result.
        safe_exceptions: exceptions of the body that mean "nothing happened": they free the key.
        key: in direct use, what takes the place of the argument.

    Raises:
        InvalidIdempotentToolError: a setting is wrong, the tool is a generator function or has no parameter
            ``idempotency_key`` (when decorating).
        MissingIdempotencyKeyError: the key is None, empty or no str (when called).
        MissingRuntimeContextError: no run is active (when called).
        IdempotencyInProgress, DuplicateIdempotencyKey, IdempotencyOutcomeUnknown, IdempotencyKeyReused: refused.

    Example::

        @actguard.idempotent(ttl_s=86_400)
        async def pay(invoice: str, amount: int, *, idempotency_key: str) -> Receipt: ...
    """
    guard = Idempotent(ttl_s, on_duplicate, on_in_progress, safe_exceptions, key)
    return guard if function is None else guard(function)
