"""The largest output limit that each model accepts: a larger one in a request is answered with an error.

Figures are those that the providers publish with their models (2026). A model that is not listed gets the limit that
all models of its provider accept.
"""

from __future__ import annotations

import re

_BY_MODEL: tuple[tuple[re.Pattern[str], int], ...] = tuple(
    (re.compile(pattern), limit)
    for pattern, limit in (
        (r"gpt-5.*chat", 16_384),
        (r"gpt-([5-9]|\d\d)", 128_000),
        (r"(^|/)o[1-9](-mini|-pro)?($|-)", 65_536),
        (r"gpt-4\.1", 32_768),
        (r"gpt-4o|chatgpt-4o", 16_384),
        (r"claude-(opus-4-0|opus-4-1|opus-4-2025|4-opus)", 32_000),
        (r"claude-[a-z]+-[4-9]", 64_000),
        (r"claude-3-7", 64_000),
        (r"claude-3-5", 8_192),
        (r"gemini-(2\.5|[3-9])", 65_535),
        (r"gemini", 8_192),
    )
)
ACCEPTED_BY_ALL = 4_096
"""Every model in use accepts this much."""


def largest_output(model: str) -> int:
    """The largest output limit, in tokens, that can be asked of ``model`` without an error.

    Example: ``largest_output("gpt-4o-mini") == 16_384``
    """
    name = model.lower()
    return next((limit for pattern, limit in _BY_MODEL if pattern.search(name)), ACCEPTED_BY_ALL)


USUAL_OUTPUT = 4_096
"""The output tokens of a long answer, a guess: a few pages of text, and some thinking before it."""
