"""Grounding with Google Search, which is billed by the piece on top of the tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from actguard.money.usage import Usage

_BY_PROMPT = re.compile(r"gemini-(?:flash-|pro-)?[12]\b")
"""Models that are billed for each grounded prompt; newer ones for each search."""


def searches_of(answer: Any) -> int:
    """How many searches an answer (or a chunk of one) says it was grounded in."""
    candidates = answer.get("candidates") if isinstance(answer, Mapping) else None
    searches = 0
    for candidate in candidates if isinstance(candidates, list) else ():
        about = candidate.get("groundingMetadata") if isinstance(candidate, Mapping) else None
        queries = about.get("webSearchQueries") if isinstance(about, Mapping) else None
        searches += len([query for query in queries if query]) if isinstance(queries, list) else 0
    return searches


def grounding(searches: int, model: str) -> Usage:
    """What is billed for so many searches by ``model``."""
    if not searches:
        return Usage()
    return Usage(web_searches=1 if _BY_PROMPT.match(model) else searches)
