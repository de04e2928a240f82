"""What all guards have in common: they decorate tools, and they are entered directly."""

from __future__ import annotations

from abc import abstractmethod
from contextvars import ContextVar
from types import TracebackType
from typing import Any, ClassVar, TypeVar

from actguard.guards.protocol import CallScope
from actguard.guards.tools import Call, Tool
from actguard.guards.wrapping import decorate
from actguard.scope import Scope

F = TypeVar("F")


class Guard(Scope[Any]):
    """A guard and its settings. It decorates tools; it can also be entered directly, again and inside itself."""

    name: ClassVar[str]
    """What the guard is called in events."""
    key: Any = None
    """In direct use: what takes the place of the argument that the decorator reads."""

    def __call__(self, function: F) -> F:
        """Decorate ``function``."""
        return decorate(function, self)

    def bind(self, tool: Tool) -> Guard:
        """Check the settings against ``tool``; the guard to use for it. Called when the tool is decorated."""
        return self

    @abstractmethod
    def scope(self, call: Call) -> CallScope:
        """The scope around one call."""

    async def __aenter__(self) -> Any:
        scope = self.scope(Call(None, (), {}))
        entered = await scope.__aenter__()
        _direct.set((*_direct.get(), (self, scope)))
        return entered

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        entries = _direct.get()
        place = max((at for at, (guard, _) in enumerate(entries) if guard is self), default=None)
        if place is None:
            raise RuntimeError(f"{self.name} is left in another context than it was entered in")
        _direct.set(entries[:place] + entries[place + 1 :])
        scope = entries[place][1]
        if error is None:
            scope.returned(None)
        return await scope.__aexit__(kind, error, trace)


_direct: ContextVar[tuple[tuple[Guard, CallScope], ...]] = ContextVar("actguard_direct_guards", default=())
"""The guards that are entered directly here, the innermost last: one guard object may be entered many times."""
