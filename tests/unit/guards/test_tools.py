"""What guards read from a call: the arguments as the function itself will see them."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actguard.exceptions import ActGuardUsageError
from actguard.guards.tools import Tool


def everything(a: Any, /, b: Any, c: Any = "c", *rest: Any, d: Any, e: Any = "e", **more: Any) -> dict[str, Any]:
    return locals()


def no_rest(a: Any, /, b: Any, c: Any = "c", *, d: Any = "d") -> dict[str, Any]:
    return locals()


def plain(a: Any, b: Any = "b", *, c: Any = "c") -> dict[str, Any]:
    return locals()


def rest_only(*rest: Any, key: Any = "k") -> dict[str, Any]:
    return locals()


NAMES = st.sampled_from(["a", "b", "c", "d", "e", "rest", "more", "key", "x"])


@given(
    function=st.sampled_from([everything, no_rest, plain, rest_only, functools.partial(everything, 1, d=5)]),
    args=st.lists(st.integers(), max_size=6),
    kwargs=st.dictionaries(NAMES, st.integers()),
)
def test_arguments_are_those_that_the_function_sees(function: Any, args: list[int], kwargs: dict[str, int]) -> None:
    tool = Tool(function)
    try:
        seen = function(*args, **kwargs)
    except TypeError:
        assert not tool.fits(tuple(args), kwargs)
        return
    assert tool.fits(tuple(args), kwargs)
    arguments = tool.arguments(tuple(args), kwargs)
    expected = {name: seen[name] for name in tool.parameters}
    assert arguments == expected
    for name, value in expected.items():
        assert tool.reader(name)(tuple(args), kwargs) == value


def test_a_parameter_that_is_not_there_is_named() -> None:
    with pytest.raises(ActGuardUsageError, match=r"has no parameter 'x'; it has a, b, c") as caught:
        Tool(plain).reader("x")
    assert caught.value.field == "x"


def test_a_tool_has_its_names() -> None:
    class Shop:
        def buy(self) -> None: ...

    assert Tool(Shop.buy).names == {
        f"{__name__}:test_a_tool_has_its_names.<locals>.Shop.buy",
        "test_a_tool_has_its_names.<locals>.Shop.buy",
        "buy",
    }


def test_a_builtin_without_a_signature_takes_whatever_it_is_given() -> None:
    assert Tool(dict).arguments((1,), {"b": 2}) == {"args": (1,), "kwargs": {"b": 2}}
