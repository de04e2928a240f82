"""Calls of the real OpenAI clients, as the OpenAI tests make them, and what they must have cost."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from either import done, items
from openai.resources.images import Images
from openai.resources.responses import Responses
from spending import spent

from actguard.guards.budget import BudgetGuard
from actguard.testing import LoopbackProvider

MODEL = "gpt-4o-mini"
ASK: Any = {"model": MODEL, "messages": [{"role": "user", "content": "Hello there, how are you?"}]}
ASK_RESPONSES: Any = {"model": MODEL, "input": "Hello there, how are you?"}


BACKGROUND = {"background": True}
"""An ``extra_body``: older SDKs have no parameter for it."""
PARAMETERS = {
    "images": set(inspect.signature(Images.generate).parameters),
    "retrieve": set(inspect.signature(Responses.retrieve).parameters),
}
streams_images = pytest.mark.skipif("stream" not in PARAMETERS["images"], reason="this SDK does not stream images")
streams_retrieved = pytest.mark.skipif("stream" not in PARAMETERS["retrieve"], reason="this SDK does not stream these")


def helpers(client: Any) -> Any:
    """Where the client has its parse and stream helpers: older SDKs have them among the betas."""
    return client.chat.completions if hasattr(client.chat.completions, "parse") else client.beta.chat.completions


async def chat(client: Any, **more: Any) -> Any:
    """A chat completion."""
    return await done(client.chat.completions.create(**{**ASK, **more}))


async def chat_stream(client: Any, **more: Any) -> Any:
    """A streamed chat completion: the SDK's stream object."""
    return await done(client.chat.completions.create(**{**ASK, **more}, stream=True))


async def chat_chunks(client: Any, **more: Any) -> list[Any]:
    """All chunks of a streamed chat completion."""
    return await items(await chat_stream(client, **more))


def assert_charged_as_billed(budget: BudgetGuard, provider: LoopbackProvider) -> None:
    """Exactly what is on the provider's invoice, and nothing estimated."""
    billed = provider.billed
    assert billed.calls > 0
    assert spent(budget) == (
        billed.calls,
        billed.input_tokens,
        billed.cached_input_tokens,
        billed.cache_write_tokens,
        billed.output_tokens,
    )
    assert budget.estimated_usd == 0
