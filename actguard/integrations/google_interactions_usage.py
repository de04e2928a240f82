"""What an interaction says about its cost, asked for and answered; as decoded JSON or as the SDK's own models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actguard.integrations.estimate import IMAGE_TOKENS, text_tokens
from actguard.integrations.google_grounding import grounding
from actguard.integrations.google_usage import count, price_context, read_usage, text_bytes
from actguard.integrations.metering import Bill, Deferred, Outcome, Request
from actguard.integrations.prompts import FILE_TOKENS, base64_tokens, estimated_input
from actguard.integrations.streams import StreamReader
from actguard.integrations.written import Written, input_at_least
from actguard.money.usage import Usage

PROMPT_FIELDS = ("input", "system_instruction", "tools")
MEDIA_TYPES = frozenset({"image", "audio", "video", "document", "file"})
RUNNING = frozenset({"in_progress", "queued"})
_COUNTS = {
    "promptTokenCount": "total_input_tokens",
    "cachedContentTokenCount": "total_cached_tokens",
    "candidatesTokenCount": "total_output_tokens",
    "thoughtsTokenCount": "total_thought_tokens",
    "toolUsePromptTokenCount": "total_tool_use_tokens",
}
_SPLITS = {
    "promptTokensDetails": "input_tokens_by_modality",
    "cacheTokensDetails": "cached_tokens_by_modality",
    "candidatesTokensDetails": "output_tokens_by_modality",
    "toolUsePromptTokensDetails": "tool_use_tokens_by_modality",
}
_NOT_WRITTEN = frozenset({"type", "signature", "mime_type", "data"})
"""Fields of a delta that are no text of the model's."""


def as_mapping(value: Any) -> Mapping[str, Any]:
    """Decoded JSON as it is, an SDK's model as its fields."""
    if isinstance(value, Mapping):
        return value
    dump = getattr(value, "model_dump", None)
    fields = dump(mode="json") if callable(dump) else None
    return fields if isinstance(fields, Mapping) else {}


def usage_of(interaction: Mapping[str, Any]) -> Usage | None:
    """The usage block of an interaction; None without counts. It counts like the rest of Google, in other words."""
    block = interaction.get("usage")
    if not isinstance(block, Mapping):
        return None
    counts = {name: count(block, theirs) for name, theirs in _COUNTS.items() if block.get(theirs) is not None}
    splits = {
        name: [
            {"modality": entry.get("modality"), "tokenCount": entry.get("tokens")}
            for entry in block.get(theirs) or ()
            if isinstance(entry, Mapping)
        ]
        for name, theirs in _SPLITS.items()
    }
    usage = read_usage({**counts, **splits})
    searches = sum(
        count(entry, "count")
        for entry in block.get("grounding_tool_count") or ()
        if isinstance(entry, Mapping) and entry.get("type") == "google_search"
    )
    return None if usage is None else usage + grounding(searches, str(interaction.get("model")))


def request_of(body: Mapping[str, Any], estimate: Usage, stream: bool) -> Request:
    """What the request says about its cost."""
    config = body.get("generation_config")
    limit = config.get("max_output_tokens") if isinstance(config, Mapping) else None
    return Request(
        model=str(body.get("model") or body.get("agent") or "unknown"),
        api="interactions",
        stream=stream,
        estimate=estimate,
        output_limit=limit if type(limit) is int and limit > 0 else None,
    )


def estimate_of(body: Mapping[str, Any]) -> Usage:
    """The input as estimated from the request. What an earlier interaction adds to it is unknown."""
    return estimated_input((body.get(name) for name in PROMPT_FIELDS), _media_tokens)


def _media_tokens(part: Mapping[str, Any]) -> int | None:
    if part.get("type") not in MEDIA_TYPES or not ("data" in part or "uri" in part):
        return None
    if part["type"] == "image":
        return IMAGE_TOKENS
    return base64_tokens(part["data"], part.get("mime_type")) if part.get("data") else FILE_TOKENS


def outcome_of_interaction(answer: Any, body: Mapping[str, Any], estimate: Usage) -> Outcome:
    """What a whole interaction costs: its counts, later in the background, or an estimate."""
    interaction = as_mapping(answer)
    usage, answer_id = usage_of(interaction), interaction.get("id") or None
    context = price_context({"serviceTier": interaction.get("service_tier")}, {"serviceTier": body.get("service_tier")})
    model = interaction.get("model") or None
    if usage is not None:
        return Bill(usage, model=model, context=context, id=answer_id)
    if interaction.get("status") in RUNNING and answer_id:
        return Deferred(answer_id)
    written = text_tokens(text_bytes(interaction.get("steps") or interaction.get("outputs")))
    return Bill(estimate + Usage(output_tokens=written), model=model, context=context, estimated=True)


class InteractionReader(StreamReader):
    """Reads the events of a streamed interaction along: only the last one has counts."""

    def __init__(self, body: Mapping[str, Any], estimate: Usage) -> None:
        self._body = body
        self._estimate = estimate
        self._interaction: Mapping[str, Any] = {}
        self._texts: list[str] = []
        self._written = 0
        self._shown = Written()

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def feed(self, item: Any) -> bool:
        event = as_mapping(item)
        interaction, delta = event.get("interaction"), event.get("delta")
        if isinstance(interaction, Mapping):
            self._interaction = {**self._interaction, **{k: v for k, v in interaction.items() if v is not None}}
        if isinstance(delta, Mapping):
            text = delta.get("text")
            if isinstance(text, str) and delta.get("type") in (None, "text"):
                self._texts.append(text)
                self._shown.add(text)
            self._written += text_bytes({name: part for name, part in delta.items() if name not in _NOT_WRITTEN})
            self.output_seen = text_tokens(self._written)
        return True

    def bill(self, complete: bool) -> Outcome:
        outcome = outcome_of_interaction({**self._interaction, "status": None}, self._body, self._estimate)
        if not isinstance(outcome, Bill) or not outcome.estimated:
            return outcome
        usage = self._estimate + Usage(output_tokens=text_tokens(self._written))
        return Bill(usage, model=outcome.model, context=outcome.context, estimated=True)

    def at_least(self) -> Usage:
        outcome = outcome_of_interaction({**self._interaction, "status": None}, self._body, self._estimate)
        if isinstance(outcome, Bill) and not outcome.estimated:
            return outcome.usage
        return input_at_least(self._estimate) + Usage(output_tokens=self._shown.tokens_at_least)
