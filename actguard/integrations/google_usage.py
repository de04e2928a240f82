"""What a Gemini answer says about its cost: pure readers of decoded JSON, no client, no I/O.

Gemini's prompt count includes what was read from the cache; thoughts and the prompts of server-side tools come on top
of the counts that seem to be totals. Audio, images and video have prices of their own, so the split by modality is
kept. In a stream every chunk may carry a usage block: each replaces the one before, and adding them up would charge
the prompt many times.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from actguard.integrations.estimate import BYTES_PER_TOKEN
from actguard.integrations.written import Written
from actguard.money.usage import Usage

_COUNTS = ("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount", "toolUsePromptTokenCount")
_INPUT_COUNTS = ("promptTokenCount", "toolUsePromptTokenCount")
_MODALITIES = {"AUDIO": "audio", "IMAGE": "image", "DOCUMENT": "image", "VIDEO": "video"}
"""Modalities that prices tell apart; pages of a document are billed as images, the rest is text."""
_TIERS = {"flex": "flex", "priority": "priority", "on_demand_flex": "flex", "on_demand_priority": "priority"}
"""How the Gemini API (``serviceTier``) and Vertex (``trafficType``) name the tiers that have a price of their own."""


def count(source: object, name: str) -> int:
    """The positive whole number under ``name``; 0 for anything else."""
    value = source.get(name) if isinstance(source, Mapping) else None
    return value if type(value) is int and value > 0 else 0


def read_usage(block: object) -> Usage | None:
    """A ``usageMetadata`` block in disjoint buckets; None when it is missing or has no counts."""
    if not isinstance(block, Mapping) or not any(count(block, name) for name in _COUNTS):
        return None
    prompt = count(block, "promptTokenCount")
    cached = min(count(block, "cachedContentTokenCount"), prompt)
    total_input = prompt + count(block, "toolUsePromptTokenCount")
    thoughts = count(block, "thoughtsTokenCount")
    output = count(block, "candidatesTokenCount") + thoughts
    inputs = _by_modality(
        _entries(block, "promptTokensDetails", "promptTokenDetails", "toolUsePromptTokensDetails"), at_most=total_input
    )
    reads = _cached_by_modality(_entries(block, "cacheTokensDetails"), inputs, cached, total_input)
    outputs = _by_modality(_entries(block, "candidatesTokensDetails", "responseTokensDetails"), at_most=output)
    details: dict[str, int | float] = {}
    for pattern, counts in (
        ("input_{}_tokens", inputs),
        ("cache_{}_read_tokens", reads),
        ("output_{}_tokens", outputs),
    ):
        details.update({pattern.format(modality): tokens for modality, tokens in counts.items()})
    return Usage(
        uncached_input_tokens=total_input - cached,
        cache_read_tokens=cached,
        output_tokens=output,
        reasoning_tokens=thoughts if "thoughtsTokenCount" in block else None,
        details=details,
    )


def read_live_usage(block: Mapping[str, Any]) -> Usage | None:
    """The same of a live session, which has another word for what was generated."""
    counts = dict(block)
    if "responseTokenCount" in counts:
        counts["candidatesTokenCount"] = counts["responseTokenCount"]
    return read_usage(counts)


def _entries(block: Mapping[str, Any], *names: str) -> Iterable[object]:
    for name in names:
        entries = block.get(name)
        if isinstance(entries, list):
            yield from entries


def _by_modality(entries: Iterable[object], *, at_most: int) -> dict[str, int]:
    """Tokens by priced modality; never more in sum than the bucket they are parts of."""
    tokens: dict[str, int] = {}
    for entry in entries:
        modality = _MODALITIES.get(str(entry.get("modality")).upper()) if isinstance(entry, Mapping) else None
        part = min(count(entry, "tokenCount"), at_most)
        if modality is not None and part:
            tokens[modality] = tokens.get(modality, 0) + part
            at_most -= part
    return tokens


def _cached_by_modality(
    entries: Iterable[object], inputs: Mapping[str, int], cached: int, total: int
) -> dict[str, int]:
    """Cache reads of each modality that was sent, zeros included, within what was sent and consistent with the totals.

    The cache's own split may be missing. What cannot have been text then is attributed to the other modalities, since
    contradictory parts could not be priced; nor can parts of which one is missing, hence the zeros.
    """
    found = _by_modality(entries, at_most=cached)
    reads = {modality: min(tokens, found.get(modality, 0)) for modality, tokens in inputs.items()} if cached else {}
    excess = (cached - sum(reads.values())) - (total - sum(inputs.values()))
    for modality in reads:
        moved = max(min(excess, inputs[modality] - reads[modality]), 0)
        reads[modality] += moved
        excess -= moved
    return reads


def price_context(block: object, request: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Which price list applies, in genai-prices' words; empty for the standard one.

    The tier that served the request is in the answer; the one asked for is used only when the answer is silent.
    """
    for source, name in ((block, "serviceTier"), (block, "trafficType"), (request, "serviceTier")):
        tier = source.get(name) if isinstance(source, Mapping) else None
        if isinstance(tier, str) and tier:
            mapped = _TIERS.get(tier.lower())
            return {"service_tier": mapped} if mapped else {}
    return {}


def model_of(answer: object) -> str | None:
    """The model that answered, as far as the answer names it."""
    model = answer.get("modelVersion") if isinstance(answer, Mapping) else None
    return model if isinstance(model, str) and model else None


def read_embeddings_usage(answer: object) -> Usage | None:
    """What an embedding call used: its usage block, or the sum of Vertex's statistics per text; None without either."""
    if not isinstance(answer, Mapping):
        return None
    usage = read_usage(answer.get("usageMetadata"))
    if usage is not None:
        return usage
    tokens = 0
    for prediction in _entries(answer, "predictions"):
        embeddings = prediction.get("embeddings") if isinstance(prediction, Mapping) else None
        statistics = embeddings.get("statistics") if isinstance(embeddings, Mapping) else None
        tokens += _whole(statistics.get("token_count")) if isinstance(statistics, Mapping) else 0
    return Usage(uncached_input_tokens=tokens) if tokens else None


def _whole(value: object) -> int:
    """A count that travels through protobuf's number type and so may arrive as a float."""
    return int(value) if type(value) in (int, float) and value > 0 else 0  # type: ignore[operator, call-overload]


def generated_text(answer: object) -> tuple[str, int]:
    """The visible text of an answer or chunk, and the UTF-8 bytes of all that the model wrote in it.

    Thoughts, code and the arguments of function calls are written too, but are no part of the text.
    """
    texts: list[str] = []
    size = 0
    for candidate in _entries(answer, "candidates") if isinstance(answer, Mapping) else ():
        content = candidate.get("content") if isinstance(candidate, Mapping) else None
        for part in _entries(content, "parts") if isinstance(content, Mapping) else ():
            if not isinstance(part, Mapping):
                continue
            text = part.get("text")
            if isinstance(text, str):
                size += len(text.encode("utf-8", "replace"))
                if not part.get("thought"):
                    texts.append(text)
            for written in (part.get("functionCall"), part.get("executableCode")):
                size += text_bytes(written)
    return "".join(texts), size


def text_bytes(value: object) -> int:
    """UTF-8 bytes of all strings inside decoded JSON, keys left out."""
    size = 0
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            size += len(item.encode("utf-8", "replace"))
        elif isinstance(item, Mapping):
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
    return size


class StreamedContent:
    """Follows the chunks of one streamed answer and knows at any time what it has cost so far."""

    __slots__ = ("_block", "_finished", "_generated_bytes", "_highest", "_texts", "_written", "complete", "model")

    def __init__(self) -> None:
        self._block: Mapping[str, Any] = {}
        self._written = Written()
        self._highest: dict[str, int] = {}
        self._generated_bytes = 0
        self._texts: list[str] = []
        self._finished = False
        self.model: str | None = None
        """The model that answers, once a chunk has named it."""
        self.complete = False
        """True once the model has finished and counts have come with or after that."""

    @property
    def block(self) -> Mapping[str, Any]:
        """The latest usage block that had counts."""
        return self._block

    @property
    def text(self) -> str:
        """The visible text received so far."""
        return "".join(self._texts)

    @property
    def refused(self) -> bool:
        """True when the prompt was refused: without counts, that is free."""
        return self._finished and not self._block and not self._generated_bytes

    def feed(self, chunk: object) -> None:
        """Take in one decoded chunk; anything else is ignored."""
        if not isinstance(chunk, Mapping):
            return
        self.model = model_of(chunk) or self.model
        text, size = generated_text(chunk)
        if text:
            self._texts.append(text)
            self._written.add(text)
        self._generated_bytes += size
        self._finished = self._finished or _is_finished(chunk)
        block = chunk.get("usageMetadata")
        if not isinstance(block, Mapping) or not any(count(block, name) for name in _COUNTS):
            return
        self._block = dict(block)  # up to 1.20 the chunk is what the SDK goes on to change
        for name in _COUNTS:
            if name in block:
                self._highest[name] = max(self._highest.get(name, 0), count(block, name))
        self.complete = self._finished

    @property
    def output_tokens(self) -> int:
        """Output so far, thoughts included: the highest counts, and at least an estimate of the text received."""
        highest = self._highest
        reported = highest.get("candidatesTokenCount", 0) + highest.get("thoughtsTokenCount", 0)
        return max(reported, -(-self._generated_bytes // BYTES_PER_TOKEN))

    def usage(self) -> Usage | None:
        """Used so far: exact once complete, since the last counts replace all before them.

        Until then the highest of each count, as they fall back around server-side tools, and at least an estimate of
        the text received. None before anything has arrived.
        """
        if self.complete:
            return read_usage(self._block)
        written = self.output_tokens - self._highest.get("thoughtsTokenCount", 0)
        return read_usage({**self._block, **self._highest, "candidatesTokenCount": written})

    def usage_at_least(self) -> Usage | None:
        """Used so far for certain. None before anything has arrived.

        The latest counts of output, or what the text has at the least. Of the input only a half: some models report
        more in the middle of a stream than at its end.
        """
        if self.complete:
            return read_usage(self._block)
        block, least = self._block, self._written.tokens_at_least
        halves = {name: count(block, name) // 2 for name in _INPUT_COUNTS if name in block}
        return read_usage({**block, **halves, "candidatesTokenCount": max(count(block, "candidatesTokenCount"), least)})


def _is_finished(chunk: Mapping[str, Any]) -> bool:
    return bool(chunk.get("promptFeedback")) or any(
        isinstance(candidate, Mapping) and candidate.get("finishReason") for candidate in _entries(chunk, "candidates")
    )
