"""Arguments named by a path, in every shape that a model or a caller may send."""

from __future__ import annotations

from collections import OrderedDict, deque, namedtuple
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import PurePath
from typing import Any

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actguard.exceptions import ActGuardUsageError
from actguard.rules import paths
from actguard.rules.paths import ABSENT, MOST_VALUES, UNREADABLE, Unreadable, parse, texts


@dataclass
class Order:
    id: Any
    lines: list[Any] = field(default_factory=list)


@dataclass(slots=True)
class Slotted:
    id: Any


class Model(pydantic.BaseModel, extra="allow"):
    id: Any


class Getters:
    @property
    def id(self) -> Any:
        raise RuntimeError("hostile")

    @property
    def hidden(self) -> Any:
        raise AttributeError("pretends not to be there")


class HostileMapping(dict[str, Any]):
    def __contains__(self, key: object) -> bool:
        raise RuntimeError("hostile")

    def values(self) -> Any:
        raise RuntimeError("hostile")


class HostileList(list[Any]):
    def __iter__(self) -> Any:
        raise RuntimeError("hostile")


Point = namedtuple("Point", ["id"])


def lead(path: str, **arguments: Any) -> list[Any]:
    return parse(path, "Rule").values(arguments)


@pytest.mark.parametrize(
    "order",
    [{"id": 7}, Order(7), Slotted(7), Model(id=7), Point(7), OrderedDict(id=7)],
    ids=lambda order: type(order).__name__,
)
def test_a_dot_goes_to_a_key_or_an_attribute(order: Any) -> None:
    assert lead("order.id", order=order) == [7]
    assert lead("order.other", order=order) == [UNREADABLE if isinstance(order, tuple) else ABSENT]


@pytest.mark.parametrize("items", [[1, 2], (1, 2), {1, 2}, frozenset([1, 2]), deque([1, 2])])
def test_brackets_go_to_every_item(items: Any) -> None:
    assert sorted(lead("items[]", items=items)) == [1, 2]


def test_paths_go_as_deep_as_they_say() -> None:
    orders = [Order(1, [{"sku": "a"}, {"sku": "b"}]), {"lines": [{"sku": "c"}, {}]}, None]
    assert lead("orders[].lines[].sku", orders=orders) == ["a", "b", "c", ABSENT, ABSENT]
    assert lead("matrix[][]", matrix=[[1], [2, 3]]) == [1, 2, 3]
    assert lead("orders[].id", orders=[]) == []
    assert lead("amount", amount=None) == [None]
    assert lead("amount") == [ABSENT]
    assert lead("order.id", order=None) == [ABSENT]
    assert lead("order.id.part", order={}) == [ABSENT]


@pytest.mark.parametrize("value", ["text", 5, 1.5, True, b"bytes", Decimal(1), {"0": 1}, iter([1]), Order(1), range(3)])
def test_what_has_no_items_is_unreadable(value: Any) -> None:
    assert lead("items[]", items=value) == [UNREADABLE]
    assert lead("items[].id", items=value) == [UNREADABLE]


@pytest.mark.parametrize("value", ["ORD-1", 5, True, b"bytes", [{"id": 1}], {1}, (1,)])
def test_what_has_no_names_is_unreadable_rather_than_absent(value: Any) -> None:
    assert lead("order.id", order=value) == [UNREADABLE]


def test_what_raises_is_unreadable() -> None:
    assert lead("order.id", order=Getters()) == [UNREADABLE]
    assert lead("order.hidden", order=Getters()) == [UNREADABLE]
    assert lead("order.other", order=Getters()) == [ABSENT]
    assert lead("order.id", order=HostileMapping(id=1)) == [UNREADABLE]
    assert lead("items[]", items=HostileList([1])) == [UNREADABLE]


def test_more_values_than_anyone_checks_are_unreadable() -> None:
    assert lead("items[]", items=[0] * (MOST_VALUES + 1)) == [UNREADABLE]
    assert lead("items[][]", items=[[0] * 101] * 100) == [UNREADABLE]
    assert len(lead("items[]", items=[0] * MOST_VALUES)) == MOST_VALUES


@pytest.mark.parametrize(
    "path", ["", ".", "a.", ".a", "a..b", "a[0]", "a[]b", "[]", "a b", "1a", "a[", "a\n", "ä", None, 3, "a.[]", "a-b"]
)
def test_a_path_that_is_none_names_the_parameter(path: Any) -> None:
    with pytest.raises(ActGuardUsageError, match=r"Rule: arg") as caught:
        parse(path, "Rule")
    assert caught.value.field == "arg"


def test_a_path_must_begin_with_an_argument_of_the_tool() -> None:
    paths.check_parameter(parse("order.id", "Rule"), ["order"], "Rule")
    with pytest.raises(ActGuardUsageError, match=r"Rule names the argument 'order'.*amount, to") as caught:
        paths.check_parameter(parse("order.id", "Rule"), ["to", "amount"], "Rule")
    assert caught.value.field == "arg"


def test_texts_are_found_wherever_they_are() -> None:
    value = {
        "key": ["one", ("two", {"three"})],
        "order": Order("four", [Model(id="five", extra="six")]),
        "number": 41,
        "amount": Decimal("1.50"),
        "bytes": b"seven",
        "path": PurePath("eight/nine"),
        "nothing": [None, True, ABSENT],
    }
    found = set(texts(value, 1_000))
    assert found >= {"key", "one", "two", "three", "four", "five", "six", "extra", "41", "1.50", "seven", "eight/nine"}


@pytest.mark.parametrize(
    "value",
    [object(), [object()], Getters(), HostileMapping(a="b"), HostileList(["a"]), lambda: "text", iter("a"), UNREADABLE],
    ids=lambda value: type(value).__name__,
)
def test_texts_that_cannot_be_found_are_said_to_be_unreadable(value: Any) -> None:
    with pytest.raises(Unreadable):
        list(texts(value, 1_000))


def test_texts_are_bounded_in_all() -> None:
    assert list(texts(["x" * 60, "y" * 40], 100)) == ["y" * 40, "x" * 60]
    with pytest.raises(Unreadable):
        list(texts(["x" * 60, "y" * 41], 100))
    endless: list[Any] = []
    endless.append(endless)
    for value in (endless, [[]] * (MOST_VALUES + 1), [[[]] * 200] * 200):
        with pytest.raises(Unreadable):
            list(texts(value, 100))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=60, deadline=None)
@given(json_values, st.sampled_from(["a", "a.b", "a[]", "a[].b", "a.b[].c"]))
def test_any_json_has_values_and_texts(value: Any, path: str) -> None:
    assert isinstance(lead(path, a=value), list)
    assert all(isinstance(text, str) for text in texts(value, 100_000))
