"""What Google's GenAI API offers that spends and cannot be counted: it has no price per call, or is billed elsewhere.

A scope whose limits are hard, or a client with ``on_unpriced="raise"``, refuses it; others are warned once, by the name
given here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from actguard.integrations.metering import FREE, Bound, Exchange, Outcome, Request, Settlement

PROVIDER = "google"
_UNCOUNTED = {
    "storage of cached contents": r"cachedContents",
    "tuning jobs": r"tunedModels|tuningJobs",
    "files in file search stores": r"fileSearchStores/[^/]+:(?:importFile|uploadToFileSearchStore)",
    "batches on Vertex AI": r"batchPredictionJobs",
    "live sessions held elsewhere": r"auth_tokens",
}
_ONE_OF = re.compile(
    r"(?:^|/)(?:" + "|".join(f"(?P<_{n}>{pattern})" for n, pattern in enumerate(_UNCOUNTED.values())) + r")$"
)
_NAMES = tuple(_UNCOUNTED)
_TOOLS = {
    "googleMaps": "grounding with Google Maps",
    "enterpriseWebSearch": "web grounding for enterprise",
    "retrieval": "grounding with stored data",
    "parallelAiSearch": "grounding with another search engine",
    "exaAiSearch": "grounding with another search engine",
}
"""Server-side tools with a fee of their own that no price list has."""


def uncounted_surface(path: str) -> str | None:
    """What a POST to ``path`` asks for, when its cost cannot be counted; None for any other path.

    Example: ``uncounted_surface("cachedContents") == "storage of cached contents"``.
    """
    found = _ONE_OF.search(path.partition("?")[0])
    return None if found is None or found.lastgroup is None else _NAMES[int(found.lastgroup[1:])]


def uncounted_tool(body: Mapping[str, Any]) -> str | None:
    """The first tool of a request whose fee has no known price; None where there is none."""
    return next((_TOOLS[name] for name in _tool_names(body) if name in _TOOLS), None)


def _tool_names(body: Mapping[str, Any]) -> Iterator[str]:
    tools = body.get("tools")
    for tool in tools if isinstance(tools, list | tuple) else ():
        for name in tool if isinstance(tool, Mapping) else ():
            yield re.sub(r"_(\w)", lambda found: found[1].upper(), str(name))


class UncountedExchange(Exchange):
    """A request for something that nobody can count."""

    provider = PROVIDER

    def __init__(self, client: Any, args: tuple[Any, ...], kwargs: dict[str, Any], uncounted: str) -> None:
        super().__init__(client, args, kwargs)
        self.uncounted = uncounted

    def request(self) -> Request:
        return Request(model="unknown", api=str(self.uncounted), output_limit=0)

    def bound(self) -> Bound | None:
        return Bound(0, unbounded="its cost is not known")

    def failure(self, error: BaseException) -> Outcome:
        return FREE

    def answer(self, result: Any, settlement: Settlement) -> Any:
        settlement.release()
        return result
