"""What all guards have in common: they decorate tools, and they are entered directly."""

from __future__ import annotations

import copy
from abc import abstractmethod
from contextvars import ContextVar
from types import CoroutineType, TracebackType
from typing import Any, ClassVar, Self, TypeVar, cast

from actguard.exceptions import ActGuardUsageError
from actguard.guards.protocol import CallScope, Entered, Quick, Waiting
from actguard.guards.tools import Call, Tool
from actguard.guards.wrapping import decorate
from actguard.scope import Scope

F = TypeVar("F")
T_co = TypeVar("T_co", covariant=True)


class Guard(Scope[T_co]):
    """A guard and its settings. It decorates tools; it can also be entered directly, again and inside itself."""

    name: ClassVar[str]
    """What the guard is called in events."""
    direct: ClassVar[bool] = True
    """Whether it can be entered directly."""
    once: ClassVar[bool] = False
    """Whether a tool can have one of them only, because two would count or hold the same thing."""
    tool: Tool | None = None
    """The tool that it guards; None in direct use."""
    key: Any = None
    """In direct use: what takes the place of the argument that the decorator reads."""

    def __init__(self) -> None:
        self._entries: set[_Entry] = set()

    def __call__(self, function: F) -> F:
        """Decorate ``function``."""
        return decorate(function, self)

    def bind(self, tool: Tool) -> Self:
        """Check the settings against ``tool``; the guard to use for it. Called when the tool is decorated."""
        bound = copy.copy(self)
        bound.tool = tool
        return bound

    @abstractmethod
    def enter(self, call: Call) -> Entered | Waiting:
        """Let ``call`` go on or refuse it, see `actguard.guards.protocol`."""

    def quick(self) -> Quick | None:
        """The same for those that never wait and need nothing but the arguments: a function ``(args, kwargs)``."""
        return None

    async def __aenter__(self) -> T_co:
        if not self.direct:
            raise ActGuardUsageError(f"{self.name} needs a tool: use it as a decorator", field=self.name)
        entered = self.enter(Call(None, (), {}))
        if isinstance(entered, CoroutineType):
            entered = await entered
        scope = entered if isinstance(entered, CallScope) else _NOTHING_TO_LEAVE
        entry = _Entry(self, scope)
        self._entries.add(entry)
        _entered_here.set((*_entered_here.get(), entry))
        return cast(T_co, scope.given)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        scope = self._leave().scope
        if error is not None:
            scope.leave(error)
            return
        try:
            scope.returned(None)
        except BaseException as refusal:
            scope.leave(refusal)
            raise

    def _leave(self) -> _Entry:
        """The entry that is left: the innermost of this context, else the only one there is."""
        here = _entered_here.get()
        entry = next((entry for entry in reversed(here) if entry.guard is self and entry in self._entries), None)
        if entry is not None:
            _entered_here.set(tuple(other for other in here if other is not entry))
        elif len(self._entries) == 1:
            (entry,) = self._entries
        else:
            raise RuntimeError(f"{self.name} is left in a context in which it was not entered")
        self._entries.remove(entry)
        return entry


class _Entry:
    """One entry of a guard that is entered directly."""

    __slots__ = ("guard", "scope")

    def __init__(self, guard: Guard[Any], scope: CallScope) -> None:
        self.guard = guard
        self.scope = scope


_NOTHING_TO_LEAVE = CallScope()
_entered_here: ContextVar[tuple[_Entry, ...]] = ContextVar("actguard_entered_guards", default=())
"""What is entered directly here, the innermost last: one guard object may be entered many times."""
