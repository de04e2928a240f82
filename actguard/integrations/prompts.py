"""How many input tokens a prompt will have, where a provider marks its media as such.

`actguard.integrations.estimate` judges a string by its looks. Anthropic's and Google's requests say which of their
parts are pictures, sounds or documents, so these are counted by what they are, and everything else is text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from actguard.integrations.estimate import BYTES_PER_TOKEN, IMAGE_TOKENS
from actguard.money.usage import Usage

FILE_TOKENS = 1_000
"""A file that the request names and does not hold: its length is unknown here."""
_STRUCTURE = frozenset({"role", "type"})
"""Fields that say what their neighbours are and are no text themselves."""
_BYTES_PER_TOKEN_OF = {
    "audio": 500.0,  # 32 tokens a second, at 128 kbit/s
    "video": 850.0,  # about 295 tokens a second with its sound, at 2 Mbit/s
    "application": 50.0,  # about 2,000 tokens a page of PDF with its image, at 100 kB
    "text": float(BYTES_PER_TOKEN),
}

MediaTokens = Callable[[Mapping[str, Any]], int | None]
"""The estimated tokens of a part of a prompt that holds or names media; None for any other part."""


def estimated_input(prompt: Iterable[Any], media_tokens: MediaTokens) -> Usage:
    """The input of a call whose prompt is these parts of its body. One walk; nothing is copied."""
    text_bytes = media = 0
    pending = list(prompt)
    while pending:
        item = pending.pop()
        kind = type(item)
        if kind is str:
            text_bytes += len(item) if item.isascii() else len(item.encode("utf-8", "replace"))
        elif kind is list or kind is tuple:
            pending += item
        elif kind is dict or isinstance(item, Mapping):
            if (tokens := media_tokens(item)) is not None:
                media += tokens
            else:
                pending += [value for key, value in item.items() if key not in _STRUCTURE]
    return Usage(uncached_input_tokens=-(-text_bytes // BYTES_PER_TOKEN) + media)


def base64_tokens(data: object, mime_type: object) -> int:
    """The estimated tokens of media that is sent along, as base64 text or as bytes."""
    kind = str(mime_type or "").partition("/")[0]
    if kind == "image":
        return IMAGE_TOKENS
    if isinstance(data, str):
        size = len(data) * 3 // 4
    else:
        size = len(data) if isinstance(data, bytes | bytearray) else 0
    return max(int(size / _BYTES_PER_TOKEN_OF.get(kind, BYTES_PER_TOKEN)), 1)
