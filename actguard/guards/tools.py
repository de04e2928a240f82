"""Tools: what guards know about a function they guard, found out once, when it is decorated."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from typing import Any, Protocol

from actguard.exceptions import ActGuardUsageError


class Kind(Enum):
    """How the body of a tool is run."""

    FUNCTION = "function"
    COROUTINE = "coroutine function"
    GENERATOR = "generator function"
    ASYNC_GENERATOR = "async generator function"

    @property
    def is_async(self) -> bool:
        return self in {Kind.COROUTINE, Kind.ASYNC_GENERATOR}

    @property
    def is_generator(self) -> bool:
        return self in {Kind.GENERATOR, Kind.ASYNC_GENERATOR}


class Tool:
    """A guarded function: its name, its kind and its parameters."""

    __slots__ = ("_defaults", "_names", "_variadic", "function", "kind", "name", "parameters", "signature")

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.name = name_of(function)
        """``module:qualname``: how the tool is called in events, errors and counters."""
        self.kind = kind_of(function)
        self.signature = inspect.signature(function)
        self.parameters: Mapping[str, inspect.Parameter] = self.signature.parameters
        kinds = inspect.Parameter
        self._names = tuple(
            name
            for name, parameter in self.parameters.items()
            if parameter.kind in {kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD}
        )
        self._defaults = {
            name: parameter.default
            for name, parameter in self.parameters.items()
            if parameter.default is not kinds.empty
        }
        self._variadic = next((name for name, p in self.parameters.items() if p.kind is kinds.VAR_POSITIONAL), None)

    def reader(self, name: str) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
        """A function ``(args, kwargs)`` that finds the argument ``name`` of a call, its default when it is left out.

        Raises:
            ActGuardUsageError: the tool has no such parameter.
        """
        if name not in self.parameters:
            has = ", ".join(self.parameters) or "no parameters"
            raise ActGuardUsageError(f"{self.name} has no parameter {name!r}; it has {has}", field=name)
        place = self._names.index(name) if name in self._names else len(self.parameters)
        default = self._defaults.get(name)

        def read(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return args[place] if len(args) > place else kwargs.get(name, default)

        return read

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a call by parameter name, defaults included. A wrong call is the function's to refuse."""
        arguments = {**self._defaults, **dict(zip(self._names, args, strict=False)), **kwargs}
        if self._variadic is not None:
            arguments[self._variadic] = args[len(self._names) :]
        return arguments


class Runner(Protocol):
    """Runs a body, or one step of a generator, under a deadline."""

    def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any: ...
    async def wait(self, step: Awaitable[Any], /) -> Any: ...


class Call:
    """One call of a tool (or one direct use of a guard, then ``tool`` is None)."""

    __slots__ = ("args", "kwargs", "runner", "started", "tool")

    def __init__(self, tool: Tool | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.tool = tool
        self.args = args
        self.kwargs = kwargs
        self.started = False
        """True once the body has begun: from then on the call may have had an effect."""
        self.runner: Runner | None = None
        """What runs the body (or each step of a generator) under a deadline; set by a timeout around it."""


def plain_function(function: Any) -> Any:
    """What is behind `functools.partial` objects and bound methods."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif inspect.ismethod(function):
            function = function.__func__
        else:
            return function


def name_of(function: Any) -> str:
    """``module:qualname`` of a function, of a partial's function, or of a callable object's class."""
    plain = plain_function(function)
    if not hasattr(plain, "__qualname__"):
        plain = type(plain)
    return f"{plain.__module__}:{plain.__qualname__}"


def kind_of(function: Any) -> Kind:
    """How the body of ``function`` is run; of a callable object, its ``__call__``."""
    plain = plain_function(function)
    if not inspect.isroutine(plain) and not inspect.isclass(plain):
        plain = plain_function(type(plain).__call__)
    for test, kind in (
        (inspect.iscoroutinefunction, Kind.COROUTINE),
        (inspect.isasyncgenfunction, Kind.ASYNC_GENERATOR),
        (inspect.isgeneratorfunction, Kind.GENERATOR),
    ):
        if test(plain):
            return kind
    return Kind.FUNCTION
