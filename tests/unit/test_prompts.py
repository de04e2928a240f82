"""What a prompt may count as before it is sent, by the parts that Anthropic and Google mark as media."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from actguard.integrations import anthropic_request, google_interactions_usage, google_request
from actguard.integrations.estimate import IMAGE_TOKENS
from actguard.integrations.prompts import FILE_TOKENS, base64_tokens, estimated_input

PICTURE = base64.b64encode(bytes(400_000)).decode()


def nothing(_part: object) -> int | None:
    return None


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        ([], 0),
        (["abcd"], 1),
        (["abcde"], 2),
        (["éé"], 1),
        ([{"role": "user", "content": [{"type": "text", "text": "abcd"}]}], 1),
        ([{"a": ["ab", ("cd",), 5, None, True]}], 1),
        ([(text for text in ("never", "consumed"))], 0),
    ],
)
def test_text_counts_by_its_bytes(prompt: list[Any], tokens: int) -> None:
    assert estimated_input(prompt, nothing).input_tokens == tokens


@pytest.mark.parametrize(
    ("data", "mime_type", "tokens"),
    [
        (PICTURE, "image/png", IMAGE_TOKENS),
        (PICTURE, "audio/mpeg", 800),
        (PICTURE, "video/mp4", 470),
        (PICTURE, "application/pdf", 8_000),
        (PICTURE, "text/plain", 100_000),
        (bytes(400), "text/plain", 100),
        (PICTURE, None, 100_000),
        (None, "application/pdf", 1),
    ],
)
def test_media_counts_by_its_kind(data: object, mime_type: str | None, tokens: int) -> None:
    assert base64_tokens(data, mime_type) == pytest.approx(tokens, rel=0.01)


def anthropic_tokens(*content: dict[str, Any]) -> int:
    messages = [{"role": "user", "content": list(content)}]
    return estimated_input([messages], anthropic_request._media_tokens).input_tokens


def test_anthropic_marks_media_by_its_source() -> None:
    encoded = {"type": "base64", "media_type": "image/png", "data": PICTURE}
    assert anthropic_tokens({"type": "image", "source": encoded}) == IMAGE_TOKENS
    assert anthropic_tokens({"type": "image", "source": {"type": "url", "url": "https://…"}}) == IMAGE_TOKENS
    pdf = {"type": "base64", "media_type": "application/pdf", "data": PICTURE}
    assert anthropic_tokens({"type": "document", "source": pdf}) == pytest.approx(8_000, rel=0.01)
    assert anthropic_tokens({"type": "document", "source": {"type": "file", "file_id": "f"}}) == FILE_TOKENS
    text = {"type": "text", "media_type": "text/plain", "data": "abcd" * 100}
    assert 100 <= anthropic_tokens({"type": "document", "source": text}) <= 110
    assert anthropic_tokens({"type": "thinking", "thinking": "abcd", "signature": "s" * 4000}) == 1


def google_tokens(*parts: dict[str, Any]) -> int:
    return google_request.estimate({"contents": [{"role": "user", "parts": list(parts)}]}).input_tokens


def test_google_marks_media_as_blobs_and_files() -> None:
    assert google_tokens({"inlineData": {"mimeType": "image/png", "data": PICTURE}}) == IMAGE_TOKENS
    assert google_tokens({"inline_data": {"mime_type": "audio/mpeg", "data": PICTURE}}) == 800
    assert google_tokens({"fileData": {"fileUri": "https://…", "mimeType": "video/mp4"}}) == FILE_TOKENS
    assert google_tokens({"text": "abcd"}, {"functionCall": {"name": "abcd", "args": {"x": "abcd"}}}) == 3


def test_google_prompts_of_every_method() -> None:
    assert google_request.estimate({"systemInstruction": {"parts": [{"text": "abcd"}]}}).input_tokens == 1
    texts = [{"model": "models/m", "content": {"parts": [{"text": "abcd"}]}} for _ in range(3)]
    assert google_request.estimate({"requests": texts}).input_tokens == 3
    assert google_request.estimate({"instances": [{"content": "abcd"}]}).input_tokens == 1
    assert google_request.estimate({"instances": [{"bytesBase64Encoded": PICTURE}]}).input_tokens == IMAGE_TOKENS


def test_interactions_mark_media_by_their_type() -> None:
    def tokens(*parts: dict[str, Any]) -> int:
        return google_interactions_usage.estimate_of(
            {"input": list(parts), "previous_interaction_id": "x"}
        ).input_tokens

    assert tokens({"type": "text", "text": "abcd"}) == 1
    assert tokens({"type": "image", "data": PICTURE, "mime_type": "image/png"}) == IMAGE_TOKENS
    assert tokens({"type": "audio", "data": PICTURE, "mime_type": "audio/mpeg"}) == 800
    assert tokens({"type": "document", "uri": "https://…"}) == FILE_TOKENS


@pytest.mark.parametrize(
    ("path", "call"),
    [
        ("models/gemini-2.5-pro:generateContent", ("gemini-2.5-pro", "generateContent")),
        ("models/gemini-2.5-pro:streamGenerateContent?alt=sse", ("gemini-2.5-pro", "streamGenerateContent")),
        ("/models/gemini-2.5-pro:generateContent?%24fields=usageMetadata", ("gemini-2.5-pro", "generateContent")),
        (
            "projects/p/locations/l/publishers/google/models/gemini-2.5-pro:generateContent",
            ("projects/p/locations/l/publishers/google/models/gemini-2.5-pro", "generateContent"),
        ),
        ("tunedModels/mine:generateContent", ("tunedModels/mine", "generateContent")),
        ("models/gemini-embedding-001:batchEmbedContents", ("gemini-embedding-001", "batchEmbedContents")),
        ("publishers/google/models/imagen-4:predict", ("publishers/google/models/imagen-4", "predict")),
        ("models/gemini-2.5-pro:countTokens", None),
        ("models/gemini-2.5-pro:batchGenerateContent", None),
        ("models/gemini-embedding-001:asyncBatchEmbedContent", None),
        ("models/gemini-2.5-pro", None),
        ("cachedContents", None),
        ("batches/b:cancel", None),
        ("files:register", None),
        (None, None),
    ],
)
def test_which_of_googles_paths_are_billed(path: Any, call: tuple[str, str] | None) -> None:
    assert google_request.billed_call(path) == call


@pytest.mark.parametrize(
    ("bodies", "limit", "candidates"),
    [
        (({},), None, 1),
        (({"generationConfig": {"maxOutputTokens": 100}},), 100, 1),
        (({"generationConfig": {"maxOutputTokens": 100, "candidateCount": 3}},), 100, 3),
        (({"generation_config": {"max_output_tokens": 7}}, {"generationConfig": {"maxOutputTokens": 100}}), 7, 1),
        (({"generationConfig": {"maxOutputTokens": "100"}},), None, 1),
    ],
)
def test_googles_output_limit_is_for_each_candidate(bodies: Any, limit: int | None, candidates: int) -> None:
    assert google_request.output_limit(*bodies) == limit
    assert google_request.candidates(*bodies) == candidates
