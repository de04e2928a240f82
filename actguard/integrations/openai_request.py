"""Reading OpenAI's requests: which are billable, and what they say about their cost."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from actguard.integrations.estimate import IMAGE_TOKENS, input_tokens, text_tokens
from actguard.money.usage import Usage

_BILLED = {
    "chat/completions": "chat.completions",
    "completions": "completions",
    "responses": "responses",
    "responses/compact": "responses.compact",
    "embeddings": "embeddings",
    "images/generations": "images",
    "images/edits": "images",
    "images/variations": "images",
    "audio/speech": "audio.speech",
    "audio/transcriptions": "audio.transcriptions",
    "audio/translations": "audio.translations",
    "threads/runs": "threads.runs",
    "decisions": "decisions",
}
_BILLED_BELOW = re.compile(
    rf"(?:^|/)(?:(?P<fixed>{'|'.join(sorted(_BILLED, key=len, reverse=True))})"
    r"|(?P<run>threads/[^/]+/runs(?:/[^/]+/submit_tool_outputs)?))$"
)
_FETCHED = re.compile(r"(?:^|/)(?:(?P<responses>responses)/[^/]+|threads/[^/]+/(?P<runs>runs)/[^/]+)$")
_CHANGED = re.compile(
    r"(?:^|/)(?:(?P<responses>responses)/[^/]+/cancel|threads/[^/]+/(?P<runs>runs)/[^/]+(?:/cancel)?)$"
)
_FREE = re.compile(r"(?:^|/)(?:moderations|responses/input_tokens|chat/completions/[^/]+)$")
_FETCHED_APIS = {"responses": "responses", "runs": "threads.runs"}

_DEFAULT_MODELS = {"images": "dall-e-2"}

COMPLETIONS_LIMIT = 16
"""Output tokens of a legacy completion that names no limit."""
BYTES_PER_AUDIO_SECOND = 16_000
"""Compressed speech; an uncompressed recording is estimated too long, not too short."""
TOKENS_PER_AUDIO_SECOND = 10
SPOKEN_TOKENS_PER_CHARACTER = 1.4
"""About 15 characters are spoken in a second, which is about 21 tokens of audio."""


def billed_api(path: str) -> str | None:
    """The API of a POST that is billed when it is answered; None for any other path."""
    if (api := _BILLED.get(path)) is not None:
        return api
    found = _BILLED_BELOW.search(path)
    if found is None:
        return None
    return _BILLED[found["fixed"]] if found["fixed"] else "threads.runs"


def fetched_api(method: str, path: str) -> str | None:
    """The API of a request whose answer may be one that was generated in the background, with its usage."""
    found = (_FETCHED if method == "get" else _CHANGED).search(path)
    return None if found is None or found.lastgroup is None else _FETCHED_APIS[found.lastgroup]


def is_free(method: str, path: str) -> bool:
    """True for requests that never cost anything; what else nobody knows is looked at when it is answered."""
    return method != "post" or _FREE.search(path) is not None


def model_of(api: str, body: Mapping[str, Any]) -> str:
    """The model that the request names, or that the API takes when it names none."""
    model = body.get("model")
    return model if isinstance(model, str) and model else _DEFAULT_MODELS.get(api, "unknown")


def asked_effort(body: Mapping[str, Any]) -> Any:
    """How hard the model is asked to think, by chat completions or by responses."""
    reasoning = body.get("reasoning")
    return body.get("reasoning_effort") or (reasoning.get("effort") if isinstance(reasoning, Mapping) else None)


def output_limit(api: str, body: Mapping[str, Any]) -> int | None:
    """The most output tokens that one answer may have; None when the request names no limit."""
    match api:
        case "chat.completions" | "threads.runs":
            return _number(body, "max_completion_tokens", "max_tokens")
        case "completions":
            return _number(body, "max_tokens") or COMPLETIONS_LIMIT
        case "responses":
            return _number(body, "max_output_tokens")
        case "embeddings":
            return 0
        case _:
            return None


def outputs(api: str, body: Mapping[str, Any]) -> int:
    """How many answers a request asks for."""
    asked = _number(body, "n") or 1
    match api:
        case "chat.completions":
            return asked
        case "completions":
            return max(asked, _number(body, "best_of") or 1) * _prompts(body.get("prompt"))
        case _:
            return 1


def input_estimate(api: str, options: Any, body: Mapping[str, Any]) -> Usage:
    """The input of a request, estimated from its size."""
    match api:
        case "audio.speech":
            characters = len(body.get("input") or "")
            tokens = 0 if _is_billed_by_character(body) else text_tokens(characters)
            return Usage(uncached_input_tokens=tokens, details={"input_characters": characters})
        case "audio.transcriptions" | "audio.translations":
            seconds = max(_file_bytes(options) // BYTES_PER_AUDIO_SECOND, 1)
            tokens = seconds * TOKENS_PER_AUDIO_SECOND
            details = {"audio_seconds": seconds, "input_audio_tokens": tokens}
            return Usage(uncached_input_tokens=tokens + input_tokens(body.get("prompt")), details=details)
        case "images":
            pictures = len(options.files or ()) * IMAGE_TOKENS
            return Usage(uncached_input_tokens=input_tokens(body.get("prompt")) + pictures)
        case _:
            return Usage(uncached_input_tokens=input_tokens(body))


def spoken(body: Mapping[str, Any]) -> tuple[Usage, bool]:
    """What a speech request costs, and whether that is an estimate: some models are billed by input character."""
    characters = len(body.get("input") or "")
    if _is_billed_by_character(body):
        return Usage(details={"input_characters": characters}), False
    output = int(characters * SPOKEN_TOKENS_PER_CHARACTER)
    return Usage(uncached_input_tokens=text_tokens(characters), output_tokens=output), True


def output_estimate(api: str, answer: Any) -> int:
    """The output tokens of an answer that does not report them, estimated from its text."""
    if isinstance(answer, str):
        return text_tokens(len(answer))
    if hasattr(answer, "model_dump"):
        answer = answer.model_dump()
    if not isinstance(answer, Mapping) or api not in (
        "chat.completions",
        "completions",
        "responses",
        "audio.transcriptions",
    ):
        return 0
    return input_tokens([answer.get(name) for name in ("choices", "output", "text")])


def _is_billed_by_character(body: Mapping[str, Any]) -> bool:
    return str(body.get("model", "")).startswith("tts-")


def _number(body: Mapping[str, Any], *names: str) -> int | None:
    """The first of these settings that is a positive number."""
    for name in names:
        value = body.get(name)
        if type(value) is int and value >= 1:  # nearly every number
            return value
        if isinstance(value, int | float) and not isinstance(value, bool) and value >= 1:
            return int(value)
    return None


def _prompts(prompt: Any) -> int:
    """How many prompts a legacy completion has: each is completed."""
    return len(prompt) if isinstance(prompt, list | tuple) and prompt and not isinstance(prompt[0], int) else 1


def _file_bytes(options: Any) -> int:
    """The size of the files that are uploaded, as far as it can be known without reading them."""
    files = options.files or ()
    entries: Iterable[Any] = files.values() if isinstance(files, Mapping) else [entry[1] for entry in files]
    return sum(_size(entry[1] if isinstance(entry, tuple) and len(entry) > 1 else entry) for entry in entries)


def _size(content: Any) -> int:
    if isinstance(content, bytes | bytearray):
        return len(content)
    try:
        here: int = content.tell()
        end: int = content.seek(0, 2)
        content.seek(here)
    except (AttributeError, OSError, ValueError):
        return 0
    return end - here
