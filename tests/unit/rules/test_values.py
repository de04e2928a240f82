"""Identity of values that nobody vouches for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any
from uuid import UUID

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actguard.rules.values import digest, fact_id, key_of, number, scalar_key

HUGE = [Decimal("NaN"), Decimal("Infinity"), Decimal("1e5000"), Decimal(f"1.{'0' * 5_000}")]
ORDER = UUID("12345678-1234-5678-1234-567812345678")


class Colour(StrEnum):
    RED = "red"


class Size(IntEnum):
    LARGE = 3


class Wrapped(Enum):
    ONE = "1"
    PAIR = (1, 2)


class LyingText(str):
    """A text that claims to be another."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash("ORD-1")

    def __str__(self) -> str:
        return "ORD-1"

    def __len__(self) -> int:
        return 5

    def encode(self, *args: Any) -> bytes:
        return b"ORD-1"


class LyingNumber(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__

    def __int__(self) -> int:
        return 1

    __index__ = __int__

    def __str__(self) -> str:
        return "1"

    __repr__ = __str__

    def bit_length(self) -> int:
        return 1


class LyingFloat(float):
    def __float__(self) -> float:
        return 1.0

    def __repr__(self) -> str:
        return "1.0"

    def is_integer(self) -> bool:
        return True


class Exploding:
    def _fail(self, *args: Any) -> Any:
        raise RuntimeError("hostile")

    __eq__ = __hash__ = __str__ = __repr__ = __len__ = __iter__ = __index__ = __int__ = _fail  # type: ignore[assignment]

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("hostile")


class ExplodingMapping(dict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError("hostile")


@dataclass
class Item:
    id: Any
    note: str = ""


@dataclass
class Other:
    id: Any
    note: str = ""


class Model(pydantic.BaseModel, extra="allow"):
    id: Any


@pytest.mark.parametrize(
    ("same", "text"),
    [
        ([1, 1.0, "1", Decimal(1), Decimal("1.00"), Wrapped.ONE], "1"),
        ([0, 0.0, -0.0, "0", Decimal("-0.0")], "0"),
        ([1.5, "1.5", Decimal("1.50")], "1.5"),
        ([-7, "-7", -7.0], "-7"),
        ([10**30, str(10**30), Decimal("1e30")], str(10**30)),
        (["red", Colour.RED], "red"),
        ([3, Size.LARGE, "3"], "3"),
        ([ORDER, str(ORDER)], str(ORDER)),
        ([date(2026, 1, 2), "2026-01-02"], "2026-01-02"),
        (["\ud800"], "\ud800"),
    ],
)
def test_ids_that_are_the_same(same: list[Any], text: str) -> None:
    assert {fact_id(value) for value in same} == {("text", text)}


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        "",
        b"",
        math.nan,
        math.inf,
        -math.inf,
        Decimal("NaN"),
        Decimal("sNaN"),
        Decimal("Infinity"),
        Decimal("1e999999"),
        Decimal("1e-999999"),
        10**100_000,
        [1],
        (1,),
        {1},
        {"id": 1},
        Item(1),
        Model(id=1),
        object(),
        Wrapped.PAIR,
        Wrapped,
        ExplodingMapping(),
        lambda: "1",
        1j,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_an_id(value: Any) -> None:
    assert fact_id(value) is None


def test_values_that_lie_are_taken_for_what_they_are() -> None:
    assert fact_id(LyingText("ORD-2")) == ("text", "ORD-2")
    assert fact_id(LyingText("x" * 1_000)) == fact_id("x" * 1_000)
    assert fact_id(LyingNumber(2)) == ("text", "2")
    assert number(LyingNumber(900)) == 900
    assert fact_id(LyingFloat(2.5)) == ("text", "2.5")
    assert number(LyingFloat(math.nan)) is None


def test_no_value_can_forge_another_kind_of_id() -> None:
    assert fact_id(b"1") == ("bytes", b"1")
    assert fact_id(bytearray(b"1")) == fact_id(b"1")
    long = "x" * 10_000_000
    identity = fact_id(long)
    assert identity is not None
    assert identity[0] == "long text"
    assert len(identity[1]) == 32
    assert fact_id(long + "y") != identity
    assert fact_id(long.encode()) != identity
    assert fact_id(identity[1]) != identity  # the digest itself, given as bytes


@settings(max_examples=200, deadline=None)
@given(st.integers() | st.text(min_size=1) | st.binary(min_size=1) | st.decimals(allow_nan=False) | st.floats())
def test_ids_are_hashable_and_stable(value: Any) -> None:
    identity = fact_id(value)
    assert identity == fact_id(value)
    assert hash(identity) == hash(fact_id(value))
    if isinstance(value, int):
        assert identity == fact_id(str(value))


@pytest.mark.parametrize(
    ("value", "amount"),
    [
        (5, "5"),
        (0.1, "0.1"),
        (1e300, "1e300"),
        (Decimal("2.50"), "2.50"),
        (Size.LARGE, "3"),
        (-3, "-3"),
    ],
)
def test_amounts_are_read_as_written(value: Any, amount: str) -> None:
    assert number(value) == Decimal(amount)


@pytest.mark.parametrize(
    "value",
    [None, True, False, "5", b"5", math.nan, math.inf, 10**5_000, 1j, [5], Colour.RED, *HUGE],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_amount(value: Any) -> None:
    assert number(value) is None


def test_what_raises_whatever_it_is_asked_is_neither_id_nor_amount() -> None:
    assert fact_id(Exploding()) is None
    assert number(Exploding()) is None


def test_scalars_are_compared_with_their_kind() -> None:
    assert scalar_key(1) == scalar_key(1.0) == scalar_key(Decimal("1.00")) != scalar_key("1")
    assert scalar_key(True) not in {scalar_key(1), scalar_key("True")}
    assert scalar_key(None) == ("constant", None)
    assert scalar_key(False) != scalar_key(None)
    assert scalar_key(Colour.RED) == scalar_key("red")
    assert scalar_key(b"red") != scalar_key("red")
    assert scalar_key(LyingText("other")) != scalar_key("ORD-1")
    for strange in ([1], math.nan, object(), Exploding()):
        assert scalar_key(strange) is None


def test_every_value_has_a_key_and_equal_ids_share_it() -> None:
    assert key_of("alice") == ("text", "alice")
    assert key_of(1) == key_of("1")
    for value in (None, True, [1, 2], {"a": [1]}, math.nan, Exploding(), object()):
        assert hash(key_of(value)) == hash(key_of(value))
    assert len({key_of(value) for value in (None, True, False, [1], [2], {"a": 1}, Exploding())}) == 7


def test_digests_tell_apart_what_differs() -> None:
    values: list[Any] = [
        {"amount": 5, "to": "bob"},
        {"amount": 5, "to": "alice"},
        {"amount": "5", "to": "bob"},
        {"amount": True, "to": "bob"},
        {"amount": 5.5, "to": "bob"},
        {"amount": None, "to": "bob"},
        {"amount": [5], "to": "bob"},
        {"amount": [[5]], "to": "bob"},
        {"amount": {5}, "to": "bob"},
        {"amount": {5: 5}, "to": "bob"},
        {"amount": b"5", "to": "bob"},
        {"amount": [5, 5], "to": "bob"},
        {"amount": [5, [5]], "to": "bob"},
        {"amount": 10**6_000, "to": "bob"},
        {"amount": 10**6_000 + 1, "to": "bob"},
        {"amount": "s1:5", "to": "bob"},
        {"amount": Item(5), "to": "bob"},
        {"amount": Other(5), "to": "bob"},
        {"amount": Item(6), "to": "bob"},
        {"amount": Model(id=5), "to": "bob"},
        {"amount": Model(id=5, more=1), "to": "bob"},
    ]
    assert len({digest(value) for value in values}) == len(values)
    assert len(digest(values)) == 16


def test_digests_of_equal_values_are_equal() -> None:
    for one, other in (
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ([1, 2.0], (1.0, 2)),
        ({1, 2, 3}, frozenset([3, 2, 1])),
        (Item(1), Item(1)),
        (Model(id=1, more=[1]), Model(id=1, more=[1])),
        (object(), object()),  # of an unknown class: clients, connections, contexts
        (10**6_000, 10**6_000),
    ):
        assert digest(one) == digest(other)


def test_hostile_and_endless_values_have_a_digest() -> None:
    endless: list[Any] = []
    endless.append(endless)
    wide = [[[0] * 100] * 100] * 1_000
    for value in (Exploding(), ExplodingMapping(a=1), endless, wide, {"a": Exploding()}, Item(Exploding())):
        assert len(digest(value)) == 16
