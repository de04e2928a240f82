"""What a request for a message says about its cost before it is sent: pure readers of its JSON and of the client."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from actguard.integrations.estimate import IMAGE_TOKENS, text_tokens
from actguard.integrations.prompts import FILE_TOKENS, base64_tokens, estimated_input
from actguard.money.usage import Usage

PROVIDER = "anthropic"
PLATFORMS: Mapping[str, str] = {"bedrock": "aws", "vertex": "google", "foundry": "azure"}
"""Which price list applies on whose platform, by the SDK's package for it. On the remaining ones (Anthropic's own
platform as sold through AWS and Google Cloud) the models have Anthropic's names and prices."""
PROMPT_FIELDS = ("system", "tools", "messages", "prompt")


def estimate_of(body: Mapping[str, Any]) -> Usage:
    """The input as estimated from the request."""
    return estimated_input((body.get(name) for name in PROMPT_FIELDS), _media_tokens)


def output_limit_of(body: Mapping[str, Any]) -> int | None:
    """The most output tokens that it asks for; None where it does not say."""
    limit = body.get("max_tokens", body.get("max_tokens_to_sample"))
    return limit if type(limit) is int and limit >= 0 else None


def uncounted_tool(body: Mapping[str, Any]) -> str | None:
    """A server-side tool of the request that is billed by time, which no answer reports; None where there is none."""
    tools = body.get("tools")
    for tool in tools if isinstance(tools, list | tuple) else ():
        if isinstance(tool, Mapping) and str(tool.get("type")).startswith("code_execution"):
            return "the time of code execution"
    return None


def _media_tokens(part: Mapping[str, Any]) -> int | None:
    kind, source = part.get("type"), part.get("source")
    if kind == "thinking":  # its signature is no text
        return text_tokens(len(str(part.get("thinking", "")).encode("utf-8", "replace")))
    if kind not in ("image", "document", "container_upload") or not isinstance(source, Mapping):
        return None
    if kind == "image":
        return IMAGE_TOKENS
    if source.get("type") == "base64":
        return base64_tokens(source.get("data"), source.get("media_type"))
    return FILE_TOKENS if source.get("type") in ("url", "file") else None


@cache
def provider_of(client_class: type) -> str:
    """Whose price list applies to the calls of a client, as far as its class says; its base URL may say more."""
    for kind in client_class.__mro__:
        package = kind.__module__.split(".")
        if package[:2] == ["anthropic", "lib"] and len(package) > 2:
            return PLATFORMS.get(package[2], PROVIDER)
    return PROVIDER
