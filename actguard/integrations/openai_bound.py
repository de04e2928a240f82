"""What a request to OpenAI can cost at the most, before it is sent, and how to lower that.

The figures for pictures are the largest that the rules published for a model family allow, whatever the picture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import NoneType
from typing import Any, cast

from actguard.guards.bounding import Bound
from actguard.integrations.bounds import TOOLS_TOKENS, Unbounded, most_input, most_of_audio, refuse_present

_IMAGE_TOKENS = tuple(
    (re.compile(pattern), tokens)
    for pattern, tokens in (
        (r"gpt-4o-mini", 48_169),  # eight tiles of 5,667 and 2,833
        (r"gpt-4|chatgpt-4|(^|/)o\d|computer-use|gpt-5(?!\.[2-9])", 4_000),  # 1,536 patches, times 2.46 at the most
    )
)
_LARGEST_IMAGE_TOKENS = 12_000
"""10,000 patches, which the newest models take in full detail, times 1.2."""
_DRAWN_IMAGE_TOKENS = 6_240
"""A picture drawn by gpt-image-1 at its highest quality and in its largest size; every one of its kin has less."""
_PARTIAL_IMAGE_TOKENS = 100
_DRAWING_MODELS = re.compile(r"gpt-image-1")
AUDIO_TOKENS_PER_SECOND = 10

_OWN_TOOLS = frozenset(
    {"function", "custom", "local_shell", "apply_patch", "computer", "computer_use_preview", "namespace"}
)
"""Tools that the program runs itself; all others run at the provider, in turns that nobody has counted before."""
_TIERS = frozenset({None, "auto", "default", "flex", "priority", "fast", "standard"})
_REASONS = {
    "previous_response_id": "it continues a stored answer (previous_response_id)",
    "conversation": "it continues a stored conversation",
    "prompt": "it uses a stored prompt",
    "context_management": "the provider may summarize it first (context_management)",
}
_CHAT_REASONS = {
    "web_search_options": "it searches the web",
    "data_sources": "the provider searches data of its own (data_sources)",
    "plugins": "the provider runs plugins",
    "prediction": "predicted output is billed whatever comes of it (prediction)",
}
_UNBOUNDED_APIS = {
    "decisions": "nothing limits how long its answers are",
    "responses.compact": "nothing limits how long a compaction is",
    "threads.runs": "it runs on a stored thread",
    "audio.speech": "nothing limits how long a speech is",
    "audio.transcriptions": "it is billed by the length of a recording",
    "audio.translations": "it is billed by the length of a recording",
}
RESPONSES_MINIMUM = 16
"""The Responses API accepts no lower limit."""

LIMIT_FIELDS: Mapping[str, tuple[str, ...]] = {
    "chat.completions": ("max_completion_tokens", "max_tokens"),
    "completions": ("max_tokens",),
    "responses": ("max_output_tokens",),
}
"""The fields that limit one answer's output, the newer first."""
_NEEDS_NEWER_FIELD = re.compile(r"(^|[/:])(o\d|gpt-([5-9]|\d\d)|codex)")


def bound_of(api: str, body: Mapping[str, Any], attempts: int) -> Bound:
    """The most that a request can cost; its ``unbounded`` says why there is no such figure."""
    try:
        return _bound(api, body, attempts)
    except Unbounded as why:
        return Bound(0, unbounded=str(why))


def limit_fields(
    api: str, body: Mapping[str, Any], tokens: int, *, openai_itself: bool, model: str | None = None
) -> dict[str, int]:
    """The fields to set so that one answer has at most ``tokens`` output tokens; lower limits stay.

    Servers that are compatible with OpenAI know the older field at least, its newest models only the newer one.
    """
    names = LIMIT_FIELDS[api]
    present = [name for name in names if body.get(name) is not None]
    if not present:
        newest = openai_itself or _NEEDS_NEWER_FIELD.search(str(model or body.get("model")))
        present = [names[0] if newest else names[-1]]
    return {name: _lower(body.get(name), tokens) for name in present}


def _lower(asked: object, tokens: int) -> int:
    """What is no number from one on, such as "100", True or -1, means something else to each server."""
    is_limit = isinstance(asked, int | float) and not isinstance(asked, bool) and asked >= 1
    return min(int(cast(float, asked)), tokens) if is_limit else tokens


def other_field(api: str, name: str) -> str | None:
    """The other spelling of a limit, for a server that does not know ``name``."""
    return next((other for other in LIMIT_FIELDS[api] if other != name), None)


def _bound(api: str, body: Mapping[str, Any], attempts: int) -> Bound:
    model = str(body.get("model") or "")
    if (why := _UNBOUNDED_APIS.get(api)) is not None:
        raise Unbounded(why)
    if body.get("service_tier") not in _TIERS:
        raise Unbounded("the price of its service tier is not known")
    if api == "images":
        return Bound(most_input(body, _no_media), output_tokens=_most_drawn(model, body), attempts=attempts)
    if api == "embeddings":
        return Bound(most_input(body, _no_media), output_tokens=0, attempts=attempts)
    if api == "responses":
        refuse_present(body, _REASONS)
    else:
        refuse_present(body, _CHAT_REASONS)
        if any(type(body.get(name, 1)) not in (int, float, NoneType) for name in ("n", "best_of")):
            raise Unbounded("how many answers it asks for is not known")
    if "search" in model or "deep-research" in model:
        raise Unbounded("the model searches the web")
    tools = body.get("tools") or body.get("functions")
    _check_tools(tools)
    image_tokens = next((n for pattern, n in _IMAGE_TOKENS if pattern.search(model)), _LARGEST_IMAGE_TOKENS)

    def media(part: Mapping[str, Any]) -> int | None:
        return _most_of_media(part, image_tokens)

    tokens = most_input(body, media) + (TOOLS_TOKENS if tools else 0)
    return Bound(tokens, least_output=RESPONSES_MINIMUM if api == "responses" else 1, attempts=attempts)


def _check_tools(tools: Any) -> None:
    for tool in tools if isinstance(tools, list | tuple) else ():
        kind = tool.get("type", "function") if isinstance(tool, Mapping) else None
        if kind not in _OWN_TOOLS:
            raise Unbounded(f"the provider runs a tool of its own ({kind})")
        if kind == "namespace":
            _check_tools(tool.get("tools"))


def _most_of_media(part: Mapping[str, Any], image_tokens: int) -> int | None:
    match part.get("type"):
        case "image_url" | "input_image" | "computer_screenshot":
            return image_tokens
        case "input_audio":
            sound = part.get("input_audio")
            sound = sound if isinstance(sound, Mapping) else {}
            return most_of_audio(sound.get("data"), sound.get("format"), AUDIO_TOKENS_PER_SECOND)
        case "file" | "input_file":
            raise Unbounded("the pages of a file are not known")
        case "item_reference":
            raise Unbounded("it refers to a stored item")
        case "image_generation_call":
            return image_tokens
        case "message" | None:
            sound = part.get("audio")
            if isinstance(sound, Mapping) and "id" in sound:
                raise Unbounded("it refers to an earlier spoken answer")
    return None


def _most_drawn(model: str, body: Mapping[str, Any]) -> int:
    if not _DRAWING_MODELS.search(model):
        raise Unbounded("the tokens of a picture that this model draws are not known")
    if body.get("image") is not None or body.get("mask") is not None:
        raise Unbounded("the size of the picture to edit is not known")
    number, partial = body.get("n") or 1, body.get("partial_images") or 0
    if type(number) is not int or type(partial) is not int:
        raise Unbounded("how many pictures it asks for is not known")
    return number * _DRAWN_IMAGE_TOKENS + partial * _PARTIAL_IMAGE_TOKENS


def _no_media(_part: Mapping[str, Any]) -> None:
    return None
