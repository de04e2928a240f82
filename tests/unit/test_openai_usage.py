"""Reading OpenAI's usage blocks, streams and requests: pure functions, over models and parsed JSON alike."""

from __future__ import annotations

from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import Response

from actguard.integrations.openai_request import (
    billed_api,
    fetched_api,
    input_estimate,
    is_free,
    output_estimate,
    output_limit,
    outputs,
    spoken,
)
from actguard.integrations.openai_streams import ChatReader, MediaReader, ResponsesReader, RunReader
from actguard.integrations.openai_usage import bill_of, usage_of, web_searches_of
from actguard.integrations.settlement import Bill
from actguard.integrations.written import KEPT_PIECES
from actguard.money.usage import Usage

CHAT_USAGE: dict[str, Any] = {
    "prompt_tokens": 1000,
    "completion_tokens": 300,
    "total_tokens": 1300,
    "prompt_tokens_details": {"cached_tokens": 600, "cache_write_tokens": 100, "audio_tokens": 50},
    "completion_tokens_details": {"reasoning_tokens": 200, "audio_tokens": 20, "rejected_prediction_tokens": 30},
}
RESPONSES_USAGE: dict[str, Any] = {
    "input_tokens": 1000,
    "output_tokens": 300,
    "total_tokens": 1300,
    "input_tokens_details": {"cached_tokens": 600, "cache_write_tokens": 100},
    "output_tokens_details": {"reasoning_tokens": 200},
}
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
odd_blocks = st.fixed_dictionaries(
    {},
    optional={
        name: anything
        | st.fixed_dictionaries(
            {}, optional=dict.fromkeys(("cached_tokens", "audio_tokens", "reasoning_tokens"), anything)
        )
        for name in (*CHAT_USAGE, *RESPONSES_USAGE, "type", "seconds")
    },
)


# --- usage blocks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [CHAT_USAGE, RESPONSES_USAGE], ids=["chat", "responses"])
def test_cached_and_written_tokens_are_parts_of_the_input(block: dict[str, Any]) -> None:
    usage = usage_of(block)
    assert usage is not None
    assert usage.uncached_input_tokens == 300
    assert (usage.input_tokens, usage.cached_input_tokens, usage.cache_write_tokens) == (1000, 600, 100)
    assert (usage.output_tokens, usage.reasoning_tokens) == (300, 200)


def test_audio_is_a_part_of_input_and_output() -> None:
    usage = usage_of(CHAT_USAGE)
    assert usage is not None
    assert dict(usage.details) == {"input_audio_tokens": 50, "output_audio_tokens": 20}


def test_models_are_read_like_json() -> None:
    assert usage_of(CompletionUsage.model_validate(CHAT_USAGE)) == usage_of(CHAT_USAGE)


def test_reasoning_that_is_not_reported_is_not_zero() -> None:
    usage = usage_of({"prompt_tokens": 1, "completion_tokens": 2})
    assert usage is not None
    assert usage.reasoning_tokens is None


def test_output_that_only_the_total_shows_is_counted() -> None:
    usage = usage_of({"prompt_tokens": 35, "completion_tokens": 12, "total_tokens": 109})
    assert usage == Usage(uncached_input_tokens=35, output_tokens=74)


def test_parts_that_exceed_their_whole_are_cut_down() -> None:
    usage = usage_of({"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 99}})
    assert usage == Usage(cache_read_tokens=10, output_tokens=5)


@pytest.mark.parametrize("block", [None, {}, "many", 7, {"prompt_tokens": "7"}, {"input_tokens": -1}, {"a": 1}, []])
def test_a_block_that_says_nothing_is_no_usage(block: Any) -> None:
    assert usage_of(block) is None


@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            ("object", "id", "status", "model", "service_tier", "output", "tool_usage", "svg_usage"), anything
        ),
    )
)
def test_odd_answers_never_raise(answer: dict[str, Any]) -> None:
    bill = bill_of({**answer, "usage": CHAT_USAGE})
    assert bill is None or bill.usage.total_tokens >= 1300


@given(odd_blocks)
def test_odd_blocks_never_raise_and_never_contradict_themselves(block: dict[str, Any]) -> None:
    usage = usage_of(block)
    if usage is None:
        return
    assert usage.uncached_input_tokens >= 0
    assert usage.cache_read_tokens + usage.cache_write_tokens <= usage.input_tokens
    assert (usage.reasoning_tokens or 0) <= usage.output_tokens
    assert all(tokens >= 0 for tokens in usage.details.values())


def test_a_transcription_by_duration_is_charged_by_the_second() -> None:
    assert usage_of({"type": "duration", "seconds": 12}) == Usage(details={"audio_seconds": 12})


def test_image_tokens_are_told_apart() -> None:
    usage = usage_of(
        {
            "input_tokens": 60,
            "output_tokens": 1000,
            "input_tokens_details": {"text_tokens": 10, "image_tokens": 50},
            "output_tokens_details": {"text_tokens": 0, "image_tokens": 1000},
        }
    )
    assert usage is not None
    assert dict(usage.details) == {"input_image_tokens": 50, "output_image_tokens": 1000}


# --- whole answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", ["flex", "priority"])
def test_a_service_tier_with_its_own_prices_is_in_the_context(tier: str) -> None:
    bill = bill_of({"usage": CHAT_USAGE, "service_tier": tier, "model": "gpt-5"})
    assert bill is not None
    assert bill.context == {"service_tier": tier}
    assert bill.model == "gpt-5"


@pytest.mark.parametrize("tier", ["default", "auto", "scale", None, 3])
def test_other_service_tiers_are_not(tier: Any) -> None:
    bill = bill_of({"usage": CHAT_USAGE, "service_tier": tier})
    assert bill is not None
    assert bill.context is None


def test_only_answers_that_can_be_fetched_again_have_an_id() -> None:
    response = bill_of({"object": "response", "id": "resp_1", "usage": RESPONSES_USAGE})
    completion = bill_of({"object": "chat.completion", "id": "chatcmpl-1", "usage": CHAT_USAGE})
    assert response is not None
    assert completion is not None
    assert (response.id, completion.id) == ("resp_1", None)


@pytest.mark.parametrize("status", ["queued", "in_progress", "requires_action", "validating"])
def test_an_unfinished_answer_has_no_bill(status: str) -> None:
    assert bill_of({"object": "thread.run", "status": status, "usage": CHAT_USAGE}) is None


def test_a_batch_is_charged_at_batch_prices() -> None:
    bill = bill_of({"object": "batch", "id": "batch_1", "status": "completed", "usage": RESPONSES_USAGE})
    assert bill is not None
    assert bill.context == {"processing": "batch"}
    assert bill.id == "batch_1"


def test_what_tools_used_is_added() -> None:
    image = {"input_tokens": 10, "output_tokens": 500, "total_tokens": 510}
    tools = {"image_gen": image, "web_search": {"num_requests": 2}}
    bill = bill_of({"object": "response", "usage": RESPONSES_USAGE, "tool_usage": tools})
    assert bill is not None
    assert (bill.usage.input_tokens, bill.usage.output_tokens, bill.usage.web_searches) == (1010, 800, 2)


def test_searches_are_counted_where_the_answer_does_not_say() -> None:
    call = {"type": "web_search_call", "status": "completed"}
    output = [
        {**call, "action": {"type": "search"}},
        {**call, "action": {"type": "open_page"}},
        {**call, "status": "failed", "action": {"type": "search"}},
        {"type": "message"},
        call,
    ]
    assert web_searches_of({"output": output}) == 2
    assert web_searches_of({"output": "text"}) == web_searches_of(None) == 0


def test_a_model_of_the_sdk_is_billed_like_json() -> None:
    answer: dict[str, Any] = {
        "object": "response",
        "id": "resp_1",
        "model": "gpt-5",
        "output": [],
        "usage": RESPONSES_USAGE,
    }
    assert bill_of(Response.construct(**answer)) == bill_of(answer)


# --- streams ----------------------------------------------------------------------------------------------------------


def chunk(content: str | None = None, **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "choices": [{"index": 0, "delta": {"content": content}}], "usage": None, **more}


LAST_CHUNK: dict[str, Any] = {"model": "gpt-4o", "choices": [], "usage": CHAT_USAGE}
ESTIMATE = Usage(uncached_input_tokens=7)


@pytest.mark.parametrize("typed", [False, True], ids=["json", "models"])
def test_a_chat_stream_ends_with_its_usage(typed: bool) -> None:
    reader = ChatReader(ESTIMATE)
    for each in (chunk("Hello "), chunk("there"), LAST_CHUNK):
        assert reader.feed(ChatCompletionChunk.construct(**each) if typed else each)
    assert reader.text == "Hello there"
    assert reader.bill(complete=True) == Bill(usage_of(CHAT_USAGE) or Usage(), model="gpt-4o")


def test_the_chunk_that_we_asked_for_is_kept_from_the_caller() -> None:
    reader = ChatReader(ESTIMATE, injected=True)
    assert reader.feed({"choices": [], "prompt_filter_results": []})  # Azure's first
    assert reader.feed(chunk("Hello", usage=CHAT_USAGE))  # servers that put usage on the last piece
    assert not reader.feed(LAST_CHUNK)


def test_a_chat_stream_without_usage_is_estimated() -> None:
    reader = ChatReader(ESTIMATE)
    reader.feed(chunk("x" * 400))
    assert reader.bill(complete=True) == Bill(ESTIMATE + Usage(output_tokens=100), model="gpt-4o", estimated=True)


def test_usage_in_every_chunk_is_an_estimate_until_the_end() -> None:
    reader = ChatReader(ESTIMATE)
    reader.feed(chunk("Hello", usage={"prompt_tokens": 10, "completion_tokens": 1}))
    left_early, at_the_end = reader.bill(complete=False), reader.bill(complete=True)
    assert isinstance(left_early, Bill)
    assert isinstance(at_the_end, Bill)
    assert (left_early.estimated, at_the_end.estimated) == (True, False)
    assert left_early.usage == at_the_end.usage == Usage(uncached_input_tokens=10, output_tokens=1)


@pytest.mark.parametrize(
    "delta",
    [
        {"tool_calls": [{"function": {"name": "f", "arguments": "x" * 399}}]},
        {"reasoning_content": "x" * 400},
        {"refusal": "x" * 400},
        {"function_call": {"name": "f", "arguments": "x" * 399}},
        {"audio": {"id": "a", "data": "y" * 9_000, "transcript": "x" * 400}},
    ],
    ids=lambda delta: next(iter(delta)),
)
def test_everything_generated_counts_as_output(delta: dict[str, Any]) -> None:
    reader = ChatReader(ESTIMATE)
    reader.feed({"choices": [{"index": 0, "delta": {"role": "assistant", **delta}}]})
    assert reader.output_estimate == 100
    assert reader.output_seen >= 100
    assert reader.text == ""


def test_all_choices_count_and_the_first_is_the_text() -> None:
    reader = ChatReader(ESTIMATE)
    for index in (0, 1):
        reader.feed({"choices": [{"index": index, "delta": {"content": "x" * 40}}]})
    assert reader.output_seen == 20
    assert reader.text == "x" * 40


def test_each_piece_is_at_least_a_token() -> None:
    reader = ChatReader(ESTIMATE)
    for _ in range(5):
        reader.feed(chunk("."))
    assert reader.output_seen == 5


PIECES: list[dict[str, Any]] = [
    chunk("Hello"),
    chunk(" there, everybody who is in the house"),
    chunk(""),
    chunk("日本語の文章"),
    {"choices": [], "model": "gpt-4o"},
    {"choices": [{"index": 1, "delta": {"content": "Other"}}]},
    {"choices": [{"index": 0, "delta": {"content": "A"}}, {"index": 1, "delta": {"content": "B"}}]},
    {"choices": [{"index": 0, "delta": {"content": None, "reasoning_content": "Let me think about it."}}]},
    {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": '{"place":'}}]}}]},
    chunk("so far", usage={"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}),
    LAST_CHUNK,
]


@given(st.lists(st.sampled_from(PIECES), max_size=12))
def test_models_of_the_sdk_are_read_like_their_json(chunks: list[dict[str, Any]]) -> None:
    """Most chunks are models with a piece of text and nothing else: those are read in a shorter way."""
    plain, typed = ChatReader(ESTIMATE, injected=True), ChatReader(ESTIMATE, injected=True)
    for one in chunks:
        model = ChatCompletionChunk.construct(**deepcopy(one))
        assert typed.feed(model) == plain.feed(one)
        assert typed.output_seen == plain.output_seen
    assert typed.text == plain.text
    assert typed.at_least() == plain.at_least()
    for complete in (False, True):
        assert typed.bill(complete) == plain.bill(complete)


def test_what_is_not_shown_is_not_kept() -> None:
    reader = ChatReader(ESTIMATE)
    for _ in range(5 * KEPT_PIECES):
        reader.feed({"choices": [{"index": 0, "delta": {"reasoning_content": "word "}}]})
    assert len(reader._hidden) < KEPT_PIECES
    assert reader.output_estimate == 5 * KEPT_PIECES * len("word ") // 4


def test_a_legacy_completion_is_read_along() -> None:
    reader = ChatReader(ESTIMATE)
    reader.feed({"choices": [{"index": 0, "text": "x" * 40}]})
    assert (reader.text, reader.output_seen) == ("x" * 40, 10)


@pytest.mark.parametrize("last", ["completed", "incomplete", "failed"])
def test_a_response_is_billed_from_its_last_event(last: str) -> None:
    reader = ResponsesReader(ESTIMATE)
    response = {"object": "response", "id": "resp_1", "model": "gpt-5", "status": "in_progress"}
    reader.feed({"type": "response.created", "response": response})
    reader.feed({"type": "response.output_text.delta", "delta": "x" * 40})
    assert reader.bill(complete=False) == Bill(
        ESTIMATE + Usage(output_tokens=10), model="gpt-5", estimated=True, id="resp_1"
    )
    reader.feed({"type": f"response.{last}", "response": {**response, "status": last, "usage": RESPONSES_USAGE}})
    bill = reader.bill(complete=True)
    assert isinstance(bill, Bill)
    assert not bill.estimated
    assert bill.usage.total_tokens == 1300


def test_a_responses_stream_counts_reasoning_and_arguments_but_not_sound() -> None:
    reader = ResponsesReader(ESTIMATE)
    for kind in ("response.reasoning_summary_text.delta", "response.function_call_arguments.delta"):
        reader.feed({"type": kind, "delta": "x" * 40})
    reader.feed({"type": "response.audio.delta", "delta": "y" * 9_000})
    assert (reader.output_seen, reader.text) == (20, "")


@pytest.mark.parametrize("last", ["image_generation.completed", "transcript.text.done", "speech.audio.done"])
def test_media_streams_are_billed_from_their_last_event(last: str) -> None:
    reader = MediaReader(ESTIMATE)
    reader.feed({"type": "transcript.text.delta", "delta": "Hello"})
    reader.feed({"type": last, "usage": {"input_tokens": 14, "output_tokens": 101, "total_tokens": 115}})
    bill = reader.bill(complete=True)
    assert isinstance(bill, Bill)
    assert bill.usage == Usage(uncached_input_tokens=14, output_tokens=101)
    assert reader.text == "Hello"


def test_a_run_is_billed_when_it_ends_in_whatever_stream() -> None:
    reader = RunReader(ESTIMATE)
    run = {"object": "thread.run", "id": "run_1", "model": "gpt-4o", "status": "requires_action"}
    reader.feed({"event": "thread.run.requires_action", "data": run})
    waiting = reader.bill(complete=True)
    assert isinstance(waiting, Bill)
    assert (waiting.estimated, waiting.id) == (True, "run_1")

    reader.feed(SimpleNamespace(event="thread.run.completed", data={**run, "status": "completed", "usage": CHAT_USAGE}))
    ended = reader.bill(complete=True)
    assert isinstance(ended, Bill)
    assert (ended.estimated, ended.id, ended.usage.total_tokens) == (False, "run_1", 1300)


# --- requests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "api"),
    [
        ("chat/completions", "chat.completions"),
        ("v1/chat/completions", "chat.completions"),
        ("openai/deployments/my-gpt/chat/completions", "chat.completions"),
        ("completions", "completions"),
        ("responses", "responses"),
        ("responses/compact", "responses.compact"),
        ("embeddings", "embeddings"),
        ("images/edits", "images"),
        ("audio/speech", "audio.speech"),
        ("threads/runs", "threads.runs"),
        ("threads/thread_1/runs", "threads.runs"),
        ("threads/thread_1/runs/run_1/submit_tool_outputs", "threads.runs"),
    ],
)
def test_what_generates_is_billed(path: str, api: str) -> None:
    assert billed_api(path) == api


@pytest.mark.parametrize(
    "path",
    ["moderations", "files", "batches", "threads", "chat/completions/chatcmpl-1", "responses/resp_1/cancel", "x"],
)
def test_what_does_not_generate_is_not_billed(path: str) -> None:
    assert billed_api(path) is None


@pytest.mark.parametrize(
    ("method", "path", "api"),
    [
        ("get", "responses/resp_1", "responses"),
        ("post", "responses/resp_1/cancel", "responses"),
        ("get", "threads/thread_1/runs/run_1", "threads.runs"),
        ("post", "threads/thread_1/runs/run_1/cancel", "threads.runs"),
        ("get", "responses/resp_1/input_items", None),
        ("get", "threads/thread_1/runs/run_1/steps", None),
        ("get", "models", None),
    ],
)
def test_background_answers_are_known_by_their_path(method: str, path: str, api: str | None) -> None:
    assert fetched_api(method, path) == api


@pytest.mark.parametrize(
    ("method", "path"),
    [("get", "models"), ("delete", "responses/resp_1"), ("post", "moderations"), ("post", "responses/input_tokens")],
)
def test_free_requests_are_known(method: str, path: str) -> None:
    assert is_free(method, path)


def test_an_unknown_post_is_not_taken_to_be_free() -> None:
    assert not is_free("post", "videos")


@pytest.mark.parametrize(
    ("api", "body", "limit"),
    [
        ("chat.completions", {}, None),
        ("chat.completions", {"max_tokens": 100}, 100),
        ("chat.completions", {"max_tokens": 100, "max_completion_tokens": 50, "n": 3}, 50),
        ("chat.completions", {"max_tokens": None, "n": "many"}, None),
        ("chat.completions", {"max_tokens": True}, None),
        ("completions", {}, 16),
        ("completions", {"max_tokens": 10}, 10),
        ("responses", {"max_output_tokens": 40}, 40),
        ("threads.runs", {"max_completion_tokens": 40}, 40),
        ("embeddings", {}, 0),
        ("images", {"n": 2}, None),
    ],
)
def test_the_output_limit_of_a_request(api: str, body: dict[str, Any], limit: int | None) -> None:
    assert output_limit(api, body) == limit


@pytest.mark.parametrize(
    ("api", "body", "number"),
    [
        ("chat.completions", {}, 1),
        ("chat.completions", {"n": 3}, 3),
        ("chat.completions", {"n": "many"}, 1),
        ("completions", {"n": 2, "best_of": 5, "prompt": ["a", "b"]}, 10),
        ("completions", {"prompt": [1, 2, 3]}, 1),
        ("completions", {"prompt": [[1, 2, 3], [4]]}, 2),
        ("responses", {"n": 3}, 1),
    ],
)
def test_the_number_of_answers_of_a_request(api: str, body: dict[str, Any], number: int) -> None:
    assert outputs(api, body) == number


def test_token_ids_are_tokens() -> None:
    options = SimpleNamespace(files=None)
    one = input_estimate("embeddings", options, {"input": list(range(500))})
    many = input_estimate("embeddings", options, {"input": [list(range(500))] * 2})
    assert 500 <= one.input_tokens < 510
    assert 1000 <= many.input_tokens < 1010


def test_the_length_of_a_recording_is_estimated_from_its_size() -> None:
    options = SimpleNamespace(files=[("file", ("a.mp3", b"\0" * 160_000, "audio/mpeg"))])
    usage = input_estimate("audio.transcriptions", options, {"model": "whisper-1"})
    assert usage.details["audio_seconds"] == 10


def test_speech_is_billed_by_character_or_estimated() -> None:
    assert spoken({"model": "tts-1", "input": "Hello"}) == (Usage(details={"input_characters": 5}), False)
    usage, estimated = spoken({"model": "gpt-4o-mini-tts", "input": "Hello there"})
    assert estimated
    assert usage.output_tokens > 0


def test_the_output_of_an_answer_without_usage_is_estimated_from_its_text() -> None:
    answer = {"id": "x" * 4_000, "choices": [{"message": {"content": "x" * 400}}]}
    assert 100 <= output_estimate("chat.completions", answer) <= 115
    assert output_estimate("audio.transcriptions", "x" * 400) == 100
    assert output_estimate("embeddings", {"data": [0.1] * 100}) == 0
