"""What a request to Google's GenAI API says about its cost before it is sent: pure readers of path and body.

The SDK hands over the path and a JSON body of its own making, so both spellings of a field (``maxOutputTokens`` and
``max_output_tokens``) occur: the second where a caller passes ``extra_body``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from actguard.integrations.prompts import FILE_TOKENS, base64_tokens, estimated_input
from actguard.money.usage import Usage

_PATH = re.compile(r"^/*(?P<model>.+):(?P<method>[A-Za-z]+)(?:\?.*)?$")
APIS: Mapping[str, str] = {
    "generateContent": "generate_content",
    "streamGenerateContent": "generate_content",
    "embedContent": "embed_content",
    "batchEmbedContents": "embed_content",
    "predict": "predict",
    "predictLongRunning": "generate_videos",
}
"""Methods that are billed when they are called. Batches are billed when they have run; counting, caching are free."""

_PROMPT_FIELDS = ("contents", "systemInstruction", "system_instruction", "tools", "content", "instances")


def billed_call(path: object) -> tuple[str, str] | None:
    """(model, method) of a path that is billed when it is called; None for everything else.

    Example: ``billed_call("models/gemini-2.5-pro:generateContent") == ("gemini-2.5-pro", "generateContent")``.
    """
    match = _PATH.match(path) if isinstance(path, str) else None
    if match is None or match["method"] not in APIS:
        return None
    return match["model"].removeprefix("models/"), match["method"]


def output_limit(*bodies: Mapping[str, Any]) -> int | None:
    """The most output tokens that the request allows for one candidate; the first body that says so counts."""
    return _setting(bodies, "maxOutputTokens", "max_output_tokens")


def candidates(*bodies: Mapping[str, Any]) -> int:
    """How many answers the request asks for."""
    return _setting(bodies, "candidateCount", "candidate_count") or 1


def _setting(bodies: tuple[Mapping[str, Any], ...], *names: str) -> int | None:
    for body in bodies:
        for key in ("generationConfig", "generation_config"):
            config = body.get(key)
            for name in names:
                value = config.get(name) if isinstance(config, Mapping) else None
                if type(value) is int and value > 0:
                    return value
    return None


def estimate(body: Mapping[str, Any]) -> Usage:
    """What the prompt may count as. A cached content that the request names is not in it: its length is unknown."""
    prompt = [body.get(name) for name in _PROMPT_FIELDS]
    batch = body.get("requests")
    if isinstance(batch, list):  # of texts to embed
        prompt += [each.get("content") for each in batch if isinstance(each, Mapping)]
    return estimated_input(prompt, media_tokens)


def media_tokens(part: Mapping[str, Any]) -> int | None:
    """The estimated tokens of a part of a prompt that is or names a picture, a sound or a file; None for any other."""
    blob = part.get("inlineData") or part.get("inline_data")
    if isinstance(blob, Mapping):
        return base64_tokens(blob.get("data"), blob.get("mimeType") or blob.get("mime_type"))
    if "bytesBase64Encoded" in part:
        return base64_tokens(part["bytesBase64Encoded"], part.get("mimeType") or "image/png")
    if "mime_type" in part and isinstance(part.get("data"), str | bytes):
        return base64_tokens(part["data"], part["mime_type"])
    if isinstance(part.get("fileData") or part.get("file_data"), Mapping):
        return FILE_TOKENS
    return None
