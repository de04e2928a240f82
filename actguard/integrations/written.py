"""How many tokens a text has at the least, without a tokenizer.

Whether a running stream is closed is decided by what it has used for certain: a guess that is too high would cut an
answer that fits. Tokenizers differ, but none joins words, or a word and what follows a space; letters beyond Latin
take at least a token for six, and ideographs, syllables and pictures hardly ever less than one for two.
"""

from __future__ import annotations

import re

from actguard.money.usage import Usage

_RUNS = re.compile(r"[^\W\d_\u0300-\U0010ffff]+|\d{1,3}|[^\w\s\u0300-\U0010ffff](?=\s)")
"""What is one token at the least: a run of Latin letters, up to three digits, a mark before a blank."""
_LETTERS = re.compile(r"[\u0300-\u2dff]")
"""Letters of other alphabets."""
_SIGNS = re.compile(r"[\u2e80-\U0010ffff]")
"""Ideographs, syllables and pictures."""
MOST_BYTES_PER_TOKEN = 7.5
"""Prose of long words has fewer, and so has everything else but blanks and ornaments."""
TOKENS_PER_LETTER = 0.17
TOKENS_PER_SIGN = 0.45
KEPT_PIECES = 256
"""So many pieces are counted together: that takes a fraction of counting each."""

LEAST_OF_INPUT = 3
"""An estimated input may turn out to be a third as many tokens: of tools and schemas, much is not billed."""


def tokens_at_least(text: str) -> float:
    """The tokens that ``text`` has for any of the providers' tokenizers, or more.

    Example: ``tokens_at_least("The cat sat on the mat.") == 6.0``
    """
    runs = _RUNS.findall(text)
    least = max(len(runs), sum(map(len, runs)) / MOST_BYTES_PER_TOKEN)
    if text.isascii():
        return least
    return least + TOKENS_PER_LETTER * len(_LETTERS.findall(text)) + TOKENS_PER_SIGN * len(_SIGNS.findall(text))


def input_at_least(estimate: Usage) -> Usage:
    """The input of a call for certain, where only an estimate is known: all of it may come from the cache, too."""
    return Usage(cache_read_tokens=estimate.input_tokens // LEAST_OF_INPUT)


class Written:
    """The text that a stream has brought, counted when somebody asks."""

    __slots__ = ("_counted", "_pieces")

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._counted = 0.0

    def add(self, piece: str) -> None:
        """Another piece of it."""
        self._pieces.append(piece)
        if len(self._pieces) >= KEPT_PIECES:
            self._count()

    @property
    def tokens_at_least(self) -> int:
        """The tokens that it has at the least."""
        self._count()
        return int(self._counted)

    def _count(self) -> None:
        # The last word may go on with the next piece, and must not be counted twice then.
        text = "".join(self._pieces)
        end = _end_of_words(text)
        self._counted += tokens_at_least(text[:end])
        self._pieces = [text[end:]] if end < len(text) else []


_TAIL = re.compile(r"[^\s\u0300-\U0010ffff]{1,64}\Z")
"""A word, or what may become one."""


def _end_of_words(text: str) -> int:
    """Where the part of ``text`` ends that no further text can change."""
    tail = _TAIL.search(text, max(len(text) - 64, 0))
    return len(text) if tail is None else tail.start()
