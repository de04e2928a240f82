"""Reading OpenAI's usage blocks: pure functions over the SDK's models and over parsed JSON alike.

One reader serves all of OpenAI's APIs, since a usage block means the same under each of its names: ``prompt_tokens`` or
``input_tokens`` include cached, cache-write, audio and image tokens, ``completion_tokens`` or ``output_tokens`` include
reasoning, audio and rejected predictions. Compatible servers leave fields out or add their own; what cannot be right
(a part larger than its whole, a negative count, a text) is cut down or left out, never raised.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from actguard.integrations.metering import Bill
from actguard.money.usage import NO_DETAILS, Usage

PRICED_TIERS = frozenset({"flex", "priority", "fast"})
"""Service tiers with prices of their own; every other name is billed at the usual rates."""
TOO_MANY = 2**53
"""No provider counts as far as this."""
_TOTALS = ("prompt_tokens", "input_tokens", "completion_tokens", "output_tokens", "total_tokens")
PENDING = frozenset({"queued", "in_progress", "requires_action", "cancelling", "validating", "finalizing"})
"""An answer with this status is not finished: its usage is not final."""


def fields_of(thing: Any) -> Mapping[str, Any]:
    """The fields of a model of the SDK, or of parsed JSON; nothing of anything else."""
    if isinstance(thing, dict):
        return thing
    values: Mapping[str, Any] = getattr(thing, "__dict__", {})
    extra = getattr(thing, "__pydantic_extra__", None)  # where compatible servers' own fields end up
    return {**extra, **values} if extra else values


def field(thing: Any, *names: str) -> Any:
    """The first of these fields that is there and not None."""
    values = fields_of(thing)
    for name in names:
        value = values.get(name)
        if value is not None:
            return value
    return None


def is_count(value: Any) -> bool:
    """True for what can be a number of tokens, or of anything else that is counted."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < TOO_MANY


def count(thing: Any, *names: str) -> int:
    """A count among the fields; zero where there is none that can be one."""
    value = field(thing, *names)
    return int(value) if is_count(value) else 0


def usage_of(block: Any) -> Usage | None:
    """The usage that a usage block reports; None when it reports none, or none that can be right."""
    if field(block, "type") == "duration":
        seconds = field(block, "seconds")
        return Usage(details={"audio_seconds": seconds}) if is_count(seconds) else None
    if not any(is_count(field(block, name)) for name in _TOTALS):
        return None
    inputs = field(
        block, "prompt_tokens_details", "input_tokens_details", "input_token_details", "prompt_token_details"
    )
    outputs = field(block, "completion_tokens_details", "output_tokens_details", "output_token_details")
    input_tokens = count(block, "prompt_tokens", "input_tokens")
    output_tokens = count(block, "completion_tokens", "output_tokens")
    # Some compatible servers leave reasoning out of the output, and show it in the total only. It is billed as output.
    output_tokens = max(output_tokens, count(block, "total_tokens") - input_tokens)
    read = min(count(inputs, "cached_tokens") or count(block, "prompt_cache_hit_tokens"), input_tokens)
    written = min(count(inputs, "cache_write_tokens"), input_tokens - read)
    reasoning = field(outputs, "reasoning_tokens")
    return Usage(
        uncached_input_tokens=input_tokens - read - written,
        cache_read_tokens=read,
        cache_write_5m_tokens=written,
        output_tokens=output_tokens,
        reasoning_tokens=None if reasoning is None else min(count(outputs, "reasoning_tokens"), output_tokens),
        details=_modalities(inputs, outputs, input_tokens, output_tokens),
    )


def _modalities(inputs: Any, outputs: Any, input_tokens: int, output_tokens: int) -> Mapping[str, int | float]:
    """Tokens that were not text, as parts of the input and the output."""
    cached = field(inputs, "cached_tokens_details")
    parts = {
        "input_audio_tokens": min(count(inputs, "audio_tokens"), input_tokens),
        "input_image_tokens": min(count(inputs, "image_tokens"), input_tokens),
        "output_audio_tokens": min(count(outputs, "audio_tokens"), output_tokens),
        "output_image_tokens": min(count(outputs, "image_tokens"), output_tokens),
        "cache_audio_read_tokens": count(cached, "audio_tokens"),
        "cache_image_read_tokens": count(cached, "image_tokens"),
    }
    parts = {key: tokens for key, tokens in parts.items() if tokens}
    return parts or NO_DETAILS


def web_searches_of(answer: Any) -> int:
    """The web searches of a Responses answer: as billed where it says so, else the search calls in its output."""
    tools = field(answer, "tool_usage")
    if (reported := field(tools, "web_search")) is not None:
        return count(reported, "num_requests")
    output = field(answer, "output")
    if not isinstance(output, Iterable) or isinstance(output, str):
        return 0
    return sum(1 for item in output if _is_search(item))


def _is_search(item: Any) -> bool:
    if field(item, "type") != "web_search_call" or field(item, "status") not in (None, "completed"):
        return False
    return field(field(item, "action"), "type") in (None, "search")  # opening or scanning a page costs nothing


def bill_of(answer: Any) -> Bill | None:
    """What a whole answer of any of OpenAI's APIs costs; None when it says nothing about usage, or not yet."""
    if field(answer, "status") in PENDING:
        return None
    usage = usage_of(field(answer, "usage"))
    if usage is None:
        return None
    kind = field(answer, "object")
    answer_id = field(answer, "id") if kind in ("response", "thread.run", "batch") else None
    tier = field(answer, "service_tier")
    context = {"service_tier": tier} if tier in PRICED_TIERS else None
    if kind == "batch":
        context = {"processing": "batch"}
    for extra in (_image_tool(answer), usage_of(field(answer, "svg_usage"))):
        if extra is not None:
            usage = usage + extra
    if searches := web_searches_of(answer):
        usage = usage + Usage(web_searches=searches)
    model = field(answer, "model")
    return Bill(
        usage,
        model=model if isinstance(model, str) and model else None,
        context=context,
        id=answer_id if isinstance(answer_id, str) else None,
    )


def _image_tool(answer: Any) -> Usage | None:
    """What the image tool of a Responses answer used, which is not in the answer's own usage."""
    usage = usage_of(field(field(answer, "tool_usage"), "image_gen"))
    return None if usage is None or usage.is_zero else usage
