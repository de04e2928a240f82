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

PRICED_TIERS = ("flex", "priority", "fast")
"""Service tiers with prices of their own; every other name is billed at the usual rates."""
TOO_MANY = 2**53
"""No provider counts as far as this."""
_TOTALS = ("prompt_tokens", "input_tokens", "completion_tokens", "output_tokens", "total_tokens")
_MODALITIES = (("audio", "audio_tokens"), ("image", "image_tokens"))
PENDING = ("queued", "in_progress", "requires_action", "cancelling", "validating", "finalizing")
"""An answer with this status is not finished: its usage is not final."""
FETCHABLE = ("response", "thread.run", "batch", "realtime.response")
"""Kinds of answers that have an id under which they can be seen again."""


def fields_of(thing: Any) -> Mapping[str, Any]:
    """The fields of a model of the SDK, or of parsed JSON; nothing of anything else. Runs thrice per streamed chunk."""
    if type(thing) is dict:
        return thing
    try:
        extra = thing.__pydantic_extra__  # where compatible servers' own fields end up
    except AttributeError:
        return thing if isinstance(thing, Mapping) else getattr(thing, "__dict__", {})
    return {**extra, **thing.__dict__} if extra else thing.__dict__


def field(thing: Any, *names: str) -> Any:
    """The first of these fields that is there and not None."""
    values = fields_of(thing)
    for name in names:
        value = values.get(name)
        if value is not None:
            return value
    return None


def count(fields: Mapping[str, Any], *names: str) -> int:
    """The first of these fields that is a count; zero where none is."""
    for name in names:
        value = fields.get(name)
        if type(value) is int and 0 <= value < TOO_MANY:  # the same as `is_count` of nearly every count
            return value
        if value is not None and is_count(value):
            return int(value)
    return 0


def is_count(value: Any) -> bool:
    """True for what can be a number of tokens, or of anything else that is counted."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < TOO_MANY


def usage_of(block: Any) -> Usage | None:
    """The usage that a usage block reports; None when it reports none, or none that can be right."""
    if block is None:
        return None
    block = fields_of(block)
    if block.get("type") == "duration":
        seconds = block.get("seconds")
        return Usage(details={"audio_seconds": seconds}) if is_count(seconds) else None
    input_tokens = count(block, "prompt_tokens", "input_tokens")
    # Some compatible servers leave reasoning out of the output, and show it in the total only. It is billed as output.
    output_tokens = max(count(block, "completion_tokens", "output_tokens"), count(block, "total_tokens") - input_tokens)
    if not (input_tokens or output_tokens or any(is_count(block.get(name)) for name in _TOTALS)):
        return None
    inputs = _details(
        block.get("prompt_tokens_details")
        or block.get("input_tokens_details")
        or block.get("input_token_details")
        or block.get("prompt_token_details")
    )
    outputs = _details(
        block.get("completion_tokens_details")
        or block.get("output_tokens_details")
        or block.get("output_token_details")
    )
    read = min(count(inputs, "cached_tokens") or count(block, "prompt_cache_hit_tokens"), input_tokens)
    written = min(count(inputs, "cache_write_tokens"), input_tokens - read)
    reasoning = None
    if outputs.get("reasoning_tokens") is not None:
        reasoning = min(count(outputs, "reasoning_tokens"), output_tokens)
    details = _modalities(inputs, outputs, input_tokens, output_tokens)
    return Usage(input_tokens - read - written, read, written, 0, output_tokens, reasoning, 0, details)


def _details(block: Any) -> Mapping[str, Any]:
    """The part of a usage block that goes into detail."""
    return fields_of(block) if block else {}


def _modalities(
    inputs: Mapping[str, Any], outputs: Mapping[str, Any], input_tokens: int, output_tokens: int
) -> Mapping[str, int | float]:
    """Tokens that were not text, as parts of the input and the output."""
    parts: dict[str, int | float] = {}
    for fields, whole, kind in ((inputs, input_tokens, "input"), (outputs, output_tokens, "output")):
        for modality, name in _MODALITIES if fields else ():
            if fields.get(name) and (tokens := min(count(fields, name), whole)):
                parts[f"{kind}_{modality}_tokens"] = tokens
    if inputs.get("cached_tokens_details") is not None:
        cached = fields_of(inputs["cached_tokens_details"])
        for modality in ("audio", "image"):
            if tokens := count(cached, f"{modality}_tokens"):
                parts[f"cache_{modality}_read_tokens"] = tokens
    return parts or NO_DETAILS


def web_searches_of(answer: Any) -> int:
    """The web searches of a Responses answer: as billed where it says so, else the search calls in its output."""
    tools = field(answer, "tool_usage")
    if (reported := field(tools, "web_search")) is not None:
        return count(fields_of(reported), "num_requests")
    output = field(answer, "output")
    if not isinstance(output, Iterable) or isinstance(output, str):
        return 0
    return sum(1 for item in output if _is_search(item))


def _is_search(item: Any) -> bool:
    if field(item, "type") != "web_search_call" or field(item, "status") not in (None, "completed"):
        return False
    return field(field(item, "action"), "type") in (None, "search")  # opening or scanning a page costs nothing


def context_of(tier: object) -> dict[str, str] | None:
    """The price context of a service tier; None where the standard prices apply."""
    return {"service_tier": tier} if isinstance(tier, str) and tier in PRICED_TIERS else None


def bill_of(answer: Any) -> Bill | None:
    """What a whole answer of any of OpenAI's APIs costs; None when it says nothing about usage, or not yet."""
    answer = fields_of(answer)
    usage = usage_of(answer.get("usage"))
    if usage is None or answer.get("status") in PENDING:
        return None
    kind, model, tier = answer.get("object"), answer.get("model"), answer.get("service_tier")
    context = context_of(tier)
    answer_id = None
    if kind in FETCHABLE:
        answer_id = answer.get("id")
        usage = _with_tools(usage, answer)
        if kind == "batch":
            context = {"processing": "batch"}
    if (drawing := usage_of(answer.get("svg_usage"))) is not None:
        usage = usage + drawing
    return Bill(
        usage,
        model=model if isinstance(model, str) and model else None,
        context=context,
        id=answer_id if isinstance(answer_id, str) else None,
    )


def _with_tools(usage: Usage, answer: Mapping[str, Any]) -> Usage:
    """Adds what the provider's own tools used, which is not in an answer's own usage."""
    image = usage_of(field(answer.get("tool_usage"), "image_gen"))
    if image is not None and not image.is_zero:
        usage = usage + image
    if searches := web_searches_of(answer):
        usage = usage + Usage(web_searches=searches)
    output = answer.get("output")
    if isinstance(output, list) and (tools := _other_tools(output)):
        usage = usage + Usage(details=tools)
    return usage


def _other_tools(output: Iterable[Any]) -> dict[str, int]:
    """What else is billed by the piece: searches in files, and the containers in which code was run."""
    searches, containers = 0, set()
    for item in output:
        kind = field(item, "type")
        if kind == "file_search_call" and field(item, "status") in (None, "completed"):
            searches += 1
        elif kind == "code_interpreter_call":
            containers.add(field(item, "container_id"))
    counts = {"storage_searches": searches, "code_executions": len(containers)}
    return {key: number for key, number in counts.items() if number}
