"""Reading Gemini's usage blocks: whole answers, streams, embeddings, price lists."""

from __future__ import annotations

from typing import Any

import pytest
from genai_prices import Usage as PricedUsage
from genai_prices import calc_price
from hypothesis import given
from hypothesis import strategies as st

from actguard.integrations.google_usage import (
    StreamedContent,
    generated_text,
    price_context,
    read_embeddings_usage,
    read_usage,
)
from actguard.money.usage import Usage


def split(**tokens: int) -> list[dict[str, Any]]:
    return [{"modality": modality, "tokenCount": count} for modality, count in tokens.items()]


def test_thoughts_and_tool_use_prompts_come_on_top_and_cached_tokens_do_not() -> None:
    usage = read_usage(
        {
            "promptTokenCount": 1000,
            "cachedContentTokenCount": 400,
            "candidatesTokenCount": 20,
            "thoughtsTokenCount": 300,
            "toolUsePromptTokenCount": 50,
            "totalTokenCount": 1370,
        }
    )
    assert usage == Usage(
        uncached_input_tokens=650, cache_read_tokens=400, output_tokens=320, reasoning_tokens=300, details={}
    )
    assert (usage.input_tokens, usage.total_tokens) == (1050, 1370)


def test_modalities_with_prices_of_their_own_are_kept_apart() -> None:
    usage = read_usage(
        {
            "promptTokenCount": 3297,
            "promptTokensDetails": split(TEXT=83, VIDEO=2893, AUDIO=221, DOCUMENT=40, IMAGE=60),
            "cachedContentTokenCount": 2818,
            "cacheTokensDetails": split(AUDIO=184, TEXT=73, VIDEO=2561),
            "candidatesTokenCount": 1216,
            "candidatesTokensDetails": split(IMAGE=1120),
            "toolUsePromptTokenCount": 10,
            "toolUsePromptTokensDetails": split(AUDIO=10),
        }
    )
    assert usage is not None
    assert usage.details == {
        "input_video_tokens": 2893,
        "input_audio_tokens": 231,
        "input_image_tokens": 100,
        "cache_audio_read_tokens": 184,
        "cache_video_read_tokens": 2561,
        "cache_image_read_tokens": 0,
        "output_image_tokens": 1120,
    }


def test_what_was_cached_without_a_split_cannot_all_have_been_text() -> None:
    usage = read_usage(
        {"promptTokenCount": 100, "promptTokensDetails": split(TEXT=10, AUDIO=90), "cachedContentTokenCount": 60}
    )
    assert usage is not None
    assert usage.details == {"input_audio_tokens": 90, "cache_audio_read_tokens": 50}


def test_no_candidates_is_no_output() -> None:
    usage = read_usage({"promptTokenCount": 14, "totalTokenCount": 14})
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.reasoning_tokens) == (14, 0, None)


@pytest.mark.parametrize("block", [None, {}, {"trafficType": "ON_DEMAND"}, [], "usage"])
def test_no_counts_is_no_usage(block: Any) -> None:
    assert read_usage(block) is None


@pytest.mark.parametrize(
    ("block", "request_body", "context"),
    [
        (None, None, {}),
        ({"trafficType": "ON_DEMAND"}, None, {}),
        ({"trafficType": "PROVISIONED_THROUGHPUT"}, None, {}),
        ({"trafficType": "ON_DEMAND_FLEX"}, None, {"service_tier": "flex"}),
        ({"trafficType": "ON_DEMAND_PRIORITY"}, None, {"service_tier": "priority"}),
        ({"serviceTier": "standard"}, {"serviceTier": "flex"}, {}),
        ({"serviceTier": "priority"}, None, {"service_tier": "priority"}),
        ({}, {"serviceTier": "flex"}, {"service_tier": "flex"}),
    ],
)
def test_the_tier_that_served_decides_the_price(
    block: dict[str, str] | None, request_body: dict[str, str] | None, context: dict[str, str]
) -> None:
    assert price_context(block, request_body) == context


@pytest.mark.parametrize(
    ("answer", "tokens"),
    [
        ({"embeddings": [], "usageMetadata": {"promptTokenCount": 7, "promptTokenDetails": split(TEXT=7)}}, 7),
        ({"predictions": [{"embeddings": {"statistics": {"token_count": n}}} for n in (3, 4.0)]}, 7),
        ({"embeddings": [{"values": [0.1]}]}, None),
        ({"predictions": [{"bytesBase64Encoded": "…"}, None]}, None),
        ([], None),
    ],
)
def test_embeddings(answer: Any, tokens: int | None) -> None:
    usage = read_embeddings_usage(answer)
    assert (usage and usage.input_tokens) == tokens


def test_images_that_were_embedded_keep_their_price() -> None:
    usage = read_embeddings_usage({"usageMetadata": {"promptTokenCount": 9, "promptTokenDetails": split(IMAGE=9)}})
    assert usage is not None
    assert usage.details == {"input_image_tokens": 9}


def chunk(*parts: dict[str, Any], finish: str | None = None, **usage: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}}
    if finish:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini-2.5-flash"}


def followed(*chunks: Any) -> StreamedContent:
    content = StreamedContent()
    for each in chunks:
        content.feed(each)
    return content


def test_the_last_counts_of_a_stream_win_and_are_not_added_up() -> None:
    content = followed(
        chunk({"text": "Hel"}, promptTokenCount=8, totalTokenCount=8),
        chunk({"text": "lo"}, promptTokenCount=8, candidatesTokenCount=1),
        chunk(finish="STOP", promptTokenCount=7, candidatesTokenCount=2, serviceTier="flex"),
    )
    assert content.complete
    assert content.text == "Hello"
    assert content.model == "gemini-2.5-flash"
    assert content.usage() == Usage(uncached_input_tokens=7, output_tokens=2, details={})
    assert price_context(content.block) == {"service_tier": "flex"}


def test_counts_that_fall_back_around_a_server_side_tool_do_not_fool_a_check() -> None:
    content = followed(
        chunk({"text": "x"}, promptTokenCount=8, candidatesTokenCount=20, thoughtsTokenCount=419),
        chunk({"text": "y"}, promptTokenCount=8),
    )
    usage = content.usage()
    assert not content.complete
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens) == (8, 439)


def test_chunks_without_counts_are_estimated_from_all_that_was_written() -> None:
    content = followed(
        chunk({"text": "thinking" * 2, "thought": True}, trafficType="ON_DEMAND"),
        chunk({"text": "é" * 4}, {"functionCall": {"name": "refund", "args": {"id": "ab"}}}, trafficType="ON_DEMAND"),
    )
    usage = content.usage()
    assert content.text == "é" * 4
    assert usage is not None
    assert usage.output_tokens == (16 + 8 + 8) // 4


def test_a_finish_without_counts_is_completed_by_the_counts_after_it() -> None:
    content = followed(chunk({"text": "four"}, promptTokenCount=3), chunk(finish="STOP"))
    assert not content.complete
    content.feed({"usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 5}})
    assert content.complete
    usage = content.usage()
    assert usage is not None
    assert usage.output_tokens == 5


def test_text_of_all_candidates_without_thoughts() -> None:
    answer = {
        "candidates": [
            {"content": {"parts": [{"text": "a", "thought": True}, {"text": "b"}, None]}},
            {"content": {"parts": [{"text": "c"}, {"inlineData": {"data": "AAAA"}}]}},
            {"finishReason": "SAFETY"},
        ]
    }
    assert generated_text(answer) == ("bc", 3)


COUNTS = st.integers(-3, 2000)
SPLITS = st.lists(
    st.fixed_dictionaries(
        {"modality": st.sampled_from(["TEXT", "AUDIO", "IMAGE", "DOCUMENT", "VIDEO", ""]), "tokenCount": COUNTS}
    ),
    max_size=5,
)
BLOCKS = st.fixed_dictionaries(
    {},
    optional={
        "promptTokenCount": COUNTS,
        "cachedContentTokenCount": COUNTS,
        "candidatesTokenCount": COUNTS,
        "thoughtsTokenCount": COUNTS,
        "toolUsePromptTokenCount": COUNTS,
        "promptTokensDetails": SPLITS,
        "cacheTokensDetails": SPLITS,
        "candidatesTokensDetails": SPLITS,
        "toolUsePromptTokensDetails": SPLITS,
    },
)


@given(BLOCKS)
def test_contradictory_counts_still_have_a_price(block: dict[str, Any]) -> None:
    usage = read_usage(block)
    if usage is None:
        return
    counts = {
        "input_tokens": usage.input_tokens,
        "cache_read_tokens": usage.cache_read_tokens,
        "output_tokens": usage.output_tokens,
        **usage.details,
    }
    for model in ("gemini-2.5-flash", "gemini-3.1-flash-live-preview", "gemini-2.5-flash-image"):
        assert calc_price(PricedUsage(**counts), model, provider_id="google").total_price >= 0


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["candidates", "content", "parts", "text", "usageMetadata", "promptTokenCount", "predictions"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(JUNK)
def test_whatever_a_server_sends_is_read_without_a_complaint(junk: Any) -> None:
    followed(junk).usage()
    read_embeddings_usage(junk)
    generated_text(junk)
    price_context(junk, junk if isinstance(junk, dict) else None)
