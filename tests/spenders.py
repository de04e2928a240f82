"""Calls of the real SDK clients that cost something, one for each API and form, as functions that make one call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from either import done, items, within

from actguard.testing import LoopbackProvider

QUESTION = "Hello there, how are you?"
MESSAGES: Any = [{"role": "user", "content": QUESTION}]
OPENAI_MODEL = "gpt-4o-mini"
ANTHROPIC_MODEL = "claude-haiku-4-5"
GOOGLE_MODEL = "gemini-2.5-flash"
NO_LIMIT = 60_000
"""An output limit for APIs that want one, higher than any budget in these tests."""


class Spender(NamedTuple):
    """One way to spend: ``await spender.call(client)`` makes a call and reads its answer to the end."""

    client: Callable[[LoopbackProvider, str], Any]
    """(provider, "sync" or "async") → a client."""
    call: Callable[..., Awaitable[Any]]
    streams: bool = False


def openai_client(provider: LoopbackProvider, kind: str, **settings: Any) -> Any:
    return provider.openai(**settings) if kind == "sync" else provider.async_openai(**settings)


def anthropic_client(provider: LoopbackProvider, kind: str, **settings: Any) -> Any:
    return provider.anthropic(**settings) if kind == "sync" else provider.async_anthropic(**settings)


def google_client(provider: LoopbackProvider, kind: str, **settings: Any) -> Any:
    client = provider.google(**settings)
    return client if kind == "sync" else client.aio


async def chat(client: Any, **more: Any) -> Any:
    return await done(client.chat.completions.create(model=OPENAI_MODEL, messages=MESSAGES, **more))


async def chat_stream(client: Any, **more: Any) -> Any:
    return await items(await chat(client, stream=True, **more))


async def chat_raw(client: Any, **more: Any) -> Any:
    raw = client.chat.completions.with_raw_response
    return await done((await done(raw.create(model=OPENAI_MODEL, messages=MESSAGES, **more))).parse())


async def completion(client: Any, **more: Any) -> Any:
    more = {"max_tokens": NO_LIMIT, **more}
    return await done(client.completions.create(model="gpt-3.5-turbo-instruct", prompt=QUESTION, **more))


async def response(client: Any, **more: Any) -> Any:
    return await done(client.responses.create(model=OPENAI_MODEL, input=QUESTION, **more))


async def response_stream(client: Any, **more: Any) -> Any:
    return await items(await response(client, stream=True, **more))


async def message(client: Any, **more: Any) -> Any:
    more = {"max_tokens": NO_LIMIT, "timeout": 30, **more}
    return await done(client.messages.create(model=ANTHROPIC_MODEL, messages=MESSAGES, **more))


async def message_stream(client: Any, **more: Any) -> Any:
    return await items(await message(client, stream=True, **more))


async def message_helper(client: Any, **more: Any) -> Any:
    more = {"max_tokens": NO_LIMIT, **more}
    async with within(client.messages.stream(model=ANTHROPIC_MODEL, messages=MESSAGES, **more)) as stream:
        return await done(stream.get_final_message())


async def beta_message(client: Any, **more: Any) -> Any:
    more = {"max_tokens": NO_LIMIT, "timeout": 30, **more}
    return await done(client.beta.messages.create(model=ANTHROPIC_MODEL, messages=MESSAGES, **more))


async def content(client: Any, **config: Any) -> Any:
    more = {"config": config} if config else {}
    return await done(client.models.generate_content(model=GOOGLE_MODEL, contents=QUESTION, **more))


async def content_stream(client: Any, **config: Any) -> Any:
    more = {"config": config} if config else {}
    return await items(await done(client.models.generate_content_stream(model=GOOGLE_MODEL, contents=QUESTION, **more)))


SPENDERS: dict[str, Spender] = {
    "chat": Spender(openai_client, chat),
    "chat stream": Spender(openai_client, chat_stream, streams=True),
    "chat raw": Spender(openai_client, chat_raw),
    "completion": Spender(openai_client, completion),
    "response": Spender(openai_client, response),
    "response stream": Spender(openai_client, response_stream, streams=True),
    "message": Spender(anthropic_client, message),
    "message stream": Spender(anthropic_client, message_stream, streams=True),
    "message helper": Spender(anthropic_client, message_helper, streams=True),
    "beta message": Spender(anthropic_client, beta_message),
    "content": Spender(google_client, content),
    "content stream": Spender(google_client, content_stream, streams=True),
}
