"""Reading Anthropic's usage blocks: whole answers, streams, price lists."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actguard.integrations.anthropic_usage import StreamedMessage, price_context, read_usage, usage_of_others
from actguard.money.usage import Usage


def as_object(value: Any) -> Any:
    """The same data with attributes instead of keys, as the SDK hands it out."""
    if isinstance(value, dict):
        return SimpleNamespace(**{key: as_object(item) for key, item in value.items()})
    if isinstance(value, list):
        return [as_object(item) for item in value]
    return value


BLOCK = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 300,
    "cache_read_input_tokens": 2000,
    "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
    "output_tokens": 50,
    "output_tokens_details": {"thinking_tokens": 30},
    "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 5},
    "service_tier": "standard",
}


@pytest.mark.parametrize("shape", [dict, as_object], ids=["json", "sdk object"])
def test_cache_reads_and_writes_are_counted_and_overlap_with_nothing(shape: Any) -> None:
    usage = read_usage(shape(BLOCK))
    assert usage == Usage(
        uncached_input_tokens=10,
        cache_read_tokens=2000,
        cache_write_5m_tokens=100,
        cache_write_1h_tokens=200,
        output_tokens=50,
        reasoning_tokens=30,
        web_searches=2,
    )
    assert usage.input_tokens == 2310


def test_without_a_split_cache_writes_live_for_five_minutes() -> None:
    usage = read_usage({"input_tokens": 1, "output_tokens": 1, "cache_creation_input_tokens": 70})
    assert usage is not None
    assert (usage.cache_write_5m_tokens, usage.cache_write_1h_tokens) == (70, 0)


def test_the_total_of_cache_writes_outranks_their_split() -> None:
    usage = read_usage({**BLOCK, "cache_creation_input_tokens": 150})
    assert usage is not None
    assert (usage.cache_write_5m_tokens, usage.cache_write_1h_tokens) == (0, 150)


def test_the_split_alone_is_enough() -> None:
    usage = read_usage({**BLOCK, "cache_creation_input_tokens": None})
    assert usage is not None
    assert (usage.cache_write_5m_tokens, usage.cache_write_1h_tokens) == (100, 200)


def test_reasoning_that_is_not_reported_is_not_zero() -> None:
    usage = read_usage({"input_tokens": 1, "output_tokens": 2})
    assert usage is not None
    assert usage.reasoning_tokens is None


def test_compaction_comes_on_top_and_other_models_have_a_bill_of_their_own() -> None:
    block = {
        "input_tokens": 220,
        "output_tokens": 8,
        "iterations": [
            {"type": "compaction", "input_tokens": 55196, "output_tokens": 125, "cache_read_input_tokens": 4},
            {"type": "advisor_message", "input_tokens": 7, "output_tokens": 3, "model": "claude-opus-5"},
            {"type": "message", "input_tokens": 9, "output_tokens": 2, "model": "claude-fable-5"},
            {"type": "message", "input_tokens": 220, "output_tokens": 8},
            {"type": "message", "input_tokens": 100, "output_tokens": 4, "model": "claude-sonnet-5"},
            {"type": "fallback_message", "input_tokens": 120, "output_tokens": 4, "model": "claude-sonnet-5"},
        ],
    }
    usage = read_usage(block)
    assert usage is not None
    assert (usage.uncached_input_tokens, usage.cache_read_tokens, usage.output_tokens) == (55416, 4, 133)
    others = [(model, other.input_tokens, other.output_tokens) for model, other in usage_of_others(block)]
    assert others == [("claude-opus-5", 7, 3), ("claude-fable-5", 9, 2)]


@pytest.mark.parametrize("block", [None, {}, {"iterations": "many"}, {"iterations": [None, 1, {"type": "message"}]}])
def test_no_iterations_are_no_other_models(block: Any) -> None:
    assert usage_of_others(block) == []


@pytest.mark.parametrize(
    "block", [None, {}, {"service_tier": "standard"}, SimpleNamespace(), {"input_tokens": "many"}, "usage"]
)
def test_no_counts_is_no_usage(block: Any) -> None:
    assert read_usage(block) is None


@pytest.mark.parametrize(
    ("block", "request_body", "context"),
    [
        ({}, None, {}),
        ({"service_tier": "standard", "speed": "standard"}, None, {}),
        ({"service_tier": "batch"}, None, {"processing": "batch"}),
        ({"service_tier": "priority"}, None, {"service_tier": "priority"}),
        ({"speed": "fast"}, None, {"speed": "fast"}),
        ({}, {"speed": "fast"}, {"speed": "fast"}),
        ({"speed": "standard"}, {"speed": "fast"}, {}),
    ],
)
def test_the_answer_says_which_price_list_applies(
    block: dict[str, str], request_body: dict[str, str] | None, context: dict[str, str]
) -> None:
    assert price_context(block, request_body) == context


def start(**usage: Any) -> dict[str, Any]:
    return {"type": "message_start", "message": {"model": "claude-sonnet-4-5-20250929", "usage": usage}}


def delta(kind: str, **content: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": kind, **content}}


def end(stop_reason: str | None = "end_turn", **usage: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": stop_reason}, "usage": usage}


def followed(*events: Any) -> StreamedMessage:
    message = StreamedMessage()
    for event in events:
        message.feed(event)
    return message


@pytest.mark.parametrize("shape", [dict, as_object], ids=["json", "sdk object"])
def test_later_counts_overlay_the_first_and_silence_does_not(shape: Any) -> None:
    message = followed(
        shape(start(**BLOCK)),
        shape(delta("text_delta", text="Hello")),
        shape(end(input_tokens=12, cache_read_input_tokens=None, output_tokens=80)),
        shape({"type": "message_stop"}),
    )
    assert message.complete
    assert message.model == "claude-sonnet-4-5-20250929"
    assert message.text == "Hello"
    assert message.usage() == Usage(
        uncached_input_tokens=12,
        cache_read_tokens=2000,
        cache_write_5m_tokens=100,
        cache_write_1h_tokens=200,
        output_tokens=80,
        reasoning_tokens=30,
        web_searches=2,
    )


def test_a_stream_given_up_has_exact_input_and_output_estimated_from_all_that_was_written() -> None:
    message = followed(
        start(input_tokens=25, output_tokens=1),
        delta("thinking_delta", thinking="a" * 40),
        delta("text_delta", text="é" * 20),
        delta("input_json_delta", partial_json="b" * 20),
        delta("signature_delta", signature="c" * 400),
    )
    usage = message.usage()
    assert not message.complete
    assert message.text == "é" * 20
    assert usage is not None
    assert (usage.uncached_input_tokens, usage.output_tokens) == (25, 25)


def test_the_text_completions_of_old_are_estimated() -> None:
    message = followed({"type": "completion", "completion": " Hello"}, {"type": "completion", "completion": " there"})
    assert message.text == " Hello there"
    assert message.usage() == Usage(output_tokens=3)
    assert (message.counted, message.output_tokens, message.complete) == (False, 3, False)


def test_an_estimate_never_goes_below_what_was_reported() -> None:
    usage = followed(start(input_tokens=25, output_tokens=6), delta("text_delta", text="hi")).usage()
    assert usage is not None
    assert usage.output_tokens == 6


def test_a_count_before_the_last_one_is_no_end() -> None:
    message = followed(start(input_tokens=25, output_tokens=1), end(None, output_tokens=4))
    assert not message.complete
    message.feed(end("max_tokens", output_tokens=9))
    assert message.complete


def test_before_the_first_event_nothing_is_known() -> None:
    message = followed({"type": "ping"}, {}, object())
    assert message.usage() is None
    assert not message.complete


FIELDS = [*BLOCK, "ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens", "type", "iterations"]
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**9) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5),
    max_leaves=12,
)


@given(JUNK)
def test_whatever_a_server_sends_is_read_without_a_complaint(junk: Any) -> None:
    for usage in (read_usage(junk), followed(start(**junk) if isinstance(junk, dict) else junk).usage()):
        assert usage is None or min(usage.input_tokens, usage.output_tokens) >= 0
    price_context(junk)
