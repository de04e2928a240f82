"""Usage: sums of buckets, and adding up."""

from __future__ import annotations

import copy
import pickle

from hypothesis import given
from hypothesis import strategies as st

from actguard.money.usage import Usage

tokens = st.integers(min_value=0, max_value=10**9)
usages = st.builds(
    Usage,
    uncached_input_tokens=tokens,
    cache_read_tokens=tokens,
    cache_write_5m_tokens=tokens,
    cache_write_1h_tokens=tokens,
    output_tokens=tokens,
    reasoning_tokens=st.none() | tokens,
    web_searches=tokens,
    details=st.dictionaries(st.sampled_from(["input_audio_tokens", "output_image_tokens", "audio_seconds"]), tokens),
)


def test_totals_are_sums_of_buckets() -> None:
    usage = Usage(
        uncached_input_tokens=1,
        cache_read_tokens=20,
        cache_write_5m_tokens=300,
        cache_write_1h_tokens=4000,
        output_tokens=50_000,
        reasoning_tokens=600,
    )
    assert usage.input_tokens == 4321
    assert usage.cached_input_tokens == 20
    assert usage.cache_write_tokens == 4300
    assert usage.total_tokens == 54_321


def test_zero_is_nothing_billable() -> None:
    assert Usage().is_zero
    assert Usage(reasoning_tokens=0, details={"input_audio_tokens": 0}).is_zero
    assert not Usage(web_searches=1).is_zero
    assert not Usage(details={"audio_seconds": 0.5}).is_zero
    assert not Usage(cache_write_1h_tokens=1).is_zero


@given(usages, usages)
def test_adding_adds_every_bucket(one: Usage, two: Usage) -> None:
    both = one + two
    for name in (
        "uncached_input_tokens",
        "cache_read_tokens",
        "cache_write_5m_tokens",
        "cache_write_1h_tokens",
        "output_tokens",
        "web_searches",
        "total_tokens",
    ):
        assert getattr(both, name) == getattr(one, name) + getattr(two, name)
    for key in {*one.details, *two.details}:
        assert both.details[key] == one.details.get(key, 0) + two.details.get(key, 0)
    assert both == two + one
    assert one + Usage() == one


def test_not_reported_is_not_zero() -> None:
    assert (Usage() + Usage()).reasoning_tokens is None
    assert (Usage(reasoning_tokens=0) + Usage()).reasoning_tokens == 0
    assert (Usage(reasoning_tokens=3) + Usage(reasoning_tokens=4)).reasoning_tokens == 7
    assert Usage() != Usage(reasoning_tokens=0)


@given(usages)
def test_it_pickles_and_copies(usage: Usage) -> None:
    assert pickle.loads(pickle.dumps(usage)) == usage
    assert copy.deepcopy(usage) == usage


def test_the_empty_one_pickles() -> None:
    assert pickle.loads(pickle.dumps(Usage())) == Usage()
