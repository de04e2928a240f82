"""What one provider call used, in buckets that do not overlap.

Providers count differently (OpenAI's input includes cache reads, Anthropic's does not; Gemini adds thoughts). The
integrations translate each usage block into a `Usage`; everything behind them knows only this one form.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

NO_DETAILS: Mapping[str, int | float] = MappingProxyType({})


class Usage(NamedTuple):
    """Tokens of one call in disjoint buckets; their sums are what users see.

    None in ``reasoning_tokens`` means "not reported", which is not zero.
    """

    uncached_input_tokens: int = 0
    """Input billed at the full rate, all modalities, tool-use prompts included."""
    cache_read_tokens: int = 0
    """Input read from the provider's prompt cache."""
    cache_write_5m_tokens: int = 0
    """Input written to the prompt cache for five minutes, or for a time the provider does not name."""
    cache_write_1h_tokens: int = 0
    """Input written to the prompt cache for one hour."""
    output_tokens: int = 0
    """Everything generated: text, reasoning, audio, images."""
    reasoning_tokens: int | None = None
    """The part of ``output_tokens`` that was reasoning or thoughts."""
    web_searches: int = 0
    """Server-side searches, billed by the piece."""
    details: Mapping[str, int | float] = NO_DETAILS
    """Finer counts that carry prices of their own, under genai-prices' usage keys: ``input_audio_tokens``,
    ``output_image_tokens``, ``cache_audio_read_tokens``, ``input_characters``, ``audio_seconds`` …
    Token counts here are parts of the buckets above, never in addition. A key that a bucket stands for already
    (``input_tokens``, ``cache_read_tokens``, …) is ignored: the bucket counts."""

    @property
    def input_tokens(self) -> int:
        """All billed input tokens, cache reads and writes included."""
        return self[0] + self[1] + self[2] + self[3]  # the four fields by position: by name takes half as long again

    @property
    def cached_input_tokens(self) -> int:
        """Tokens read from the cache."""
        return self.cache_read_tokens

    @property
    def cache_write_tokens(self) -> int:
        """Tokens written to the cache, whatever their time to live."""
        return self.cache_write_5m_tokens + self.cache_write_1h_tokens

    @property
    def total_tokens(self) -> int:
        """Input plus output tokens: what a ``token_limit`` counts."""
        return self[0] + self[1] + self[2] + self[3] + self[4]

    @property
    def is_zero(self) -> bool:
        """True when nothing billable was used."""
        return not (self.total_tokens or self.web_searches or any(self.details.values()))

    def __add__(self, other: object) -> Usage:
        """Both usages together: "not reported" plus a number is that number."""
        if not isinstance(other, Usage):
            return NotImplemented
        details: Mapping[str, int | float] = NO_DETAILS
        if self.details or other.details:
            keys = {**self.details, **other.details}
            details = {key: self.details.get(key, 0) + other.details.get(key, 0) for key in keys}
        reasoning = self.reasoning_tokens
        if other.reasoning_tokens is not None:
            reasoning = other.reasoning_tokens + (reasoning or 0)
        return Usage(
            uncached_input_tokens=self.uncached_input_tokens + other.uncached_input_tokens,
            cache_read_tokens=self.cache_read_tokens + other.cache_read_tokens,
            cache_write_5m_tokens=self.cache_write_5m_tokens + other.cache_write_5m_tokens,
            cache_write_1h_tokens=self.cache_write_1h_tokens + other.cache_write_1h_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            reasoning_tokens=reasoning,
            web_searches=self.web_searches + other.web_searches,
            details=details,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return Usage, (*self[:-1], dict(self.details))  # a mapping proxy does not pickle
