"""How many input tokens a request will have, before it is sent: from the size of its JSON, without a tokenizer.

Text counts a token per four bytes of UTF-8. Images, audio and documents are sent as base64, whose length says little
about tokens; they count by rough published figures instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

BYTES_PER_TOKEN = 4
"""Typical for the tokenizers of all providers; the bytes themselves are an upper bound."""
IMAGE_TOKENS = 1_000
"""One image at the usual resolution."""
BASE64_BYTES_PER_AUDIO_TOKEN = 2_000
"""Compressed speech: about 16 kB per second, ten tokens per second, four base64 letters for three bytes."""
BASE64_BYTES_PER_DOCUMENT_TOKEN = 40
"""A page of PDF: about 100 kB, about 2,000 tokens with its image."""
MEDIA_LENGTH = 512
"""A shorter string counts as text whatever it is."""
_ARRAYS, _BINARY = (list, tuple), (bytes, bytearray)  # a union made at each look takes longer than the look


def input_tokens(body: Any) -> int:
    """The input tokens of a request's JSON (or any part of it), estimated. Cheap: one walk, nothing copied.

    Example: ``input_tokens({"messages": [{"role": "user", "content": "Hi!"}]})``
    """
    size = media = 0
    groups: list[Iterable[Any]] = [(body,)]
    for values in groups:  # which grows meanwhile: the whole body is walked without a call for each part
        for value in values:
            if isinstance(value, str):
                length = len(value)
                if length > MEDIA_LENGTH and is_media(value):
                    media += media_tokens(value)
                else:
                    size += length if value.isascii() else len(value.encode("utf-8", "surrogatepass"))
            elif isinstance(value, dict):
                size += sum(map(len, map(str, value)))  # names of fields are ASCII as good as always
                groups.append(value.values())
            elif isinstance(value, _ARRAYS):
                if value and isinstance(value[0], int):
                    media += len(value)  # an array of token ids: one token each
                else:
                    groups.append(value)
            elif isinstance(value, _BINARY):
                media += len(value) // BASE64_BYTES_PER_DOCUMENT_TOKEN
    return -(-size // BYTES_PER_TOKEN) + media


def text_tokens(characters: int) -> int:
    """The tokens of a text of ``characters``, estimated."""
    return -(-characters // BYTES_PER_TOKEN)


def is_media(text: str) -> bool:
    """True for a data URL, and for a long string that looks like base64: no space where text would have many."""
    return text.startswith("data:") or (text.find(" ", 0, MEDIA_LENGTH) < 0 and text[:MEDIA_LENGTH].isascii())


def media_tokens(text: str) -> int:
    """The tokens of an image, a sound or a document sent as base64, estimated."""
    kind = text[5:11] if text.startswith("data:") else ""
    if kind.startswith("image/"):
        return IMAGE_TOKENS
    if kind.startswith("audio/"):
        return len(text) // BASE64_BYTES_PER_AUDIO_TOKEN
    return len(text) // BASE64_BYTES_PER_DOCUMENT_TOKEN
