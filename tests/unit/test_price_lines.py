"""The quick sum of a price is the sum that it stands for, to the last digit and with as many places."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actguard.money.prices import PriceBook
from actguard.money.rate_card import RateCard
from actguard.money.usage import Usage

BOOK = PriceBook()
MODELS = (
    ("openai", "gpt-4o"),
    ("openai", "gpt-5-mini"),
    ("openai", "gpt-4o-search-preview"),
    ("anthropic", "claude-sonnet-4-5"),
    ("anthropic", "claude-3-5-haiku-latest"),
    ("google", "gemini-2.5-pro"),
    ("google", "gemini-2.5-flash"),
)
COUNTS = st.one_of(st.just(0), st.integers(0, 50), st.integers(0, 300_000), st.integers(0, 10**12))


def card_of(provider: str, model: str) -> RateCard:
    BOOK.load()
    card = BOOK._card(provider, model, None)
    assert card is not None
    return card


@pytest.mark.parametrize(("provider", "model"), MODELS)
@given(data=st.data())
def test_the_quick_sum_is_the_exact_one(provider: str, model: str, data: st.DataObject) -> None:
    card, output = card_of(provider, model), data.draw(COUNTS)
    usage = Usage(
        uncached_input_tokens=data.draw(COUNTS),
        cache_read_tokens=data.draw(COUNTS),
        cache_write_5m_tokens=data.draw(COUNTS),
        cache_write_1h_tokens=data.draw(COUNTS),
        output_tokens=output,
        reasoning_tokens=data.draw(st.one_of(st.none(), st.integers(0, output))),
        web_searches=data.draw(st.sampled_from((0, 0, 3))),
    )
    exact, _ = card._price_by_formula(usage)
    assert [str(card.price(usage)) for _ in range(2)] == [str(exact)] * 2  # before and after the line is known


@pytest.mark.parametrize(("provider", "model"), MODELS)
def test_the_usual_call_is_priced_by_a_line(provider: str, model: str) -> None:
    card = card_of(provider, model)
    card.price(Usage(uncached_input_tokens=1000, output_tokens=100))
    assert card._lines


@pytest.mark.parametrize(
    "usage",
    [
        Usage(uncached_input_tokens=-5, output_tokens=10),
        Usage(uncached_input_tokens=5, cache_read_tokens=-1, output_tokens=10),
        Usage(uncached_input_tokens=5, output_tokens=10, reasoning_tokens=11),
        Usage(uncached_input_tokens=5, output_tokens=10, details={"input_audio_tokens": 3}),
    ],
)
def test_what_is_no_set_of_buckets_is_not(usage: Usage) -> None:
    card = card_of("openai", "gpt-4o-audio-preview")
    known = dict(card._lines)
    assert str(card.price(usage)) == str(card._price_by_formula(usage)[0])
    assert card._lines == known
