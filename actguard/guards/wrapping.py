"""Decorating: the drivers of the protocol, one per kind of function. The one place with a sync/async branch.

A decorated function keeps its name, docstring, signature and kind; frameworks that build a schema from it see the bare
function through ``__wrapped__``. Guards above each other on one function become one chain, the upper the outer.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any, NamedTuple, Protocol, TypeVar, cast

from actguard.context import Process, current_run, current_session, current_tool
from actguard.exceptions import ActGuardUsageError
from actguard.guards.protocol import (
    Quick,
    Replayed,
    Surrounding,
    began_at,
    enter,
    failed,
    invoked,
    leave,
    leave_with,
    quick_way,
)
from actguard.guards.tools import Call, Kind, Tool
from actguard.scope import step

F = TypeVar("F")

Guards = tuple[Surrounding, ...]


class Decorator(Surrounding, Protocol):
    """A guard, as far as decorating knows it."""

    @property
    def once(self) -> bool: ...

    def bind(self, tool: Tool) -> Surrounding: ...


class _Mark(NamedTuple):
    """Notes on a decorated function what it is made of. `functools.wraps` copies it: ``wrapper`` tells a copy."""

    wrapper: Any
    tool: Tool
    guards: Guards


def decorate(function: F, *guards: Decorator) -> F:
    """``function`` inside ``guards``, the first the outermost.

    Raises:
        ActGuardUsageError: it is no function, or a guard's settings do not fit it.
    """
    if isinstance(function, classmethod | staticmethod):
        return cast(F, type(function)(decorate(function.__func__, *guards)))
    if not callable(function) or isinstance(function, type):
        what = f"the class {function.__qualname__}" if isinstance(function, type) else type(function).__name__
        raise ActGuardUsageError(
            f"a guard decorates a function or a method, not {what}; put a framework's decorator above ActGuard's",
            field="function",
        )
    mark = getattr(function, "__actguard__", None)
    if isinstance(mark, _Mark) and mark.wrapper is function:
        tool, inner = mark.tool, mark.guards
    else:
        tool, inner = Tool(function), ()
    for guard in guards:
        if guard.once and any(guard.name == other.name for other in inner):
            raise ActGuardUsageError(f"{tool.name} has two {guard.name} guards; one is enough", field=guard.name)
    chain = (*(guard.bind(tool) for guard in guards), *inner)
    way = quick_way(chain)
    if way is not None and tool.kind in _QUICK_WRAPPERS:
        wrapper = _QUICK_WRAPPERS[tool.kind](tool, way)
    else:
        wrapper = _WRAPPERS[tool.kind](tool, chain)
    functools.update_wrapper(wrapper, tool.function)
    if not hasattr(tool.function, "__qualname__"):  # a partial, a callable object
        wrapper.__module__, _, wrapper.__qualname__ = tool.name.partition(":")
        wrapper.__name__ = wrapper.__qualname__.rpartition(".")[2]
    wrapper.__actguard__ = _Mark(wrapper, tool, chain)  # type: ignore[attr-defined]
    return cast(F, wrapper)


# --- the quick way, when it is open to all guards: nothing waits, and no object stands for the call -------------------


def _quick_function(tool: Tool, enter: Quick) -> Callable[..., Any]:
    function, name = tool.function, tool.name

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        scope = outer = began = None
        try:
            scope = enter(args, kwargs)
            if ((run := current_run.get()) is not None and run.bus.watched) or Process.adopting is not None:
                began = began_at()
            outer = current_tool.set(name)
            try:
                value = function(*args, **kwargs)
            finally:
                current_tool.reset(outer)
        except Replayed as stored:
            return stored.value
        except BaseException as error:  # noqa: BLE001  raised again
            failed(tool, [] if scope is None else [scope], outer is not None, error)
        if began is not None:
            invoked(tool, began)
        if scope is not None:
            try:
                value = scope.returned(value)
            except BaseException as refusal:  # noqa: BLE001  raised again
                leave_with([scope], refusal)
        if (session := current_session.get()) is not None:
            session.session.succeeded(tool)
        return value

    return wrapper


def _quick_coroutine_function(tool: Tool, enter: Quick) -> Callable[..., Any]:
    function, name = tool.function, tool.name

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        scope = outer = began = None
        try:
            scope = enter(args, kwargs)
            if ((run := current_run.get()) is not None and run.bus.watched) or Process.adopting is not None:
                began = began_at()
            outer = current_tool.set(name)
            try:
                value = await function(*args, **kwargs)
            finally:
                current_tool.reset(outer)
        except Replayed as stored:
            return stored.value
        except BaseException as error:  # noqa: BLE001  raised again
            failed(tool, [] if scope is None else [scope], outer is not None, error)
        if began is not None:
            invoked(tool, began)
        if scope is not None:
            try:
                value = scope.returned(value)
            except BaseException as refusal:  # noqa: BLE001  raised again
                leave_with([scope], refusal)
        if (session := current_session.get()) is not None:
            session.session.succeeded(tool)
        return value

    return wrapper


_QUICK_WRAPPERS: dict[Kind, Callable[[Tool, Quick], Callable[..., Any]]] = {
    Kind.FUNCTION: _quick_function,
    Kind.COROUTINE: _quick_coroutine_function,
}


# --- the way of all others --------------------------------------------------------------------------------------------


def _function(tool: Tool, guards: Guards) -> Callable[..., Any]:
    function, name = tool.function, tool.name

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = Call(tool, args, kwargs)
        value = None
        try:
            waiting = enter(call, guards)
            if waiting is not None:
                step(waiting)
            if call.replay is None:
                outer = current_tool.set(name)
                try:
                    if call.runner is None:
                        value = function(*args, **kwargs)
                    else:
                        value = call.runner.run(function, *args, **kwargs)
                finally:
                    current_tool.reset(outer)
        except BaseException as error:  # noqa: BLE001  raised again
            failed(tool, call.entered, call.started, error)
        return leave(call, value)

    return wrapper


def _coroutine_function(tool: Tool, guards: Guards) -> Callable[..., Any]:
    function, name = tool.function, tool.name

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = Call(tool, args, kwargs)
        value = None
        try:
            waiting = enter(call, guards)
            if waiting is not None:
                await waiting
            if call.replay is None:
                outer = current_tool.set(name)
                try:
                    value = await function(*args, **kwargs)
                finally:
                    current_tool.reset(outer)
        except BaseException as error:  # noqa: BLE001  raised again
            failed(tool, call.entered, call.started, error)
        return leave(call, value)

    return wrapper


def _generator_function(tool: Tool, guards: Guards) -> Callable[..., Any]:
    function, name = tool.function, tool.name

    def advance(call: Call, move: Callable[..., Any], *sent: Any) -> Any:
        # The name is set for each move only: between two moves the consumer runs in the same context.
        outer = current_tool.set(name)
        try:
            item = move(*sent) if call.runner is None else call.runner.run(move, *sent)
        finally:
            current_tool.reset(outer)
        for watch in call.watchers:
            watch(item)
        return item

    def body(call: Call) -> Generator[Any, Any, Any]:
        generator = function(*call.args, **call.kwargs)
        move: Callable[..., Any] = generator.__next__
        sent: tuple[Any, ...] = ()
        try:
            while True:
                try:
                    item = advance(call, move, *sent)
                except StopIteration as end:
                    return end.value
                try:
                    move, sent = generator.send, ((yield item),)
                except GeneratorExit:
                    raise
                except BaseException as thrown:  # noqa: BLE001  thrown into the tool, whose answer it is
                    move, sent = generator.throw, (thrown,)
        finally:
            if not generator.gi_running:  # a step that a timeout left behind still runs
                generator.close()

    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        call = Call(tool, args, kwargs)
        value = None
        try:
            waiting = enter(call, guards)
            if waiting is not None:
                step(waiting)
            if call.replay is None:
                value = yield from body(call)
        except BaseException as error:  # noqa: BLE001  raised again
            failed(tool, call.entered, call.started, error)
        return leave(call, value)

    return wrapper


def _async_generator_function(tool: Tool, guards: Guards) -> Callable[..., Any]:
    function, name = tool.function, tool.name

    async def advance(call: Call, move: Callable[..., Any], *sent: Any) -> Any:
        outer = current_tool.set(name)
        try:
            item = await (move(*sent) if call.runner is None else call.runner.wait(move, *sent))
        finally:
            current_tool.reset(outer)
        for watch in call.watchers:
            watch(item)
        return item

    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        call = Call(tool, args, kwargs)
        try:
            waiting = enter(call, guards)
            if waiting is not None:
                await waiting
            if call.replay is None:
                generator = function(*args, **kwargs)
                move: Callable[..., Any] = generator.__anext__
                sent: tuple[Any, ...] = ()
                try:
                    while True:
                        try:
                            item = await advance(call, move, *sent)
                        except StopAsyncIteration:
                            break
                        try:
                            move, sent = generator.asend, ((yield item),)
                        except GeneratorExit:
                            raise
                        except BaseException as thrown:  # noqa: BLE001  thrown into the tool, whose answer it is
                            move, sent = generator.athrow, (thrown,)
                finally:
                    await generator.aclose()
        except BaseException as error:  # noqa: BLE001  raised again
            failed(tool, call.entered, call.started, error)
        leave(call, None)

    return wrapper


_WRAPPERS: dict[Kind, Callable[[Tool, Guards], Callable[..., Any]]] = {
    Kind.FUNCTION: _function,
    Kind.COROUTINE: _coroutine_function,
    Kind.GENERATOR: _generator_function,
    Kind.ASYNC_GENERATOR: _async_generator_function,
}
