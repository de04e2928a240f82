"""From a scripted answer and a request to one definite generation: its text, its tokens, its pieces.

The arithmetic is exact on purpose: generated text has four characters a token, so what a client saw of a stream
can be compared with what was billed for it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from actguard.testing.answers import Answer, Finish, ToolCall

BYTES_PER_TOKEN = 4
FILLER = "the cat sat and saw one big red fox run far off "
"""Words of three letters: with its space, each is one token."""
MOST_PIECES = 256
ECHO_CHARACTERS = 60


def tokens_in(text: str) -> int:
    """Tokens of a text: one for every four bytes of UTF-8, the last one begun."""
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


def filler(tokens: int) -> str:
    """Text of exactly ``tokens`` tokens."""
    size = tokens * BYTES_PER_TOKEN
    return (FILLER * (size // len(FILLER) + 1))[:size]


def bytes_of_strings(value: object) -> int:
    """UTF-8 bytes of all strings inside a JSON value; keys, media and encrypted blobs are not text."""
    total = 0
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            if not item.startswith("data:"):
                total += len(item) if item.isascii() else len(item.encode())
        elif isinstance(item, Mapping):
            stack.extend(each for key, each in item.items() if key not in MEDIA_KEYS)
        elif isinstance(item, list):
            stack.extend(item)
    return total


def tokens_of_prompt(prompt: object) -> int:
    """Tokens of a prompt's text: one for every four bytes of all its strings, and at least one."""
    return max(-(-bytes_of_strings(prompt) // BYTES_PER_TOKEN), 1)


MEDIA_KEYS = frozenset(("data", "file_data", "b64_json", "encrypted_content", "signature", "thoughtSignature"))


def last_text(value: object) -> str:
    """The last text of a prompt: what the default answer echoes."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return next((found for each in reversed(value) if (found := last_text(each))), "")
    if isinstance(value, Mapping):
        keys = ("content", "parts", "text", "input", "output")
        return next((found for key in keys if key in value and (found := last_text(value[key]))), "")
    return ""


class Asked(Protocol):
    """What a generation needs to know of a request, in words that all APIs share."""

    @property
    def number(self) -> int: ...
    @property
    def model(self) -> str: ...
    @property
    def answering_model(self) -> str: ...
    @property
    def output_limit(self) -> int | None: ...
    @property
    def choices(self) -> int: ...
    def prompt(self) -> object: ...
    def schema(self) -> Mapping[str, Any] | None: ...
    def further_input_tokens(self) -> int: ...
    def default_output_tokens(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Generation:
    """What the model generates for one request. Token counts as in `Answer`."""

    answer: Answer
    number: int
    model: str
    choices: int
    text: str
    thinking: str
    tool_calls: tuple[ToolCall, ...]
    finish: Finish
    input_tokens: int
    output_tokens: int
    reasoning_tokens: int

    @property
    def uncached_input_tokens(self) -> int:
        """Input that neither came from a cache nor was written to one."""
        return self.input_tokens - self.answer.cached_input_tokens - self.cache_write_tokens

    @property
    def cache_write_tokens(self) -> int:
        """Input written to a cache, for whatever time."""
        return self.answer.cache_write_5m_tokens + self.answer.cache_write_1h_tokens

    @property
    def total_tokens(self) -> int:
        """Input plus output."""
        return self.input_tokens + self.output_tokens

    def call_id(self, index: int, prefix: str = "call") -> str:
        """The id of a tool call."""
        return self.tool_calls[index].id or f"{prefix}_{self.number:06d}_{index}"

    def pieces(self, text: str) -> list[str]:
        """``text`` as a stream sends it, cut between tokens where that is possible."""
        units = tokens_in(text)
        count = self.answer.chunks or min(units, MOST_PIECES)
        if count <= 1 or not text:
            return [text] if text else []
        if count > units:
            edges = [index * len(text) // count for index in range(count)]
        else:
            step = BYTES_PER_TOKEN if text.isascii() else len(text) / units
            edges = [round((index * units // count) * step) for index in range(count)]
        edges.append(len(text))
        return [text[start:end] for start, end in itertools.pairwise(edges) if end > start]


class Meter:
    """Tokens generated so far, while a stream is sent: the output divided evenly over its characters.

    Reasoning that the API does not show was generated before the first piece.
    """

    def __init__(self, generation: Generation, shown: int, thinking_shown: bool) -> None:
        thinking = tokens_in(generation.thinking) if thinking_shown else 0
        self._total = generation.output_tokens
        self._hidden = min(max(generation.reasoning_tokens - thinking, 0), self._total)
        self._shown = shown
        self._sent = 0

    def after(self, piece: str) -> int:
        """Tokens generated once ``piece`` is out too."""
        self._sent += len(piece)
        if self._sent >= self._shown:
            return self._total
        return self._hidden + (self._total - self._hidden) * self._sent // self._shown


def generate(answer: Answer, asked: Asked) -> Generation:
    """Work out everything that the answer leaves open."""
    text, finish, reasoning = _text(answer, asked)
    calls = tuple(answer.tool_calls)
    thinking = answer.thinking or ""
    if calls and finish == "stop":
        finish = "tool_calls"
    output = answer.output_tokens
    if output is None:
        output = asked.default_output_tokens()
    if output is None:
        visible = tokens_in(text) + sum(tokens_in(call.name) + tokens_in(call.json) for call in calls)
        output = asked.choices * visible + reasoning
    cached = answer.cached_input_tokens + answer.cache_write_5m_tokens + answer.cache_write_1h_tokens
    total_input = answer.input_tokens
    if total_input is None:
        total_input = tokens_of_prompt(asked.prompt()) + asked.further_input_tokens() + cached
    return Generation(
        answer=answer,
        number=asked.number,
        model=answer.model or asked.answering_model,
        choices=asked.choices,
        text=text,
        thinking=thinking,
        tool_calls=calls,
        finish=finish,
        input_tokens=max(total_input, cached),
        output_tokens=output,
        reasoning_tokens=min(reasoning, output),
    )


def _text(answer: Answer, asked: Asked) -> tuple[str, Finish, int]:
    """Text, finish and reasoning tokens; generated text keeps to the request's output limit, reasoning included."""
    reasoning = answer.reasoning_tokens
    if reasoning is None:
        reasoning = tokens_in(answer.thinking or "")
    limit = asked.output_limit
    if answer.text is not None:
        return answer.text, answer.finish, reasoning
    if answer.generate is not None:
        wanted = answer.generate if limit is None else min(answer.generate, limit)
        reasoning = min(reasoning, wanted)
        finish: Finish = "length" if wanted < answer.generate else answer.finish
        return filler(wanted - reasoning), finish, reasoning
    if answer.tool_calls:
        return "", answer.finish, reasoning
    if answer.output_tokens is not None:
        return filler(max(answer.output_tokens - reasoning, 0) // asked.choices), answer.finish, reasoning
    if asked.default_output_tokens() is not None:
        return "", answer.finish, reasoning
    schema = asked.schema()
    if schema is not None:
        return json.dumps(example_of(schema)), answer.finish, reasoning
    echo = f"You said: {last_text(asked.prompt())[:ECHO_CHARACTERS]}"
    if limit is not None and tokens_in(echo) > limit:
        return echo.encode()[: limit * BYTES_PER_TOKEN].decode(errors="ignore"), "length", reasoning
    return echo, answer.finish, reasoning


def example_of(schema: Mapping[str, Any], root: Mapping[str, Any] | None = None) -> Any:
    """The smallest value that a JSON schema admits, so that structured outputs parse without a script."""
    root = schema if root is None else root
    if "$ref" in schema:
        target: Any = root
        for part in str(schema["$ref"]).removeprefix("#/").split("/"):
            target = target[part]
        return example_of(target, root)
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    if schema.get("enum"):
        return schema["enum"][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return example_of(schema[key][0], root)
    kind = schema.get("type")
    kind = str(kind[0] if isinstance(kind, list) else kind).lower()
    if kind == "object" or "properties" in schema:
        return {name: example_of(each, root) for name, each in schema.get("properties", {}).items()}
    if kind == "array":
        return [example_of(schema.get("items", {}), root) for _ in range(int(schema.get("minItems", 0)))]
    simple: dict[str, Any] = {"integer": 0, "number": 0.5, "boolean": True, "null": None}
    return simple.get(kind, "text")
