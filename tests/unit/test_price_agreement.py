"""Prices agree with genai-prices to the last digit, and where it has none they are never too low."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from genai_prices import Usage as ListUsage
from genai_prices import calc_price, extract_usage
from genai_prices.data_snapshot import get_snapshot
from genai_prices.data_units import unit_data
from genai_prices.types import ModelInfo, Provider

from actguard.money.prices import PriceBook
from actguard.money.rate_card import BUCKETS
from actguard.money.usage import Usage

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
TRAFFIC = Path(__file__).resolve().parents[2].parent / "shared" / "traffic"

Counts = dict[str, int | float]
Kind = tuple[tuple[str, str], ...]


def noon() -> datetime:
    return NOON


def as_usage(counts: Mapping[str, int | float]) -> Usage:
    """What an integration would make of these counts: the list includes parts in their whole, we do not."""

    def count(key: str) -> int:
        return int(counts.get(key, 0))

    read, write, hour = count("cache_read_tokens"), count("cache_write_tokens"), count("cache_write_1h_tokens")
    return Usage(
        uncached_input_tokens=count("input_tokens") - read - write,
        cache_read_tokens=read,
        cache_write_5m_tokens=write - hour,
        cache_write_1h_tokens=hour,
        output_tokens=count("output_tokens"),
        reasoning_tokens=count("output_reasoning_tokens") if "output_reasoning_tokens" in counts else None,
        web_searches=count("web_searches"),
        details={key: value for key, value in counts.items() if key not in BUCKETS},
    )


# --- usages of every shape -----------------------------------------------------------------------------------------

TOKEN_UNITS = {
    key: raw["dimensions"].items() for key, raw in unit_data.items() if raw["dimensions"].get("family") == "tokens"
}
OTHER_UNITS = [key for key in unit_data if key not in TOKEN_UNITS and key not in {"requests", "web_searches"}]
SIZES = [1, 7, 100, 4321, 99_999, 128_001, 272_000, 400_000]


def random_tokens(rng: random.Random) -> Counts:
    """Tokens of random kinds, each counted under everything that it is a part of."""
    modalities = ["text"] if rng.random() < 0.5 else rng.sample(["text", "audio", "image", "video"], rng.randint(1, 4))
    counts: Counts = {}
    for direction, types in (
        ("input", ["", "", "cache_read", "cache_write 5m", "cache_write 1h", "tool"]),
        ("output", ["", "", "reasoning", "citation"]),
    ):
        for token_type in set(rng.sample(types, rng.randint(0, 4))):
            kind = {"family": "tokens", "direction": direction}
            if token_type:
                kind["token_type"], *ttl = token_type.split()
                kind |= {"cache_ttl": ttl[0]} if ttl else {}
            for modality in modalities:
                tokens = rng.choice(SIZES)
                whole = (kind | {"modality": modality}).items() if modalities != ["text"] else kind.items()
                for key, dimensions in TOKEN_UNITS.items():
                    if dimensions <= whole:
                        counts[key] = counts.get(key, 0) + tokens
    return counts


def random_counts(rng: random.Random) -> Counts:
    counts = random_tokens(rng)
    if rng.random() < 0.3:
        counts["web_searches"] = rng.randint(1, 20)
    if rng.random() < 0.2:
        counts[rng.choice(OTHER_UNITS)] = rng.choice([1, 3, 250])
    if rng.random() < 0.1:
        counts["audio_seconds"] = rng.choice([0.25, 9.5, 12.34, 3601.0])
    return counts


def contexts(model: ModelInfo) -> list[dict[str, str]]:
    return [{}, {"service_tier": "unheard-of"}, *(variant.when for variant in model.price_variants or ())]


@cache
def all_models() -> list[tuple[Provider, ModelInfo]]:
    """Those that are found under their own id."""
    return [
        (provider, model)
        for provider in get_snapshot().providers
        for model in provider.models
        if provider.find_model(model.id) is not None
    ]


def reference(provider: str, model: str, counts: Counts, context: dict[str, str]) -> Decimal | None:
    try:
        return calc_price(
            ListUsage(**counts),
            model,
            provider_id=provider,
            genai_request_timestamp=NOON,
            price_context=context or None,
        ).total_price
    except ValueError:
        return None


@pytest.mark.parametrize("seed", range(4))
def test_random_usages_of_all_models_agree(seed: int) -> None:
    rng = random.Random(seed)
    book = PriceBook(now=noon)
    compared = 0
    for provider, model in rng.sample(all_models(), 250):
        context = rng.choice(contexts(model))
        for _ in range(3):
            counts = random_counts(rng)
            expected = reference(provider.id, model.id, counts, context)
            actual = book.price(provider.id, model.id, as_usage(counts), context=context)
            if expected is None:
                assert actual is not None
                continue
            assert actual == expected, (provider.id, model.id, context, counts)
            compared += 1
    assert compared > 600


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-4o"),
        ("openai", "gpt-5.4"),
        ("openai", "gpt-realtime"),
        ("openai", "gpt-image-1.5"),
        ("anthropic", "claude-sonnet-4-5"),
        ("anthropic", "claude-haiku-5-5"),
        ("google", "gemini-2.5-flash"),
        ("google", "gemini-2.5-pro"),
        ("google", "claude-sonnet-4-5"),
        ("azure", "gpt-5"),
        ("aws", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
        ("groq", "whisper-large-v3"),
        ("perplexity", "sonar-deep-research"),
        ("deepseek", "deepseek-chat"),
    ],
)
def test_many_usages_of_one_model_agree(provider: str, model: str) -> None:
    """Few shapes and many figures: nearly all of these come from remembered formulas."""
    rng = random.Random(model)
    book = PriceBook(now=noon)
    shapes = [random_counts(rng) for _ in range(6)]
    compared = 0
    for _ in range(150):
        shape = rng.choice(shapes)
        factor = rng.choice([1, 2, 3, 17])
        counts = {key: value * factor for key, value in shape.items()}
        expected = reference(provider, model, counts, {})
        if expected is not None:
            assert book.price(provider, model, as_usage(counts)) == expected, counts
            compared += 1
    assert compared > 70


# --- usages without an exact price ---------------------------------------------------------------------------------


def modalities(counts: Counts) -> set[tuple[str, str]]:
    return {
        (direction, value)
        for key in counts
        if key in TOKEN_UNITS
        for name, value in TOKEN_UNITS[key]
        for direction in ("input", "output")
        if name == "modality" and ("direction", direction) in TOKEN_UNITS[key]
    }


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-realtime"),
        ("openai", "gpt-image-1.5"),
        ("google", "gemini-2.5-flash"),
        ("google", "gemini-3.1-flash-lite"),
    ],
)
def test_a_usage_that_lost_some_counts_never_costs_less(provider: str, model: str) -> None:
    rng = random.Random(model)
    book = PriceBook(now=noon)
    bounded = 0
    for _ in range(400):
        counts = random_tokens(rng)
        exact = reference(provider, model, counts, {})
        lost = [key for key in counts if key not in BUCKETS and rng.random() < 0.3]
        rest = {key: value for key, value in counts.items() if key not in lost}
        if exact is None or modalities(rest) != modalities(counts) or reference(provider, model, rest, {}) is not None:
            continue
        price = book.price(provider, model, as_usage(rest))
        assert price is not None
        assert price >= exact, (counts, rest)
        bounded += 1
    assert bounded > 10


@pytest.mark.parametrize(
    ("usage", "at_least"),
    [
        # audio input of gemini-2.5-flash costs 1 USD per million tokens, text 0.30, output 2.50, cache reads 0.03
        (Usage(10, details={"input_audio_tokens": 1_000_000}), "1"),
        (Usage(0, details={"input_audio_tokens": 1_000_000}), "1"),
        (Usage(1_000_000, 1_000_000, details={"input_audio_tokens": 1_000_000}), "1.03"),
        (Usage(1_000_000, -1_000_000, output_tokens=1_000_000), "2.5"),
        (Usage(500_000, details={"input_audio_tokens": 400_000, "cache_audio_read_tokens": 900_000}), "0.9"),
        (Usage(web_searches=1000, details={"input_audio_tokens": 1}), "35"),
    ],
)
def test_contradictions_are_charged_at_an_upper_bound(usage: Usage, at_least: str) -> None:
    price = PriceBook(now=noon).price("google", "gemini-2.5-flash", usage)
    assert price is not None
    assert Decimal(at_least) <= price <= Decimal(at_least) * 2


def test_only_reported_kinds_raise_the_bound() -> None:
    """A cache read stays a cache read, and nobody pays audio prices without audio."""
    usage = Usage(0, 1_000_000, output_tokens=10, reasoning_tokens=5, details={"input_text_tokens": 2_000_000})
    price = PriceBook(now=noon).price("google", "gemini-2.5-flash", usage)
    assert price is not None
    assert price < Decimal("0.4")


# --- recorded traffic ----------------------------------------------------------------------------------------------

FLAVORS = {"chat.completions": "chat", "responses": "responses", "responses.retrieve": "responses"}
FLAVORS |= {"embeddings": "embeddings", "images": "images", "messages": "default", "generate_content": "default"}


def recorded() -> Iterator[tuple[dict[str, Any], Any]]:
    """Each judged exchange without a stream: what was expected of it, and the body of the answer."""
    with (TRAFFIC / "exchanges.jsonl").open() as lines:
        bodies = {row["id"]: row["response_body"] for row in map(json.loads, lines)}
    with (TRAFFIC / "expected.jsonl").open() as lines:
        for row in map(json.loads, lines):
            if not row["stream"] and row["api"] in FLAVORS and row["cost_usd"] and "ambiguous" not in row:
                body = bodies[row["id"]]
                yield row, json.loads(body) if isinstance(body, str) else body


@pytest.mark.skipif(not TRAFFIC.is_dir(), reason="no recorded traffic beside the repository")
def test_recorded_usage_costs_what_the_list_says() -> None:
    book = PriceBook(now=noon)
    compared: Counter[str] = Counter()
    for row, body in recorded():
        extracted = extract_usage(body, provider_id=row["provider"], api_flavor=FLAVORS[row["api"]])
        counts = {key: value for key, value in vars(extracted.usage).items() if key in unit_data}
        tier = (body.get("usage") or {}).get("service_tier") or body.get("service_tier")
        context = {"service_tier": tier} if tier else {}
        usage = as_usage(counts)
        assert usage.input_tokens == row["input_tokens"], row["id"]
        assert usage.output_tokens == row["output_tokens"], row["id"]
        expected = extracted.calc_price(genai_request_timestamp=NOON, price_context=context).total_price
        assert book.price(row["provider"], row["model"], usage, context=context) == expected, row["id"]
        compared[row["provider"]] += 1
    assert min(compared[provider] for provider in ("openai", "anthropic", "google")) > 50
