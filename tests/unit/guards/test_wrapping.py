"""Decorating: every kind of function stays what it is, and the guards span what it does."""

from __future__ import annotations

import functools
import gc
import inspect
from collections.abc import AsyncGenerator, Generator
from typing import Any, ClassVar, get_type_hints

import pytest
from conftest import Runner
from guarding import KINDS, of_kind, outcome

from actguard import tool
from actguard.context import current_tool
from actguard.exceptions import ActGuardUsageError, GuardError
from actguard.guards.guarding import Guard
from actguard.guards.protocol import CallScope
from actguard.guards.tools import Call, Replay


class Recorder(Guard[None]):
    """A guard that writes down what happens to it."""

    name = "recorder"

    def __init__(self, log: list[Any], label: str = "", refuse: bool = False, replay: Any = None) -> None:
        super().__init__()
        self.log, self.label, self.refuse, self.replay = log, label, refuse, replay

    def enter(self, call: Call) -> Any:
        self.log.append(f"{self.label}in")
        if self.refuse:
            raise GuardError("NO", "no")
        return _Recording(self) if self.replay is None else Replay(self.replay)


class _Recording(CallScope):
    def __init__(self, guard: Recorder) -> None:
        self.guard = guard

    def returned(self, value: Any) -> Any:
        self.guard.log.append(f"{self.guard.label}returned {value}")
        return value

    def leave(self, error: BaseException | None) -> None:
        self.guard.log.append(f"{self.guard.label}out {type(error).__name__ if error else None}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_guard_surrounds_the_call(kind: str, on_loop: Runner) -> None:
    async def main() -> None:
        log: list[Any] = []
        made = Recorder(log)(of_kind(kind, lambda value: value))(7)
        assert log == []  # nothing has begun
        assert await outcome(made) == 7
        ends = 7 if kind in {"function", "coroutine"} else None
        assert log == ["in", f"returned {ends}"]

    if kind == "function":
        log: list[Any] = []
        assert Recorder(log)(of_kind(kind, lambda: 7))() == 7
        assert log == ["in", "returned 7"]
    else:
        on_loop(main)


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_of_the_body_arrives_as_it_is(kind: str, on_loop: Runner) -> None:
    error = ValueError("mine")

    def fail() -> None:
        raise error

    async def main() -> None:
        log: list[Any] = []
        with pytest.raises(ValueError, match="mine") as caught:
            await outcome(Recorder(log)(of_kind(kind, fail))())
        assert caught.value is error
        assert log == ["in", "out ValueError"]

    on_loop(main)


@pytest.mark.parametrize("kind", KINDS)
def test_a_refusal_leaves_those_that_were_entered(kind: str, on_loop: Runner) -> None:
    async def main() -> None:
        log: list[Any] = []
        ran: list[int] = []
        tool = Recorder(log, "outer ")(Recorder(log, "inner ", refuse=True)(of_kind(kind, lambda: ran.append(1))))
        with pytest.raises(GuardError):
            await outcome(tool())
        assert log == ["outer in", "inner in", "outer out PolicyViolationError"]
        assert not ran

    on_loop(main)


@pytest.mark.parametrize("kind", ["function", "coroutine"])
def test_a_replay_takes_the_place_of_the_body(kind: str, on_loop: Runner) -> None:
    async def main() -> None:
        log: list[Any] = []
        tool = Recorder(log, "outer ")(Recorder(log, "inner ", replay="stored")(of_kind(kind, lambda: 1 / 0)))
        assert await outcome(tool()) == "stored"
        assert log == ["outer in", "inner in", "outer out None"]

    on_loop(main)


def test_guards_above_each_other_are_one_chain_the_upper_the_outer() -> None:
    log: list[Any] = []

    @Recorder(log, "a ")
    @Recorder(log, "b ")
    @Recorder(log, "c ")
    def function() -> int:
        return 1

    function()
    assert log == [
        *("a in", "b in", "c in"),
        *("c returned 1", "b returned 1", "a returned 1"),
    ]
    assert inspect.unwrap(function).__qualname__ == function.__qualname__
    assert function.__wrapped__ is inspect.unwrap(function)  # type: ignore[attr-defined]


# --- what a framework sees ------------------------------------------------------------------------------------------


def documented(a: int, /, b: str, *rest: float, c: bool = True, **more: bytes) -> list[str]:
    """Does nothing."""
    return []


def test_name_docstring_signature_and_hints_stay() -> None:
    guarded = tool(documented)
    assert guarded is not documented
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        assert getattr(guarded, name) == getattr(documented, name)
    assert inspect.signature(guarded) == inspect.signature(documented)
    assert get_type_hints(guarded) == get_type_hints(documented)
    assert guarded.__wrapped__ is documented  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", KINDS)
def test_a_function_stays_of_its_kind(kind: str) -> None:
    bare = of_kind(kind, lambda: None)
    guarded = tool(bare)
    for test in (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
        assert test(guarded) == test(bare)


class Shop:
    """Methods of all kinds, decorated above and below."""

    log: ClassVar[list[Any]] = []

    def __init__(self, name: str) -> None:
        self.name = name

    @Recorder(log)
    def method(self, item: str) -> str:
        return f"{self.name} {item}"

    @Recorder(log)
    @classmethod
    def above_class(cls, item: str) -> str:
        return f"{cls.__name__} {item}"

    @classmethod
    @Recorder(log)
    def below_class(cls, item: str) -> str:
        return f"{cls.__name__} {item}"

    @Recorder(log)
    @staticmethod
    def above_static(item: str) -> str:
        return item

    @staticmethod
    @Recorder(log)
    def below_static(item: str) -> str:
        return item

    async def bare(self, item: str) -> str:
        return f"{self.name} {item}"


def test_methods_of_every_kind() -> None:
    shop = Shop("corner")
    Shop.log.clear()
    assert shop.method("tea") == "corner tea"
    assert shop.above_class("tea") == Shop.above_class("tea") == Shop.below_class("tea") == "Shop tea"
    assert shop.above_static("tea") == Shop.above_static("tea") == shop.below_static("tea") == "tea"
    assert len(Shop.log) == 14
    assert list(inspect.signature(shop.method).parameters) == ["item"]


async def test_bound_methods_partials_and_callable_objects() -> None:
    class Caller:
        async def __call__(self, item: str) -> str:
            """Calls."""
            return f"called {item}"

    log: list[Any] = []
    assert await Recorder(log)(Shop("corner").bare)("tea") == "corner tea"
    partial = Recorder(log)(functools.partial(documented, 1, "b"))
    assert partial(c=False) == []
    assert partial.__name__ == "documented"
    assert list(inspect.signature(partial).parameters) == ["rest", "c", "more"]
    called = Recorder(log)(Caller())
    assert inspect.iscoroutinefunction(called)
    assert await called("tea") == "called tea"
    assert len(log) == 6


@pytest.mark.parametrize("what", [Shop, 7, property(lambda self: 1)])
def test_what_is_no_function_is_refused(what: Any) -> None:
    with pytest.raises(ActGuardUsageError, match="decorates a function") as caught:
        tool(what)
    assert caught.value.field == "function"


# --- generators -----------------------------------------------------------------------------------------------------


def echo(times: int) -> Generator[Any, Any, str]:
    received: Any = "start"
    for _ in range(times):
        try:
            received = yield received
        except KeyError as error:
            received = f"caught {error}"
    return "end"


def test_a_generator_is_sent_to_thrown_into_and_returns() -> None:
    log: list[Any] = []
    generator = Recorder(log)(echo)(3)
    assert next(generator) == "start"
    assert generator.send("hello") == "hello"
    assert generator.throw(KeyError("k")) == "caught 'k'"
    with pytest.raises(StopIteration) as stopped:
        next(generator)
    assert stopped.value.value == "end"
    assert log == ["in", "returned end"]


@pytest.mark.parametrize("how", ["close", "drop", "throw"])
def test_a_generator_left_early_leaves_its_guards(how: str) -> None:
    log: list[Any] = []
    cleaned: list[str] = []

    @Recorder(log)
    def items() -> Generator[int]:
        try:
            yield 1
            yield 2
        finally:
            cleaned.append(current_tool.get() or "")

    generator = items()
    assert next(generator) == 1
    if how == "close":
        generator.close()
    elif how == "drop":
        del generator
        gc.collect()
    else:
        with pytest.raises(ZeroDivisionError):
            generator.throw(ZeroDivisionError())
    assert log == ["in", f"out {'ZeroDivisionError' if how == 'throw' else 'GeneratorExit'}"]
    assert len(cleaned) == 1


def test_an_async_generator_is_sent_to_thrown_into_and_closed(on_loop: Runner) -> None:
    async def echo(times: int) -> AsyncGenerator[Any, Any]:
        received: Any = "start"
        for _ in range(times):
            try:
                received = yield received
            except KeyError as error:
                received = f"caught {error}"

    async def main() -> None:
        log: list[Any] = []
        generator = Recorder(log)(echo)(3)
        assert await anext(generator) == "start"
        assert await generator.asend("hello") == "hello"
        assert await generator.athrow(KeyError("k")) == "caught 'k'"
        with pytest.raises(StopAsyncIteration):
            await anext(generator)
        assert log == ["in", "returned None"]
        left = Recorder(log)(echo)(3)
        await anext(left)
        await left.aclose()
        assert log[2:] == ["in", "out GeneratorExit"]

    on_loop(main)


@pytest.mark.parametrize("kind", KINDS)
def test_the_tool_is_known_in_its_body_and_nowhere_else(kind: str, on_loop: Runner) -> None:
    guarded = tool(of_kind(kind, current_tool.get))
    name = f"{guarded.__module__}:{guarded.__qualname__}"

    async def main() -> None:
        seen = []
        made = guarded()
        if kind == "generator":
            for item in made:
                seen.append((item, current_tool.get()))
        elif kind == "async generator":
            async for item in made:
                seen.append((item, current_tool.get()))
        else:
            seen.append((await outcome(made), current_tool.get()))
        assert seen == [(name, None)]

    on_loop(main)
