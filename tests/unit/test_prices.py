"""The price book: what it finds, under which names, at which time, and what it remembers."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal, localcontext

import pytest
from genai_prices import Usage as ListUsage
from genai_prices import calc_price
from genai_prices.data_snapshot import DataSnapshot, get_snapshot, set_custom_snapshot
from genai_prices.types import ClauseEquals, ModelInfo, ModelPrice

from actguard.money.own_prices import MEMORY_SIZE
from actguard.money.prices import Price, PriceBook
from actguard.money.usage import Usage

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
THOUSAND = Usage(uncached_input_tokens=1000, output_tokens=1000)


class Clock:
    """A clock to move by hand."""

    def __init__(self, at: datetime = NOON) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def book(clock: Clock) -> PriceBook:
    return PriceBook(now=clock)


def listed(provider: str, model: str, at: datetime = NOON, **counts: float) -> Decimal:
    price = calc_price(ListUsage(**counts), model, provider_id=provider, genai_request_timestamp=at)
    return price.total_price


# --- what it finds -------------------------------------------------------------------------------------------------


def test_a_call_costs_what_the_list_says(book: PriceBook) -> None:
    assert book.price("openai", "gpt-4o", THOUSAND) == Decimal("0.0125")
    assert book.price("openai", "gpt-4o", Usage(1000, 1000)) == Decimal("0.00375")
    assert book.price("openai", "gpt-4o", Usage()) == 0


def test_cache_writes_for_an_hour_cost_more_than_for_five_minutes(book: PriceBook) -> None:
    def cost(usage: Usage) -> Decimal | None:
        return book.price("anthropic", "claude-sonnet-4-6", usage)

    assert cost(Usage(1_000_000)) == 3
    assert cost(Usage(cache_read_tokens=1_000_000)) == Decimal("0.3")
    assert cost(Usage(cache_write_5m_tokens=1_000_000)) == Decimal("3.75")
    assert cost(Usage(cache_write_1h_tokens=1_000_000)) == 6
    assert cost(Usage(web_searches=100)) == 1


def test_details_carry_prices_of_their_own(book: PriceBook) -> None:
    audio = Usage(1000, output_tokens=100, details={"input_audio_tokens": 400, "output_audio_tokens": 0})
    assert book.price("openai", "gpt-audio", audio) == listed(
        "openai", "gpt-audio", input_tokens=1000, input_audio_tokens=400, output_tokens=100
    )
    assert book.price("openai", "whisper-1", Usage(details={"audio_seconds": 12.5})) == listed(
        "openai", "whisper-1", audio_seconds=12.5
    )
    assert book.price("openai", "tts-1", Usage(details={"input_characters": 2_000})) == Decimal("0.03")


def test_details_that_mean_nothing_are_ignored(book: PriceBook) -> None:
    strange = Usage(
        1000, details={"no_such_unit": 5, "input_tokens": 9, "cache_read_tokens": 9, "input_audio_tokens": -1}
    )
    assert book.price("openai", "gpt-4o", strange) == Decimal("0.0025")


def test_a_large_prompt_is_charged_at_its_tier(book: PriceBook) -> None:
    def input_cost(tokens: int) -> Decimal | None:
        return book.price("google", "gemini-2.5-pro", Usage(tokens))

    assert input_cost(200_000) == Decimal("0.25")
    assert input_cost(200_001) == Decimal("0.5000025")
    assert input_cost(1) == Decimal("0.00000125")


@pytest.mark.parametrize("context", [{"service_tier": "priority"}, (("service_tier", "priority"),)])
def test_the_service_tier_decides(book: PriceBook, context: dict[str, str] | tuple[tuple[str, str], ...]) -> None:
    assert book.price("openai", "gpt-5", THOUSAND, context=context) == Decimal("0.0225")
    assert book.price("openai", "gpt-5", THOUSAND, context={"service_tier": "unheard-of"}) == Decimal("0.01125")
    assert book.price("openai", "gpt-5", THOUSAND, context={}) == Decimal("0.01125")


def test_a_minimum_charge_is_kept(book: PriceBook) -> None:
    for seconds in (30.0, 2.0, 10.0, 0.5, 61.5):
        usage = Usage(details={"audio_seconds": seconds})
        assert book.price("groq", "whisper-large-v3", usage) == listed(
            "groq", "whisper-large-v3", audio_seconds=seconds
        )


def test_a_charge_per_request_is_kept(book: PriceBook) -> None:
    assert book.price("perplexity", "sonar", Usage()) == Decimal("0.012")
    assert book.price("perplexity", "sonar", Usage(1000)) == Decimal("0.013")
    assert book.request_fee("perplexity", "sonar") == Decimal("0.012")
    assert book.request_fee("openai", "gpt-4o") == 0


@pytest.mark.parametrize(
    ("provider", "model"),
    [("openai", "no-such-model"), ("no-such-provider", "gpt-4o"), ("openai", ""), ("azure", "my-deployment")],
)
def test_no_price_is_none(book: PriceBook, provider: str, model: str) -> None:
    assert book.price(provider, model, THOUSAND) is None
    assert book.marginal_rates(provider, model) is None
    assert book.ceiling_rates(provider, model) is None
    assert book.request_fee(provider, model) is None


def test_the_programs_decimal_context_does_not_matter(book: PriceBook) -> None:
    usage = Usage(123_457, 98_765, output_tokens=76_543, details={"audio_seconds": 123.4567})
    exact = PriceBook(now=Clock()).price("openai", "gpt-4o", usage)
    with localcontext() as context:
        context.prec = 3
        assert book.price("openai", "gpt-4o", usage) == exact
        assert book.price("openai", "gpt-4o", usage) == exact


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("provider", "model", "plain"),
    [
        ("google", "models/gemini-2.5-pro", "gemini-2.5-pro"),
        ("google", "publishers/google/models/gemini-2.5-flash", "gemini-2.5-flash"),
        ("google", "projects/p/locations/us-east5/publishers/google/models/gemini-2.5-pro", "gemini-2.5-pro"),
        ("google", "publishers/anthropic/models/claude-sonnet-4-5@20250929", "claude-sonnet-4-5"),
        ("google", "google/gemini-2.5-pro", "gemini-2.5-pro"),
        ("openai", "openai/gpt-4o", "gpt-4o"),
        ("aws", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "anthropic.claude-sonnet-4-5-20250929-v1:0"),
        ("aws", "ca.amazon.nova-lite-v1:0", "amazon.nova-lite-v1:0"),
        (
            "aws",
            "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-fable-5-1",
            "us.anthropic.claude-fable-5-1",
        ),
        (
            "aws",
            "arn:aws:bedrock:eu-west-1::foundation-model/anthropic.claude-3-haiku-20240307-v1:0",
            "anthropic.claude-3-haiku-20240307-v1:0",
        ),
    ],
)
def test_paths_around_a_name_do_not_matter(book: PriceBook, provider: str, model: str, plain: str) -> None:
    price = book.price(provider, model, THOUSAND)
    assert price is not None
    assert price == book.price(provider, plain, THOUSAND)


def test_global_and_regional_profiles_are_billed_differently(book: PriceBook) -> None:
    regional = book.price("aws", "eu.anthropic.claude-haiku-4-5-20251001-v1:0", THOUSAND)
    worldwide = book.price("aws", "global.anthropic.claude-haiku-4-5-20251001-v1:0", THOUSAND)
    assert (regional, worldwide) == (Decimal("0.0066"), Decimal("0.006"))


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("aws", "arn:aws:bedrock:us-east-1:123456789012:custom-model/anthropic.claude-3-haiku-20240307-v1:0/abc"),
        ("aws", "arn:aws:bedrock:us-east-1:123456789012:provisioned-model/claude-3-haiku-20240307"),
        ("aws", "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abcdef"),
        ("google", "projects/p/locations/l/endpoints/gemini-2.5-pro"),
        ("google", "projects/p/locations/l/models/gemini-2.5-pro"),
        ("google", "tunedModels/gemini-2.5-pro"),
    ],
)
def test_a_private_deployment_is_not_priced_by_what_it_is_called(book: PriceBook, provider: str, model: str) -> None:
    assert book.price(provider, model, THOUSAND) is None


def test_fine_tunes_have_their_own_price_or_none(book: PriceBook) -> None:
    assert book.price("openai", "ft:gpt-4o-mini-2024-07-18:org::id", THOUSAND) == Decimal("0.0015")
    assert book.price("openai", "gpt-4o-mini-2024-07-18", THOUSAND) == Decimal("0.00075")
    assert book.price("openai", "ft:gpt-4.1-2025-04-14:org::id", THOUSAND) is None
    assert book.price("openai", "ft:gpt-4.1-2025-04-14:org:moderation:id", THOUSAND) is None


# --- time ----------------------------------------------------------------------------------------------------------


def test_a_price_changes_on_its_day(book: PriceBook, clock: Clock) -> None:
    clock.at = datetime(2025, 6, 9, 23, 59, tzinfo=UTC)
    assert book.price("openai", "o3", THOUSAND) == Decimal("0.05")
    clock.at += timedelta(minutes=1)
    assert book.price("openai", "o3", THOUSAND) == Decimal("0.01")


def test_the_day_is_utc_whatever_the_clock_says(book: PriceBook, clock: Clock) -> None:
    clock.at = datetime(2025, 6, 10, 1, tzinfo=timezone(timedelta(hours=2)))  # still the 9th in UTC
    assert book.price("openai", "o3", THOUSAND) == Decimal("0.05")
    clock.at = datetime(2025, 6, 10, 1)  # a naive clock is taken for UTC
    assert book.price("openai", "o3", THOUSAND) == Decimal("0.01")


def test_prices_by_the_hour_are_never_remembered(book: PriceBook, clock: Clock) -> None:
    seen: set[Decimal] = set()
    for hour in range(24):
        clock.at = NOON.replace(hour=hour, minute=30)
        price = book.price("deepseek", "deepseek-chat", THOUSAND)
        assert price == listed("deepseek", "deepseek-chat", clock.at, input_tokens=1000, output_tokens=1000)
        assert price is not None
        seen.add(price)
    assert len(seen) > 1
    ceiling = book.ceiling_rates("deepseek", "deepseek-chat")
    assert ceiling is not None
    assert 1000 * (ceiling.input + ceiling.output) >= max(seen)


# --- memory --------------------------------------------------------------------------------------------------------


def test_memory_is_bounded(book: PriceBook) -> None:
    for number in range(MEMORY_SIZE + 200):
        assert book.price("openai", f"model-{number}", THOUSAND) is None
        assert book.provider_for_url(f"http://127.0.0.1:{number}", "openai") == "openai"
    assert len(book._cards[1]) <= MEMORY_SIZE
    assert len(book._providers) <= MEMORY_SIZE
    assert book.price("openai", "gpt-4o", THOUSAND) == Decimal("0.0125")


def test_the_second_price_does_not_ask_the_list(book: PriceBook) -> None:
    for tokens in range(1, 40):
        book.price("openai", "gpt-4o", Usage(tokens, output_tokens=tokens))
    card = book._card("openai", "gpt-4o", None)
    assert card is not None
    card._ask = lambda counts: pytest.fail(f"asked the list for {counts}")
    assert book.price("openai", "gpt-4o", Usage(7000, output_tokens=12)) == Decimal("0.01762")


def test_updated_prices_are_used_at_once(book: PriceBook) -> None:
    before = get_snapshot()
    assert book.price("openai", "gpt-4o", THOUSAND) == Decimal("0.0125")
    dearer = ModelInfo(
        id="gpt-4o", match=ClauseEquals("gpt-4o"), prices=ModelPrice(input_mtok=Decimal(1000), output_mtok=Decimal(0))
    )
    providers = [
        dataclasses.replace(provider, models=[dearer]) if provider.id == "openai" else provider
        for provider in before.providers
    ]
    set_custom_snapshot(DataSnapshot(providers=providers, from_auto_update=True))
    try:
        assert book.price("openai", "gpt-4o", THOUSAND) == 1
    finally:
        set_custom_snapshot(None)
    assert book.price("openai", "gpt-4o", THOUSAND) == Decimal("0.0125")


# --- rates ---------------------------------------------------------------------------------------------------------


def test_marginal_rates_follow_the_tier_of_the_prompt(book: PriceBook) -> None:
    assert book.marginal_rates("google", "gemini-2.5-pro") == (Decimal("0.00000125"), Decimal("0.00001"))
    large = book.marginal_rates("google", "gemini-2.5-pro", input_tokens=200_001)
    assert large == (Decimal("0.0000025"), Decimal("0.000015"))
    flex = book.marginal_rates("openai", "gpt-5", {"service_tier": "flex"})
    assert flex == (Decimal("0.000000625"), Decimal("0.000005"))
    assert book.marginal_rates("openai", "whisper-1") == (Decimal(0), Decimal(0))


def test_ceilings_are_the_highest_rates_of_all(book: PriceBook) -> None:
    assert book.ceiling_rates("anthropic", "claude-sonnet-4-6", {"service_tier": "standard"}) == (
        Decimal("0.000006"),  # a cache write for an hour
        Decimal("0.000015"),
    )
    assert book.ceiling_rates("openai", "gpt-audio") == (Decimal("0.000032"), Decimal("0.000064"))
    assert book.ceiling_rates("openai", "gpt-5") == (Decimal("0.0000025"), Decimal("0.00002"))  # priority
    assert book.ceiling_rates("openai", "gpt-5", {"service_tier": "flex"}) == (
        Decimal("0.000000625"),
        Decimal("0.000005"),
    )


# --- base URLs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "provider"),
    [
        ("https://api.openai.com/v1/", "openai"),
        ("https://api.anthropic.com", "anthropic"),
        ("https://generativelanguage.googleapis.com/", "google"),
        ("https://us-east5-aiplatform.googleapis.com/", "google"),
        ("https://aiplatform.googleapis.com/", "google"),
        ("https://my-resource.openai.azure.com/openai/", "azure"),
        ("https://bedrock-runtime.us-east-1.amazonaws.com", "aws"),
        ("https://api.groq.com/openai/v1", "groq"),
        ("https://openrouter.ai/api/v1", "openrouter"),
    ],
)
def test_the_provider_is_told_by_its_address(book: PriceBook, url: str, provider: str) -> None:
    assert book.provider_for_url(url, "default") == provider
    assert get_snapshot().find_provider(None, None, url).id == provider


@pytest.mark.parametrize(
    "url",
    [
        None,
        "",
        "http://localhost:8000/v1",
        "http://127.0.0.1:8000/x/1",
        "http://[::1]:8000",
        "http://10.0.0.7:4000",
        "http://litellm:4000",
        "https://llm.example.com/v1",
        "https://eu.api.openai.com/v1",
        "not a url",
        "http://[broken",
    ],
)
def test_other_addresses_are_the_clients_own_provider(book: PriceBook, url: str | None) -> None:
    assert book.provider_for_url(url, "openai") == "openai"
    assert book.provider_for_url(url, "anthropic") == "anthropic"


def test_own_prices_need_no_list() -> None:
    book = PriceBook({"mine": Price(input_per_mtok=1, output_per_mtok=2)})
    assert book.price("anywhere", "mine", THOUSAND) == Decimal("0.003")
