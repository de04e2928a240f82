"""Tools: what guards know about a function they guard, found out once, when it is decorated."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from inspect import Parameter, Signature
from typing import Any, NamedTuple, Protocol, TypeVar

from actguard.context import current_tool
from actguard.exceptions import ActGuardUsageError
from actguard.scope import Reply

T = TypeVar("T")


class Kind(Enum):
    """How the body of a tool is run."""

    FUNCTION = "function"
    COROUTINE = "coroutine function"
    GENERATOR = "generator function"
    ASYNC_GENERATOR = "async generator function"

    @property
    def is_async(self) -> bool:
        return self is Kind.COROUTINE or self is Kind.ASYNC_GENERATOR

    @property
    def is_generator(self) -> bool:
        return self is Kind.GENERATOR or self is Kind.ASYNC_GENERATOR


class Tool:
    """A guarded function: its name, its kind and its parameters."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.name = name_of(function)
        """``module:qualname``: how the tool is called in events, errors and counters."""
        self.kind = kind_of(function)
        self.parameters: Mapping[str, Parameter] = _signature_of(function).parameters
        kinds = {name: parameter.kind for name, parameter in self.parameters.items()}
        self._positional = tuple(
            name for name, kind in kinds.items() if kind in {Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD}
        )
        self._defaults = {
            name: parameter.default
            for name, parameter in self.parameters.items()
            if parameter.default is not Parameter.empty
        }
        self._rest = next((name for name, kind in kinds.items() if kind is Parameter.VAR_POSITIONAL), None)
        self._keywords = next((name for name, kind in kinds.items() if kind is Parameter.VAR_KEYWORD), None)
        self._flat = self._rest is self._keywords is None and Parameter.POSITIONAL_ONLY not in kinds.values()

    def __repr__(self) -> str:
        return f"<Tool {self.name}>"

    @functools.cached_property
    def names(self) -> frozenset[str]:
        """What people call this tool: ``module:qualname``, its qualified name, its plain name."""
        qualified = self.name.partition(":")[2]
        return frozenset({self.name, qualified, qualified.rpartition(".")[2]})

    def reader(self, name: str) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
        """A function ``(args, kwargs)`` that finds the argument ``name`` of a call, its default when it is left out.

        Raises:
            ActGuardUsageError: the tool has no such parameter.
        """
        if name not in self.parameters:
            has = ", ".join(self.parameters) or "no parameters"
            raise ActGuardUsageError(f"{self.name} has no parameter {name!r}; it has {has}", field=name)
        kind, default = self.parameters[name].kind, self._defaults.get(name)
        if kind is Parameter.KEYWORD_ONLY:
            return lambda args, kwargs: kwargs.get(name, default)
        if name not in self._positional:
            return lambda args, kwargs: self.arguments(args, kwargs)[name]
        place = self._positional.index(name)
        if kind is Parameter.POSITIONAL_ONLY:
            return lambda args, kwargs: args[place] if len(args) > place else default
        return lambda args, kwargs: args[place] if len(args) > place else kwargs.get(name, default)

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a call by parameter name, defaults included, as the function will see them.

        A call that does not fit the function is the function's to refuse: see `fits`.
        """
        arguments = self._defaults.copy()
        if args:
            arguments.update(zip(self._positional, args, strict=False))
        if self._flat:
            arguments.update(kwargs)
            return arguments
        extra = {}
        for name, value in kwargs.items():
            parameter = self.parameters.get(name)
            if parameter is not None and parameter.kind in {Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY}:
                arguments[name] = value
            else:
                extra[name] = value
        if self._rest is not None:
            arguments[self._rest] = args[len(self._positional) :]
        if self._keywords is not None:
            arguments[self._keywords] = extra
        return arguments

    def fits(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the function can be called so at all."""
        try:
            Signature(tuple(self.parameters.values())).bind(*args, **kwargs)
        except TypeError:
            return False
        return True


def _signature_of(function: Callable[..., Any]) -> Signature:
    try:
        return inspect.signature(function)
    except ValueError:  # a builtin that does not say: it takes whatever it is given
        return Signature((Parameter("args", Parameter.VAR_POSITIONAL), Parameter("kwargs", Parameter.VAR_KEYWORD)))


class Runner(Protocol):
    """Runs a body, or one step of a generator, under a deadline.

    Each of the methods raises `ToolTimeoutError` when the deadline passes.
    """

    def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """What ``function(*args, **kwargs)`` returns."""

    async def wait(self, function: Callable[..., Awaitable[Any]], /, *args: Any) -> Any:
        """What ``await function(*args)`` gives."""

    def left(self) -> float:
        """The seconds that are left."""


class Replay(NamedTuple):
    """What entering a guard can give to say that the body must not run: here is its result."""

    value: Any


class Call:
    """One call of a tool (or one direct use of a guard, then ``tool`` is None)."""

    # Defaults of the class, and no slots: setting only what a call has of its own takes half of the time (0.2 µs).
    started: bool = False
    """True once the body has begun: from then on the call may have had an effect."""
    runner: Runner | None = None
    """What runs the body (or each step of a generator) under a deadline; set by a timeout around it."""
    watchers: tuple[Callable[[Any], object], ...] = ()
    """Called with each item of a generator before it is handed out."""
    replay: Replay | None = None
    """The result that takes the place of the body's."""
    began_at: float | None = None
    """When the body began, where somebody wants to know."""

    def __init__(self, tool: Tool | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.tool = tool
        self.args = args
        self.kwargs = kwargs
        self.entered: list[Any] = []
        """What has to be left at the end, the outermost first."""

    async def wait(self, reply: Reply[T], timeout: float | None = None) -> T:
        """The answer to ``reply``, waiting for ``timeout`` seconds at most, and within the deadline of this call.

        Raises:
            TimeoutError: none came in ``timeout`` seconds.
            ToolTimeoutError: none came before the deadline.
        """
        if self.runner is None:
            return await reply.wait(timeout)
        left = self.runner.left()
        if timeout is not None and timeout < left:
            return await reply.wait(timeout)
        try:
            return await reply.wait(left)
        except TimeoutError:
            self.runner.left()
            raise


def shown_name(tool: Tool | None) -> str:
    """What errors call ``tool``; in direct use (None) the tool around it, or "this block"."""
    return tool.name if tool is not None else current_tool.get() or "this block"


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
