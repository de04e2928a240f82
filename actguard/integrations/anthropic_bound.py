"""What a message can cost at the most, before it is asked for, and how to lower that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actguard.guards.bounding import Bound
from actguard.integrations.bounds import TOOLS_TOKENS, Unbounded, most_input, refuse_present

IMAGE_TOKENS = 4_784
"""A picture in the full resolution of the newest models; in others it has at most 1,600."""
LEAST_THINKING = 1_024
"""The smallest thinking budget that is accepted."""

_OWN_TOOLS = ("custom", "bash_", "text_editor_", "computer_", "memory_", "browser_")
"""How the types of tools begin that the program runs itself; all others run at the provider."""
_TOOLSET_TOKENS = 4_096
"""The definitions that come with a whole toolset for a computer or a browser."""
_REASONS = {
    "container": "it uses a container at the provider",
    "mcp_servers": "the provider calls MCP servers",
    "thread": "it continues a thread that the provider keeps (a tool runner with thread=False sends it all)",
    "compaction": "nothing limits how long a compaction is",
    "fallbacks": "the provider may answer with a dearer model (fallbacks)",
}
_STORED_SOURCES = {"url": "it refers to a document by URL", "file": "it refers to a file by its id"}
_TIERS = frozenset({None, "auto", "standard_only"})


def bound_of(body: Mapping[str, Any], attempts: int) -> Bound:
    """The most that a request can cost; its ``unbounded`` says why there is no such figure."""
    try:
        tokens = _most_input(body)
    except Unbounded as why:
        return Bound(0, unbounded=str(why))
    thinks = _thinking_budget(body) is not None
    return Bound(tokens, least_output=LEAST_THINKING + 1 if thinks else 1, attempts=attempts)


def limit_fields(body: Mapping[str, Any], tokens: int) -> dict[str, Any]:
    """The fields to set so that the answer has at most ``tokens`` output tokens; thinking stays below that."""
    name = "max_tokens_to_sample" if "max_tokens_to_sample" in body else "max_tokens"
    fields: dict[str, Any] = {name: tokens}
    budget = _thinking_budget(body)
    if budget is not None and budget >= tokens:
        fields["thinking"] = {**body["thinking"], "budget_tokens": tokens - 1}
    return fields


def _thinking_budget(body: Mapping[str, Any]) -> int | None:
    thinking = body.get("thinking")
    budget = thinking.get("budget_tokens") if isinstance(thinking, Mapping) else None
    return budget if type(budget) is int else None


def _most_input(body: Mapping[str, Any]) -> int:
    refuse_present(body, _REASONS)
    if body.get("service_tier") not in _TIERS:
        raise Unbounded("the price of its service tier is not known")
    if body.get("inference_geo") not in (None, "global"):
        raise Unbounded("the price of inference in a region of one's choice is not known (inference_geo)")
    edits = body.get("context_management")
    edits = edits.get("edits") if isinstance(edits, Mapping) else None
    if any(str(edit.get("type")).startswith("compact") for edit in edits or () if isinstance(edit, Mapping)):
        raise Unbounded("the provider may summarize it first (context_management)")
    tools = body.get("tools")
    tokens = 0
    for tool in tools if isinstance(tools, list | tuple) else ():
        kind = str(tool.get("type") or "custom") if isinstance(tool, Mapping) else "unknown"
        if not kind.startswith(_OWN_TOOLS):
            raise Unbounded(f"the provider runs a tool of its own ({kind})")
        tokens = max(tokens, TOOLS_TOKENS)
        if kind != "custom":
            tokens += _TOOLSET_TOKENS
    return tokens + most_input(body, _most_of_media)


def _most_of_media(part: Mapping[str, Any]) -> int | None:
    kind, source = part.get("type"), part.get("source")
    if kind == "image":
        return IMAGE_TOKENS
    if kind == "container_upload":
        raise Unbounded("it refers to a file by its id")
    if kind == "document" and isinstance(source, Mapping):
        form = source.get("type")
        if form == "base64":
            raise Unbounded("the pages of a document are not known")
        if form in _STORED_SOURCES:
            raise Unbounded(_STORED_SOURCES[form])
    return None
