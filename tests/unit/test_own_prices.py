"""Users' own prices: reading, defaults, and which of them applies."""

from __future__ import annotations

import math
import pickle
from decimal import Decimal
from typing import Any

import pytest

from actguard.exceptions import ActGuardUsageError
from actguard.money.prices import Price, PriceBook
from actguard.money.usage import Usage

HUGE = pytest.param(10**5000, id="too long to print")
MILLION = Usage(1_000_000, 1_000_000, 1_000_000, 1_000_000, 1_000_000)


def test_each_bucket_has_its_rate() -> None:
    price = Price(
        input_per_mtok=1,
        output_per_mtok=20,
        cached_input_per_mtok="300",
        cache_write_per_mtok=Decimal(4000),
        cache_write_1h_per_mtok=50_000.0,
        per_request=600_000,
    )
    assert price.cost(MILLION) == 654_321
    assert price.cost(Usage()) == 600_000
    assert price.rates == (Decimal("0.000001"), Decimal("0.00002"))
    assert price.ceiling == (Decimal("0.05"), Decimal("0.00002"))


def test_what_is_not_given_costs_what_input_costs() -> None:
    price = Price(input_per_mtok=3, output_per_mtok=0)
    assert price.cost(MILLION) == 12
    written = Price(input_per_mtok=3, output_per_mtok=0, cache_write_per_mtok=5)
    assert written.cost(MILLION) == 3 + 3 + 5 + 5


def test_details_are_covered_by_the_token_rates() -> None:
    usage = Usage(1000, output_tokens=10, web_searches=3, reasoning_tokens=4, details={"input_audio_tokens": 900})
    assert Price(input_per_mtok=1, output_per_mtok=1).cost(usage) == Decimal("0.00101")


def test_amounts_are_read_as_written() -> None:
    assert Price(input_per_mtok=0.1, output_per_mtok="0.2").cost(Usage(3, output_tokens=1)) == Decimal("0.0000005")
    assert Price(input_per_mtok=0.1, output_per_mtok=0) == Price(input_per_mtok="0.10", output_per_mtok="0")


@pytest.mark.parametrize("field", ["input_per_mtok", "cached_input_per_mtok", "cache_write_1h_per_mtok", "per_request"])
@pytest.mark.parametrize("wrong", [-1, "-0.1", math.nan, math.inf, "NaN", True, "abc", "", [1], 1e12, HUGE])
def test_a_wrong_amount_is_refused_by_name(field: str, wrong: Any) -> None:
    amounts: dict[str, Any] = {"input_per_mtok": 1, "output_per_mtok": 1, field: wrong}
    with pytest.raises(ActGuardUsageError, match=field) as caught:
        Price(**amounts)
    assert caught.value.field == field


def test_it_is_a_value() -> None:
    price = Price(input_per_mtok=1, output_per_mtok=2)
    assert pickle.loads(pickle.dumps(price)) == price
    assert hash(price) == hash(Price(input_per_mtok="1", output_per_mtok="2"))
    with pytest.raises(AttributeError):
        price.input_per_mtok = Decimal(5)  # type: ignore[misc]


# --- which price applies -------------------------------------------------------------------------------------------


def at(amount: int) -> Price:
    return Price(input_per_mtok=amount, output_per_mtok=0)


BOOK = PriceBook(
    {
        "gpt-4o": at(1),
        "azure:gpt-4o": at(2),
        "gpt-4o-*": at(3),
        "gpt-4o-mini-*": at(4),
        "azure:*": at(5),
        "ft:gpt-4o:me::id": at(6),
        "Gemini-X": at(7),
        "gemini-?": at(8),
    }
)


@pytest.mark.parametrize(
    ("provider", "model", "requested", "amount"),
    [
        ("openai", "gpt-4o", None, 1),
        ("azure", "gpt-4o", None, 2),
        ("openai", "gpt-4o-2024-08-06", None, 3),
        ("openai", "gpt-4o-mini-2024-07-18", None, 4),
        ("azure", "prod-deployment", None, 5),
        ("azure", "gpt-4o-mini-2024-07-18", None, 4),  # the longer pattern
        ("openai", "ft:gpt-4o:me::id", None, 6),
        ("google", "gemini-x", None, 7),
        ("google", "models/gemini-x", None, 7),
        ("google", "publishers/google/models/GEMINI-X", None, 7),
        ("google", "gemini-y", None, 8),
        ("openai", "o7", "gpt-4o", 1),  # what was asked for counts as well
        ("openai", "gpt-4o-2024-08-06", "gpt-4o", 1),  # and exact comes before a pattern
        ("openai", "gpt-4o", "gpt-4o-mini-x", 1),
    ],
)
def test_exact_names_then_the_longest_pattern(provider: str, model: str, requested: str | None, amount: int) -> None:
    for _ in range(2):  # found, then remembered
        assert BOOK.price(provider, model, Usage(1_000_000), requested=requested) == amount


def test_own_prices_override_the_list_and_leave_the_rest() -> None:
    book = PriceBook({"gpt-4o": at(100)})
    assert book.price("openai", "gpt-4o", Usage(1_000_000)) == 100
    assert book.marginal_rates("openai", "gpt-4o") == (Decimal("0.0001"), Decimal(0))
    assert book.ceiling_rates("openai", "gpt-4o") == (Decimal("0.0001"), Decimal(0))
    assert book.request_fee("openai", "gpt-4o") == 0
    assert book.price("openai", "gpt-4o-mini", Usage(1_000_000)) == Decimal("0.15")


def test_a_configuration_file_gives_mappings() -> None:
    book = PriceBook({"m": {"input_per_mtok": 1, "output_per_mtok": "2.5"}})
    assert book.price("openai", "m", Usage(1_000_000, output_tokens=1_000_000)) == Decimal("3.5")


@pytest.mark.parametrize(
    ("prices", "problem"),
    [
        ([("m", at(1))], "must be a mapping"),
        ({"m": 1.5}, "must be a Price"),
        ({"m": {"input_per_mtok": 1}}, "output_per_mtok is missing"),
        ({"m": {"input_per_mtok": 1, "output_per_mtok": 1, "input": 1}}, "'input' is not one of"),
        ({"m": {"input_per_mtok": -1, "output_per_mtok": 1}}, "'m'.*input_per_mtok must not be negative"),
        ({"": at(1)}, "not a model name"),
        ({7: at(1)}, "not a model name"),
        ({"M": at(1), "m": at(2)}, "given twice"),
    ],
)
def test_wrong_prices_are_refused_at_once(prices: Any, problem: str) -> None:
    with pytest.raises(ActGuardUsageError, match=problem) as caught:
        PriceBook(prices)
    assert str(caught.value.field).startswith("prices")
