"""Cost units: rounding, the gateway's tariff, and what it leaves out."""

from __future__ import annotations

import copy
import json
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from actguard.client import Client
from actguard.guards.admission import Asked
from actguard.guards.charging import CHECK_WITH_PLENTY
from actguard.money.tariff import Tariff, usd_to_cu
from actguard.money.usage import Usage

ANSWER: dict[str, Any] = {
    "tariff_version": "2026-11",
    "cu_per_usd": 500,
    "registry_version": "7",
    "llm": {
        "default": {"input_cu_per_1k": 4, "output_cu_per_1k": 12, "cached_cu_per_1k": 1},
        "providers": {
            "openai": {
                "models": {
                    "gpt-4o": {"input_cu_per_1k": 2.5, "output_cu_per_1k": 10, "cached_cu_per_1k": 1.25},
                    "gpt-4o-mini": {"input_cu_per_1m": 150, "output_cu_per_1k": 0.6},
                    "text-embedding-3-small": {"input_cu_per_1m": 20},
                }
            },
            "google": {"models": {"gemini-2.5-pro": {"input_cu_per_1k": 1.25, "output_cu_per_1k": 10}}},
        },
    },
    "tools": {"search": 3},
}


@pytest.fixture
def tariff() -> Tariff:
    return Tariff.model_validate(ANSWER)


# --- from USD ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usd", "cu"),
    [("0", 0), ("0.0000000001", 1), ("0.001", 1), ("0.0010000001", 2), ("0.0021", 3), ("1", 1000), ("12.3456", 12346)],
)
def test_usd_is_rounded_up_once_to_a_whole_unit(usd: str, cu: int) -> None:
    assert usd_to_cu(Decimal(usd)) == cu


@given(st.decimals(min_value=0, max_value=10**9, places=12), st.integers(min_value=1, max_value=10**6))
def test_rounding_up_is_exact(usd: Decimal, cu_per_usd: int) -> None:
    assert usd_to_cu(usd, cu_per_usd) == math.ceil(Fraction(usd) * cu_per_usd)


def test_no_digit_is_lost_in_long_amounts() -> None:
    assert usd_to_cu(Decimal("1000000000000000000000000000.0000001")) == 10**30 + 1


@pytest.mark.parametrize("usd", ["-0.01", "NaN", "Infinity"])
def test_usd_that_is_no_amount_is_refused(usd: str) -> None:
    with pytest.raises(ValueError, match="finite amount"):
        usd_to_cu(Decimal(usd))


# --- the tariff's rates --------------------------------------------------------------------------------------------


def test_each_of_the_three_parts_is_rounded_up(tariff: Tariff) -> None:
    # 1 token each: 0.0025, 0.00125 and 0.01 CU
    assert tariff.cost("openai", "gpt-4o", Usage(1, 1, output_tokens=1)) == 3
    assert tariff.cost("openai", "gpt-4o", Usage(1)) == 1
    assert tariff.cost("openai", "gpt-4o", Usage()) == 0
    assert tariff.cost("openai", "gpt-4o", Usage(1000, 1000, output_tokens=1000)) == 3 + 2 + 10


def test_cache_reads_are_charged_once_and_writes_as_input(tariff: Tariff) -> None:
    usage = Usage(cache_read_tokens=4000, cache_write_5m_tokens=1000, cache_write_1h_tokens=1000)
    assert tariff.cost("openai", "gpt-4o", usage) == 5 + 5


def test_a_rate_per_million_is_the_thousandth_of_one_per_thousand(tariff: Tariff) -> None:
    assert tariff.cost("openai", "gpt-4o-mini", Usage(100_000)) == 15
    assert tariff.cost("openai", "gpt-4o-mini", Usage(100_001)) == 16


def test_what_a_model_leaves_out(tariff: Tariff) -> None:
    assert tariff.cost("openai", "gpt-4o-mini", Usage(cache_read_tokens=100_000)) == 15  # as its input
    assert tariff.cost("openai", "text-embedding-3-small", Usage(output_tokens=1000)) == 12  # the default


def test_an_unlisted_model_costs_the_default(tariff: Tariff) -> None:
    usage = Usage(1000, 1000, output_tokens=1000)
    assert tariff.cost("openai", "o9", usage) == 17
    assert tariff.cost("nobody", "gpt-4o", usage) == 17


@pytest.mark.parametrize(
    ("provider", "model", "requested"),
    [
        ("openai", "gpt-4o", None),
        ("openai", "gpt-4o-2024-08-06", None),
        ("openai", "openai/gpt-4o", None),
        ("openai", "my-alias", "gpt-4o"),
    ],
)
def test_a_model_is_found_by_its_plain_name(tariff: Tariff, provider: str, model: str, requested: str | None) -> None:
    assert tariff.cost(provider, model, Usage(1000), requested=requested) == 3


def test_a_longer_name_is_another_model(tariff: Tariff) -> None:
    assert tariff.cost("openai", "gpt-4o-audio-preview-2024-12-17", Usage(1000)) == 4


def test_a_resource_path_is_the_model_it_ends_in(tariff: Tariff) -> None:
    assert tariff.cost("google", "publishers/google/models/gemini-2.5-pro", Usage(1000)) == 2


def test_tools(tariff: Tariff) -> None:
    assert tariff.tool_cost("search") == 3
    assert tariff.tool_cost("other") == 0


@given(st.integers(0, 10**7), st.integers(0, 10**7), st.integers(0, 10**7))
def test_the_cost_is_what_exact_arithmetic_says(uncached: int, cached: int, output: int) -> None:
    expected = sum(
        math.ceil(Fraction(rate) * tokens / 1000)
        for rate, tokens in (("2.5", uncached), ("1.25", cached), (10, output))
    )
    cost = Tariff.model_validate(ANSWER).cost("openai", "gpt-4o", Usage(uncached, cached, output_tokens=output))
    assert cost == expected


# --- reading -------------------------------------------------------------------------------------------------------


def test_json_and_mappings_read_alike(tariff: Tariff) -> None:
    assert Tariff.model_validate_json(json.dumps(ANSWER)) == tariff


def test_rates_are_read_as_written() -> None:
    answer = changed(("llm", "default", "input_cu_per_1k"), 0.1)
    assert Tariff.model_validate(answer).cost("x", "y", Usage(10_000)) == 1


def test_providers_and_tools_may_be_absent_and_new_top_level_fields_are_let_through() -> None:
    answer = copy.deepcopy(ANSWER) | {"valid_until": "2027-01-01"}
    del answer["tools"], answer["llm"]["providers"]
    assert Tariff.model_validate(answer).cost("openai", "gpt-4o", Usage(1000)) == 4


GPT = ("llm", "providers", "openai", "models", "gpt-4o")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("tariff_version",), 1),
        (("cu_per_usd",), 0),
        (("cu_per_usd",), True),
        (("cu_per_usd",), "1000"),
        (("registry_version",), None),
        (("llm",), []),
        (("llm", "default"), {"input_cu_per_1k": 1, "output_cu_per_1k": 1}),
        (("llm", "default", "input_cu_per_1k"), -1),
        (("llm", "default", "input_cu_per_1k"), "1"),
        (("llm", "default", "input_cu_per_1k"), True),
        (("llm", "default", "input_cu_per_1k"), float("nan")),
        (("llm", "default", "output_cu_per_1k"), None),
        (GPT, {"output_cu_per_1k": 1}),
        (GPT, {"input_cu_per_1k": 1, "input_cu_per_1m": 1000}),
        (GPT, {"input_cu_per_1k": 1, "output_cu_per_1m": 1000}),
        (GPT, 3),
        (("tools",), {"search": -1}),
        (("tools",), {"search": 1.5}),
        (("tools",), {"search": True}),
    ],
)
def test_a_wrong_tariff_is_refused_where_it_is_wrong(path: tuple[str, ...], value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        Tariff.model_validate(changed(path, value))
    assert [error["loc"][: len(path)] for error in caught.value.errors()] == [path] * caught.value.error_count()


def test_the_refusal_does_not_show_values() -> None:
    with pytest.raises(ValidationError) as caught:
        Tariff.model_validate(changed(("registry_version",), {"note": "confidential"}))
    assert "confidential" not in str(caught.value)


def changed(path: tuple[str, ...], value: object) -> dict[str, Any]:
    answer = copy.deepcopy(ANSWER)
    place = answer
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return answer


@pytest.mark.parametrize(("cu_per_token", "next_check"), [(10, 4), (2, 24), (0, CHECK_WITH_PLENTY)])
def test_a_running_stream_is_looked_at_as_often_as_the_tariff_asks_for(
    cu_per_token: int, next_check: int, client: Client
) -> None:
    with client.run(), client.budget_guard(cost_limit=100) as budget:
        budget.tree.cost_of = lambda _provider, _model, usage: cu_per_token * usage.output_tokens
        ticket = budget.admit(Asked("test", "m", "test", estimate=Usage(output_tokens=1), output_limit=None))
        error, tokens = ticket.check(Usage())
        assert error is None
        assert tokens == next_check  # half of what 99 cost units pay for
        ticket.charge(Usage(output_tokens=1))
