"""The most input tokens that a request can have, for scopes with ``enforcement="hard"``.

`actguard.integrations.estimate` says what a request will typically have; this says what it cannot exceed. A token of
text is at least one byte of UTF-8, so the bytes of all strings bound the text, field names included. Pictures and
sounds are bounded by the largest figure of the provider's published rules. What the request only refers to (a stored
prompt, a file by its id, an earlier answer) has no bound, and the refusal says which of its parts that is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

REQUEST_TOKENS = 128
"""What providers put around a prompt at the most: markers of turns, a line of their own."""
TOOLS_TOKENS = 1_024
"""The instructions that come with tools, at the most (the providers publish 300 to 700)."""
ITEM_TOKENS = 8
"""The markers around one message or part of it, at the most."""
NUMBER_TOKENS = 24
"""A number in JSON, by its longest spelling."""
AUDIO_BYTES_PER_SECOND = 1_000
"""The lowest bit rate of MP3, 8 kbit/s; a recording without compression has far more."""
BOUNDED_AUDIO = frozenset({"mp3", "mpeg", "mpga", "wav", "wave", "x-wav", "pcm", "pcm16", "l16"})
"""Formats whose length follows from their size; the others can hold hours of silence in a few bytes."""

MediaBound = Callable[[Mapping[str, Any]], int | None]
"""The most tokens of a part of a request that is no text; None for what is to be walked as text.

Raises `Unbounded` for a part that the request only refers to.
"""


class Unbounded(Exception):
    """A request can cost more than it shows. Its text is the reason, as the end of "it cannot be bounded: …"."""


def most_input(body: Any, media: MediaBound) -> int:
    """The most input tokens of a request with this JSON body. One walk; nothing is copied.

    Raises:
        Unbounded: a part of it says nothing about its size.
    """
    tokens = REQUEST_TOKENS
    pending: list[Any] = [body]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            tokens += len(item) if item.isascii() else len(item.encode("utf-8", "surrogatepass"))
        elif isinstance(item, Mapping):
            tokens += ITEM_TOKENS
            if (known := media(item)) is not None:
                tokens += known
            else:
                pending += item
                pending += item.values()
        elif isinstance(item, list | tuple):
            if item and type(item[0]) is int:
                tokens += len(item)  # an array of token ids
            else:
                pending += item
        elif isinstance(item, bytes | bytearray):
            raise Unbounded("it has binary data whose tokens are not known")
        else:
            tokens += NUMBER_TOKENS
    return tokens


def most_of_audio(data: object, audio_format: object, tokens_per_second: int) -> int:
    """The most tokens of a recording that is sent along in base64 (or as bytes).

    Raises:
        Unbounded: its format can hold any length in few bytes.
    """
    kind = str(audio_format or "").partition(";")[0].rpartition("/")[2].lower()
    if kind not in BOUNDED_AUDIO:
        raise Unbounded(f"the length of a recording in {kind or 'an unknown format'} does not follow from its size")
    if isinstance(data, str):
        size = len(data) * 3 // 4
    elif isinstance(data, bytes | bytearray):
        size = len(data)
    else:
        raise Unbounded("it refers to a recording")
    return (size // AUDIO_BYTES_PER_SECOND + 1) * tokens_per_second


def refuse_present(body: Mapping[str, Any], reasons: Mapping[str, str]) -> None:
    """Refuse a body that has one of these fields.

    Raises:
        Unbounded: it has; the reason is the one given for that field.
    """
    for name, reason in reasons.items():
        value = body.get(name)
        if value or isinstance(value, Mapping):
            raise Unbounded(reason)
