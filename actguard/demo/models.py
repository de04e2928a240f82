"""Three SDKs, one face: a conversation with tools, and a streamed text.

Each class is the plain use of its SDK, with nothing of ActGuard in it: that is the point. A conversation keeps the
history in the SDK's own form, since models want back exactly what they said.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from actguard.demo.story import Tool

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic
    from google.genai import Client as GoogleClient
    from openai import AsyncOpenAI

MAX_OUTPUT_TOKENS = 1_024


@dataclass(frozen=True, slots=True)
class Call:
    """A tool that the model wants called."""

    id: str
    tool: str
    arguments: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.tool}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"


@dataclass(frozen=True, slots=True)
class Turn:
    """What the model said: text, or tools to call."""

    text: str
    calls: Sequence[Call]


class Conversation(Protocol):
    """A conversation that goes on."""

    async def say(self, text: str) -> Turn:
        """Say ``text`` to the model."""

    async def report(self, results: Sequence[tuple[Call, str]]) -> Turn:
        """Give the model what its tools returned."""


class Model(Protocol):
    """A model behind some SDK."""

    def converse(self, instructions: str, tools: Sequence[Tool]) -> Conversation:
        """Begin a conversation."""

    def stream(self, instructions: str, text: str) -> AsyncIterator[str]:
        """One answer, piece by piece."""


# --- OpenAI, chat completions ---------------------------------------------------------------------------------------


class OpenAIModel:
    """A model behind ``openai.AsyncOpenAI``."""

    def __init__(self, client: AsyncOpenAI, name: str) -> None:
        self.client, self.name = client, name

    def converse(self, instructions: str, tools: Sequence[Tool]) -> Conversation:
        return _OpenAIConversation(self, instructions, tools)

    async def stream(self, instructions: str, text: str) -> AsyncIterator[str]:
        chunks = await self.client.chat.completions.create(
            model=self.name,
            messages=[{"role": "system", "content": instructions}, {"role": "user", "content": text}],
            max_completion_tokens=MAX_OUTPUT_TOKENS,
            stream=True,
        )
        async for chunk in chunks:
            if chunk.choices and chunk.choices[0].delta.content:
                yield chunk.choices[0].delta.content


class _OpenAIConversation:
    def __init__(self, model: OpenAIModel, instructions: str, tools: Sequence[Tool]) -> None:
        self._model = model
        self._messages: list[Any] = [{"role": "system", "content": instructions}]
        self._tools: list[Any] = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": _schema(tool)},
            }
            for tool in tools
        ]

    async def say(self, text: str) -> Turn:
        self._messages.append({"role": "user", "content": text})
        return await self._next()

    async def report(self, results: Sequence[tuple[Call, str]]) -> Turn:
        self._messages += [{"role": "tool", "tool_call_id": call.id, "content": text} for call, text in results]
        return await self._next()

    async def _next(self) -> Turn:
        completion = await self._model.client.chat.completions.create(
            model=self._model.name,
            messages=self._messages,
            tools=self._tools,
            max_completion_tokens=MAX_OUTPUT_TOKENS,
        )
        message = completion.choices[0].message
        self._messages.append(message.model_dump(exclude_none=True))
        calls = [
            Call(call.id, call.function.name, _arguments(call.function.arguments))
            for call in message.tool_calls or ()
            if call.type == "function"
        ]
        return Turn(message.content or "", calls)


# --- Anthropic, messages --------------------------------------------------------------------------------------------


class AnthropicModel:
    """A model behind ``anthropic.AsyncAnthropic``."""

    def __init__(self, client: AsyncAnthropic, name: str) -> None:
        self.client, self.name = client, name

    def converse(self, instructions: str, tools: Sequence[Tool]) -> Conversation:
        return _AnthropicConversation(self, instructions, tools)

    async def stream(self, instructions: str, text: str) -> AsyncIterator[str]:
        async with self.client.messages.stream(
            model=self.name,
            system=instructions,
            messages=[{"role": "user", "content": text}],
            max_tokens=MAX_OUTPUT_TOKENS,
        ) as stream:
            async for piece in stream.text_stream:
                yield piece


class _AnthropicConversation:
    def __init__(self, model: AnthropicModel, instructions: str, tools: Sequence[Tool]) -> None:
        self._model = model
        self._instructions = instructions
        self._messages: list[Any] = []
        self._tools: list[Any] = [
            {"name": tool.name, "description": tool.description, "input_schema": _schema(tool)} for tool in tools
        ]

    async def say(self, text: str) -> Turn:
        self._messages.append({"role": "user", "content": text})
        return await self._next()

    async def report(self, results: Sequence[tuple[Call, str]]) -> Turn:
        blocks = [{"type": "tool_result", "tool_use_id": call.id, "content": text} for call, text in results]
        self._messages.append({"role": "user", "content": blocks})
        return await self._next()

    async def _next(self) -> Turn:
        message = await self._model.client.messages.create(
            model=self._model.name,
            system=self._instructions,
            messages=self._messages,
            tools=self._tools,
            max_tokens=MAX_OUTPUT_TOKENS,
        )
        self._messages.append({"role": "assistant", "content": message.content})
        calls = [Call(block.id, block.name, dict(block.input)) for block in message.content if block.type == "tool_use"]
        return Turn("".join(block.text for block in message.content if block.type == "text"), calls)


# --- Google, generate_content ---------------------------------------------------------------------------------------


class GoogleModel:
    """A model behind ``google.genai.Client``."""

    def __init__(self, client: GoogleClient, name: str) -> None:
        self.client, self.name = client, name

    def converse(self, instructions: str, tools: Sequence[Tool]) -> Conversation:
        return _GoogleConversation(self, instructions, tools)

    async def stream(self, instructions: str, text: str) -> AsyncIterator[str]:
        chunks = await self.client.aio.models.generate_content_stream(
            model=self.name,
            contents=text,
            config={"system_instruction": instructions, "max_output_tokens": MAX_OUTPUT_TOKENS},
        )
        async for chunk in chunks:
            if chunk.text:
                yield chunk.text


class _GoogleConversation:
    def __init__(self, model: GoogleModel, instructions: str, tools: Sequence[Tool]) -> None:
        self._model = model
        self._contents: list[Any] = []
        declarations = [
            {
                "name": tool.name,
                "description": tool.description,
                "parameters": {
                    "type": "OBJECT",
                    "properties": {k: {"type": "STRING", "description": v} for k, v in tool.parameters.items()},
                    "required": list(tool.parameters),
                },
            }
            for tool in tools
        ]
        self._config: Any = {
            "system_instruction": instructions,
            "max_output_tokens": MAX_OUTPUT_TOKENS,
            "tools": [{"function_declarations": declarations}],
        }

    async def say(self, text: str) -> Turn:
        self._contents.append({"role": "user", "parts": [{"text": text}]})
        return await self._next()

    async def report(self, results: Sequence[tuple[Call, str]]) -> Turn:
        parts = [{"function_response": {"name": call.tool, "response": {"result": text}}} for call, text in results]
        self._contents.append({"role": "user", "parts": parts})
        return await self._next()

    async def _next(self) -> Turn:
        answer = await self._model.client.aio.models.generate_content(
            model=self._model.name, contents=self._contents, config=self._config
        )
        content = answer.candidates[0].content if answer.candidates else None
        parts = (content.parts if content is not None else None) or []
        if parts:
            self._contents.append(content)
        calls = [
            Call(part.function_call.id or "", part.function_call.name or "", dict(part.function_call.args or {}))
            for part in parts
            if part.function_call is not None
        ]
        return Turn("".join(part.text or "" for part in parts if not part.thought), calls)


def _schema(tool: Tool) -> dict[str, Any]:
    """The tool's parameters as a JSON schema."""
    return {
        "type": "object",
        "properties": {name: {"type": "string", "description": text} for name, text in tool.parameters.items()},
        "required": list(tool.parameters),
    }


def _arguments(text: str) -> dict[str, Any]:
    """A tool's arguments as a model wrote them: now and then that is not JSON."""
    try:
        arguments = json.loads(text)
    except ValueError:
        return {}
    return arguments if isinstance(arguments, dict) else {}
