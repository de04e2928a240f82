"""What an Anthropic answer says about its cost: pure readers, no client, no I/O.

They read what the SDK hands out (typed objects, or plain dicts where a caller asked for those) and what the wire
carries (decoded JSON) alike. Anthropic's counters are disjoint already: fresh input, cache writes and cache reads
never overlap. Three things are easy to miss: a stream reports the split of its cache writes only in its first event
and corrects the totals in later ones; the tokens of a server-side compaction or of an advisor model are in none of
the totals; and the service tier decides which price list applies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actguard.integrations.estimate import BYTES_PER_TOKEN
from actguard.integrations.written import Written
from actguard.money.usage import Usage

_USAGE_FIELDS = (
    "input_tokens",
    "output_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "cache_creation",
    "server_tool_use",
    "output_tokens_details",
    "service_tier",
    "speed",
    "iterations",
)
_UNTOTALLED_ITERATIONS = frozenset({"compaction", "advisor_message"})
"""Kinds of iteration whose tokens are billed on top of the block's own totals."""
_GENERATED_TEXT = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}
"""Which field of which kind of stream delta holds text that the model generated."""


def field(source: object, name: str) -> Any:
    """The value under ``name`` in a decoded JSON object or an SDK object; None when there is none."""
    return source.get(name) if isinstance(source, dict) else getattr(source, name, None)


def _count(source: object, name: str) -> int:
    value = field(source, name)
    return value if type(value) is int and value > 0 else 0


def read_usage(block: object) -> Usage | None:
    """The usage block of a message in disjoint buckets; None when it is missing or counts nothing."""
    if type(field(block, "input_tokens")) is not int and type(field(block, "output_tokens")) is not int:
        return None
    parts = [block, *_untotalled_iterations(block)]
    writes = [_cache_writes(part) for part in parts]
    details = field(block, "output_tokens_details")
    thinking = field(details, "thinking_tokens")
    output = sum(_count(part, "output_tokens") for part in parts)
    return Usage(
        uncached_input_tokens=sum(_count(part, "input_tokens") for part in parts),
        cache_read_tokens=sum(_count(part, "cache_read_input_tokens") for part in parts),
        cache_write_5m_tokens=sum(five_minutes for five_minutes, _ in writes),
        cache_write_1h_tokens=sum(one_hour for _, one_hour in writes),
        output_tokens=output,
        reasoning_tokens=None if thinking is None else min(_count(details, "thinking_tokens"), output),
        web_searches=_count(field(block, "server_tool_use"), "web_search_requests"),
    )


def _untotalled_iterations(block: object) -> list[object]:
    iterations = field(block, "iterations")
    if not isinstance(iterations, list):
        return []
    return [part for part in iterations if field(part, "type") in _UNTOTALLED_ITERATIONS and _other_model(part) is None]


def _other_model(part: object) -> str | None:
    """The model of an advisor's iteration, which has a price of its own."""
    model = field(part, "model") if field(part, "type") == "advisor_message" else None
    return model if isinstance(model, str) and model else None


def usage_of_others(block: object) -> list[tuple[str, Usage]]:
    """What other models used on the way to a message, which is in none of its totals: (model, usage) of each.

    Those are advisors, and the models that declined before a fallback answered.
    """
    iterations = field(block, "iterations")
    parts = iterations if isinstance(iterations, list) else []
    served = next((field(part, "model") for part in parts if field(part, "type") == "fallback_message"), None)
    others: list[tuple[str, Usage]] = []
    for part in parts:
        model = _other_model(part)
        if model is None and served is not None and field(part, "type") == "message":
            named = field(part, "model")
            model = named if isinstance(named, str) and named not in ("", served) else None
        usage = None if model is None else read_usage(part)
        if model is not None and usage is not None:
            others.append((model, usage))
    return others


def _cache_writes(part: object) -> tuple[int, int]:
    """Tokens written to the cache for five minutes and for an hour.

    The total decides, since a stream corrects it and leaves the split as it was.
    """
    split = field(part, "cache_creation")
    five_minutes, one_hour = _count(split, "ephemeral_5m_input_tokens"), _count(split, "ephemeral_1h_input_tokens")
    if field(part, "cache_creation_input_tokens") is None:
        return five_minutes, one_hour
    total = _count(part, "cache_creation_input_tokens")
    one_hour = min(one_hour, total)
    return total - one_hour, one_hour


def price_context(block: object, request: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Which price list applies, in genai-prices' words; empty for the standard one.

    What the answer says counts; only a speed that it is silent about is taken from the request.
    """
    context: dict[str, str] = {}
    tier = field(block, "service_tier")
    if tier == "batch":
        context["processing"] = "batch"
    elif isinstance(tier, str) and tier not in ("", "standard"):
        context["service_tier"] = tier
    speed = field(block, "speed") or field(request, "speed")
    if isinstance(speed, str) and speed != "standard":
        context["speed"] = speed
    return context


class StreamedMessage:
    """Follows the events of one streamed message and knows at any time what it has cost so far."""

    __slots__ = ("_block", "_final", "_generated_bytes", "_reported", "_texts", "_written", "complete", "model")

    def __init__(self) -> None:
        self._block: dict[str, Any] = {}
        self._generated_bytes = 0
        self._reported = 0
        self._written = Written()
        self._texts: list[str] = []
        self._final = False
        self.model: str | None = None
        """The model that answers, once the first event has named it."""
        self.complete = False
        """True once the final counters are in; what comes after them costs nothing."""

    @property
    def block(self) -> Mapping[str, Any]:
        """The usage block as known so far: that of the first event, overlaid with later counts."""
        return self._block

    @property
    def text(self) -> str:
        """The visible text received so far."""
        return "".join(self._texts)

    def feed(self, event: object) -> None:
        """Take in one event of the stream, an SDK object or decoded JSON; unknown kinds are ignored."""
        kind = field(event, "type")
        if kind == "content_block_delta":
            self._generated(field(event, "delta"))
        elif kind == "message_start":
            message = field(event, "message")
            model = field(message, "model")
            if isinstance(model, str) and model:
                self.model = model
            self._overlay(field(message, "usage"))
        elif kind == "message_delta":
            usage = field(event, "usage")
            self._overlay(usage)
            self._final = self._final or type(field(usage, "output_tokens")) is int
            if field(field(event, "delta"), "stop_reason") is not None:
                self.complete = self._final and self.counted
        elif kind == "message_stop":
            self.complete = self._final and self.counted
        elif kind == "completion":  # the text completions of old, which have no usage block
            self._wrote(field(event, "completion"), visible=True)

    def _overlay(self, usage: object) -> None:
        if usage is None:
            return
        for name in _USAGE_FIELDS:
            value = field(usage, name)
            if value is not None:
                self._block[name] = value
        self._reported = _count(self._block, "output_tokens")

    def _generated(self, delta: object) -> None:
        kind = field(delta, "type")
        name = _GENERATED_TEXT.get(kind) if isinstance(kind, str) else None
        if name is not None:
            self._wrote(field(delta, name), visible=kind == "text_delta")

    def _wrote(self, text: object, *, visible: bool) -> None:
        if not isinstance(text, str):
            return
        self._generated_bytes += len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
        self._written.add(text)
        if visible:
            self._texts.append(text)

    @property
    def counted(self) -> bool:
        """True once the provider has counted the input."""
        return type(self._block.get("input_tokens")) is int

    @property
    def output_tokens(self) -> int:
        """Output so far: exact once complete, before that at least an estimate of the text received."""
        estimate = -(-self._generated_bytes // BYTES_PER_TOKEN)
        return self._reported if self.complete or self._reported > estimate else estimate

    def usage(self) -> Usage | None:
        """Used so far: exact once complete; before that exact input and estimated output. None: nothing is known."""
        return self._with_output(self.output_tokens)

    def usage_at_least(self) -> Usage | None:
        """Used so far for certain. None: nothing is known."""
        reported = self._reported
        return self._with_output(reported if self.complete else max(reported, self._written.tokens_at_least))

    def _with_output(self, tokens: int) -> Usage | None:
        if not self._block and not self._generated_bytes:
            return None
        return read_usage({**self._block, "output_tokens": tokens})
