"""What a request to Google's GenAI API can cost at the most, before it is sent, and how to lower that."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any

from actguard.guards.bounding import Bound
from actguard.integrations.bounds import TOOLS_TOKENS, Unbounded, most_input, most_of_audio, refuse_present

IMAGE_TOKENS = 4_386
"""A picture: sixteen tiles of 258 tokens and one of the whole; the newest models take 2,240 at the most."""
AUDIO_TOKENS_PER_SECOND = 32
_OWN_TOOLS = frozenset({"functionDeclarations", "function_declarations", "computerUse", "computer_use"})
"""Tools that the program runs itself; all others run at the provider."""
_TIERS = frozenset({None, "", "standard", "flex", "priority", "unspecified"})
_REASONS = {
    "cachedContent": "it uses a cached content",
    "cached_content": "it uses a cached content",
    "previous_interaction_id": "it continues a stored interaction",
    "continuation_token": "it continues a stored interaction",
    "environment": "it runs in an environment at the provider",
    "agent": "it is answered by an agent at the provider",
}


def bound_of(model: str, body: Mapping[str, Any], attempts: int, *, output: bool = True) -> Bound:
    """The most that a request can cost; its ``unbounded`` says why there is no such figure.

    ``output``: False where the answer has no output tokens (embeddings).
    """
    try:
        refuse_present(body, _REASONS)
        tokens = _tools(body.get("tools")) + most_input(body, _most_of_media)
        if output:
            _check_output(model, body)
    except Unbounded as why:
        return Bound(0, unbounded=str(why))
    return Bound(tokens, output_tokens=None if output else 0, attempts=attempts)


LIMIT_FIELDS = {"generationConfig": "maxOutputTokens", "generation_config": "max_output_tokens"}
"""Where the output limit is, in either spelling."""


def limited(body: Mapping[str, Any], tokens: int, config_field: str = "generationConfig") -> dict[str, Any]:
    """``body`` with an output limit of ``tokens`` per candidate; a lower one stays.

    ``config_field`` is where it goes when the body has neither of the two.
    """
    key = next((name for name in LIMIT_FIELDS if isinstance(body.get(name), Mapping)), config_field)
    config = body.get(key) or {}
    name = next((name for name in LIMIT_FIELDS.values() if name in config), LIMIT_FIELDS[key])
    before = config.get(name)
    return {**body, key: {**config, name: min(before, tokens) if type(before) is int and before > 0 else tokens}}


def merged(body: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """``body`` with what the user adds to it, as the SDK merges them: mappings field by field, the rest replaced."""
    whole = dict(body)
    for name, value in extra.items():
        there = whole.get(name)
        whole[name] = merged(there, value) if isinstance(there, Mapping) and isinstance(value, Mapping) else value
    return whole


def _tools(tools: Any) -> int:
    for tool in tools if isinstance(tools, list | tuple) else ():
        names = {str(tool["type"])} if isinstance(tool, Mapping) and isinstance(tool.get("type"), str) else set(tool)
        if others := sorted(names - _OWN_TOOLS - {"function", "computer_use"}):
            raise Unbounded(f"the provider runs a tool of its own ({others[0]})")
    return TOOLS_TOKENS if tools else 0


def _check_output(model: str, body: Mapping[str, Any]) -> None:
    tier = body.get("serviceTier", body.get("service_tier"))
    if tier is not None and str(tier).lower().removeprefix("service_tier_") not in _TIERS:
        raise Unbounded("the price of its service tier is not known")
    config = body.get("generationConfig") or body.get("generation_config") or {}
    if any(type(config.get(name, 1)) not in (int, NoneType) for name in ("candidateCount", "candidate_count")):
        raise Unbounded("how many answers it asks for is not known")
    modalities = [
        kind
        for source in (config, body)
        for name in ("responseModalities", "response_modalities")
        for kind in source.get(name) or ()
    ]
    if any(str(kind).upper() != "TEXT" for kind in modalities) or any(word in model for word in ("image", "tts")):
        raise Unbounded("nothing limits the pictures or the speech that it may answer with")


def _most_of_media(part: Mapping[str, Any]) -> int | None:
    blob = part.get("inlineData") or part.get("inline_data")
    if isinstance(blob, Mapping):
        return _most_of_blob(blob.get("data"), str(blob.get("mimeType") or blob.get("mime_type") or ""))
    file = part.get("fileData") or part.get("file_data")
    if isinstance(file, Mapping):
        return _most_of_file(str(file.get("mimeType") or file.get("mime_type") or ""))
    if "bytesBase64Encoded" in part:
        return IMAGE_TOKENS
    kind = part.get("type")
    if kind in ("image", "audio", "video", "document", "file") and ("data" in part or "uri" in part):
        mime = str(part.get("mime_type") or kind)
        return _most_of_blob(part["data"], mime) if part.get("data") else _most_of_file(mime)
    return None


def _most_of_blob(data: object, mime_type: str) -> int:
    kind = mime_type.partition("/")[0]
    if kind == "image":
        return IMAGE_TOKENS
    if kind == "audio":
        return most_of_audio(data, mime_type, AUDIO_TOKENS_PER_SECOND)
    if kind == "text" and isinstance(data, str | bytes):
        return len(data)
    raise Unbounded(f"the length of {mime_type or 'a file'} is not known")


def _most_of_file(mime_type: str) -> int:
    if mime_type.partition("/")[0] == "image":
        return IMAGE_TOKENS
    raise Unbounded("it refers to a file")
