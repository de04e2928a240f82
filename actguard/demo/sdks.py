"""Which SDKs are installed, and how their clients are made: for the scripted provider, or with the user's key."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from actguard.demo.models import AnthropicModel, GoogleModel, Model, OpenAIModel
from actguard.exceptions import one_line
from actguard.testing import LoopbackProvider


@dataclass(frozen=True, slots=True)
class Sdk:
    """One provider's SDK."""

    name: str
    """The provider, which is also the extra of ActGuard that installs the SDK."""
    module: str
    keys: tuple[str, ...]
    """Environment variables that may hold the key."""
    scripted_model: str
    live_model: str
    """A small one, so that a demo costs a cent or two."""
    model_class: Callable[[Any, str], Model]

    @property
    def installed(self) -> bool:
        """The SDK can be imported."""
        try:
            return find_spec(self.module) is not None
        except ModuleNotFoundError:  # its parent package is missing
            return False

    @property
    def key(self) -> str | None:
        """The user's key, if there is one."""
        return next((value for name in self.keys if (value := os.environ.get(name))), None)

    def scripted(self, provider: LoopbackProvider, model: str | None = None) -> Model:
        """A model that talks to the scripted provider."""
        clients: dict[str, Callable[[], Any]] = {
            "openai": provider.async_openai,
            "anthropic": provider.async_anthropic,
            "google": provider.google,
        }
        return self.model_class(clients[self.name](), model or self.scripted_model)

    async def live(self, open_until: AsyncExitStack, model: str | None = None) -> Model:
        """A model behind the real provider, with the user's key; its client is closed with ``open_until``."""
        client = _LIVE[self.name](self.key)
        close = getattr(getattr(client, "aio", client), "aclose", None) or getattr(client, "close", None)
        if close is not None:
            open_until.push_async_callback(close)
        return self.model_class(client, model or self.live_model)


SDKS = {
    sdk.name: sdk
    for sdk in (
        Sdk("openai", "openai", ("OPENAI_API_KEY",), "gpt-6.1-sol", "gpt-5.4-mini", OpenAIModel),
        Sdk("anthropic", "anthropic", ("ANTHROPIC_API_KEY",), "claude-sonnet-5-5", "claude-haiku-4-5", AnthropicModel),
        Sdk(
            "google",
            "google.genai",
            ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
            "gemini-3.8-flash",
            "gemini-3.5-flash-lite",
            GoogleModel,
        ),
    )
}


def _openai(key: str | None) -> Any:
    from openai import AsyncOpenAI

    return AsyncOpenAI(api_key=key)


def _anthropic(key: str | None) -> Any:
    from anthropic import AsyncAnthropic

    return AsyncAnthropic(api_key=key)


def _google(key: str | None) -> Any:
    from google.genai import Client

    return Client(api_key=key, vertexai=False)


_LIVE: dict[str, Callable[[str | None], Any]] = {"openai": _openai, "anthropic": _anthropic, "google": _google}


def provider_problem(error: Exception) -> str | None:
    """What a provider's refusal means for the one who runs the demo; None when ``error`` is none.

    The provider's own words about a key can quote it, so a refused key is told in ours.
    """
    origin = type(error).__module__.partition(".")[0]
    if origin not in (*SDKS, "httpx", "httpx2", "aiohttp"):
        return None
    sdk = SDKS.get(origin)
    who = sdk.name if sdk is not None else "the provider"
    status = getattr(error, "status_code", None) or getattr(error, "code", None)
    words = str(error)
    if sdk is not None and (status in (401, 403) or "API key" in words):
        return f"{who} did not accept the key in {' or '.join(sdk.keys)}."
    for key in (sdk.key for sdk in SDKS.values() if sdk.key):
        words = words.replace(key, "…")
    return f"{who} failed ({type(error).__name__}): {one_line(words, 300)}"
