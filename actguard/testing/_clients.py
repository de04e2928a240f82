"""SDK clients that talk to a loopback provider: the real ones, with its address, made-up keys and no retries."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import anthropic as anthropic_sdk
    import openai as openai_sdk
    from google import genai

T = TypeVar("T")

KEY = "loopback"
AWS: dict[str, Any] = {"aws_access_key": KEY, "aws_secret_key": KEY, "aws_region": "us-east-1"}
VERTEX: dict[str, Any] = {"access_token": KEY, "project_id": KEY, "region": "us-east5"}


class Clients:
    """The constructors. Keyword arguments are passed on to the SDK's own and win over what is set here.

    Each needs its SDK, which is imported by the call. Clients are closed with the provider.
    """

    _root: str

    def __init__(self) -> None:
        self._clients: list[Any] = []

    @property
    def openai_url(self) -> str:
        """``base_url`` of ``openai.OpenAI``."""
        return self._url("/openai/v1")

    @property
    def azure_url(self) -> str:
        """``azure_endpoint`` of ``openai.AzureOpenAI``."""
        return self._url("/azure")

    @property
    def anthropic_url(self) -> str:
        """``base_url`` of ``anthropic.Anthropic``."""
        return self._url("/anthropic")

    @property
    def bedrock_url(self) -> str:
        """``base_url`` of ``anthropic.AnthropicBedrock``."""
        return self._url("/bedrock")

    @property
    def vertex_anthropic_url(self) -> str:
        """``base_url`` of ``anthropic.AnthropicVertex``."""
        return self._url("/vertex-anthropic/v1")

    @property
    def google_url(self) -> str:
        """``http_options.base_url`` of ``google.genai.Client``."""
        return self._url("/google/")

    @property
    def vertex_url(self) -> str:
        """``http_options.base_url`` of ``google.genai.Client(vertexai=True)``."""
        return self._url("/vertex/")

    def openai(self, **kwargs: Any) -> openai_sdk.OpenAI:
        """A synchronous OpenAI client."""
        from openai import OpenAI

        settings: dict[str, Any] = {"base_url": self.openai_url, "api_key": KEY, "max_retries": 0, **kwargs}
        return self._made(OpenAI(**settings))

    def async_openai(self, **kwargs: Any) -> openai_sdk.AsyncOpenAI:
        """An asynchronous OpenAI client."""
        from openai import AsyncOpenAI

        settings: dict[str, Any] = {"base_url": self.openai_url, "api_key": KEY, "max_retries": 0, **kwargs}
        return self._made(AsyncOpenAI(**settings))

    def azure(self, **kwargs: Any) -> openai_sdk.AzureOpenAI:
        """A synchronous Azure OpenAI client; the model of a call is the name of a deployment."""
        from openai import AzureOpenAI

        return self._made(AzureOpenAI(**self._azure(kwargs)))

    def async_azure(self, **kwargs: Any) -> openai_sdk.AsyncAzureOpenAI:
        """An asynchronous Azure OpenAI client."""
        from openai import AsyncAzureOpenAI

        return self._made(AsyncAzureOpenAI(**self._azure(kwargs)))

    def anthropic(self, **kwargs: Any) -> anthropic_sdk.Anthropic:
        """A synchronous Anthropic client."""
        from anthropic import Anthropic

        settings: dict[str, Any] = {"base_url": self.anthropic_url, "api_key": KEY, "max_retries": 0, **kwargs}
        return self._made(Anthropic(**settings))

    def async_anthropic(self, **kwargs: Any) -> anthropic_sdk.AsyncAnthropic:
        """An asynchronous Anthropic client."""
        from anthropic import AsyncAnthropic

        settings: dict[str, Any] = {"base_url": self.anthropic_url, "api_key": KEY, "max_retries": 0, **kwargs}
        return self._made(AsyncAnthropic(**settings))

    def bedrock(self, **kwargs: Any) -> anthropic_sdk.AnthropicBedrock:
        """A synchronous client for Anthropic's models on Bedrock."""
        from anthropic import AnthropicBedrock

        return self._made(AnthropicBedrock(**{"base_url": self.bedrock_url, "max_retries": 0, **AWS, **kwargs}))

    def async_bedrock(self, **kwargs: Any) -> anthropic_sdk.AsyncAnthropicBedrock:
        """An asynchronous client for Anthropic's models on Bedrock."""
        from anthropic import AsyncAnthropicBedrock

        return self._made(AsyncAnthropicBedrock(**{"base_url": self.bedrock_url, "max_retries": 0, **AWS, **kwargs}))

    def vertex_anthropic(self, **kwargs: Any) -> anthropic_sdk.AnthropicVertex:
        """A synchronous client for Anthropic's models on Vertex."""
        from anthropic import AnthropicVertex

        settings: dict[str, Any] = {"base_url": self.vertex_anthropic_url, "max_retries": 0, **VERTEX, **kwargs}
        return self._made(AnthropicVertex(**settings))

    def async_vertex_anthropic(self, **kwargs: Any) -> anthropic_sdk.AsyncAnthropicVertex:
        """An asynchronous client for Anthropic's models on Vertex."""
        from anthropic import AsyncAnthropicVertex

        settings: dict[str, Any] = {"base_url": self.vertex_anthropic_url, "max_retries": 0, **VERTEX, **kwargs}
        return self._made(AsyncAnthropicVertex(**settings))

    def google(self, **kwargs: Any) -> genai.Client:
        """A Google GenAI client; its ``.aio`` is the asynchronous one."""
        from google import genai

        settings: dict[str, Any] = {
            "api_key": KEY,
            "vertexai": False,
            **kwargs,
            "http_options": self._http_options(self.google_url, kwargs),
        }
        return self._made(genai.Client(**settings))

    def vertex(self, **kwargs: Any) -> genai.Client:
        """A Google GenAI client for Vertex, with an access token."""
        from google import genai
        from google.oauth2.credentials import Credentials

        settings: dict[str, Any] = {
            "vertexai": True,
            "project": KEY,
            "location": "us-central1",
            "credentials": Credentials(token=KEY),  # type: ignore[no-untyped-call]
            **kwargs,
            "http_options": self._http_options(self.vertex_url, kwargs),
        }
        return self._made(genai.Client(**settings))

    def _azure(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "azure_endpoint": self.azure_url,
            "api_key": KEY,
            "api_version": "2024-10-21",
            "max_retries": 0,
        }
        return {**settings, **kwargs}

    @staticmethod
    def _http_options(url: str, kwargs: dict[str, Any]) -> Any:
        """The caller's http_options, dict or object, with our address where they name none."""
        given = kwargs.get("http_options") or {}
        if isinstance(given, dict):
            return {"base_url": url, **given}
        return given if given.base_url else given.model_copy(update={"base_url": url})

    def _url(self, path: str) -> str:
        if not self._root:
            raise RuntimeError("The loopback provider is not running: use it inside `with LoopbackProvider() as ...`.")
        return self._root + path

    def _made(self, client: T) -> T:
        self._clients.append(client)
        return client

    def _close_clients(self) -> None:
        """Close what can be closed without an event loop."""
        clients, self._clients = self._clients, []
        for client in clients:
            close = getattr(client, "close", None)
            if close is not None and not inspect.iscoroutinefunction(close):
                close()

    async def _aclose_clients(self) -> None:
        """Close what needs the event loop."""
        for client in self._clients:
            close = getattr(client, "close", None)
            if not inspect.iscoroutinefunction(close):
                close = getattr(getattr(client, "aio", None), "aclose", None)
            if close is not None:
                await close()
