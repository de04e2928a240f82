"""The Google SDK pointed at a local server: the Gemini API or Vertex AI, synchronous or not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from operator import attrgetter
from typing import Any

import pytest
from google import genai
from google.oauth2.credentials import Credentials

QUIET = "ignore:Inheritance class AiohttpClientSession:DeprecationWarning"
"""What aiohttp has to say about the SDK's own session class."""


@asynccontextmanager
async def google_at(url: str, mode: str, *, vertex: bool = False) -> AsyncIterator[Any]:
    """A client of the SDK for the server at ``url``; closed at the end."""
    account: Any = {"vertexai": False, "api_key": "k"}
    if vertex:
        account = {"vertexai": True, "project": "p", "location": "us-central1", "credentials": Credentials(token="t")}
    version = "v1beta1" if vertex else "v1beta"
    client = genai.Client(**account, http_options={"base_url": url, "api_version": version})
    try:
        yield client if mode == "sync" else client.aio
    finally:
        if hasattr(client, "close"):  # the first versions keep nothing open
            await client.aio.aclose()
            client.close()


def offered(client: Any, name: str) -> Any:
    """The method with this dotted name; the test is skipped where this version of the SDK does not have it."""
    try:
        return attrgetter(name)(client)
    except AttributeError:
        pytest.skip(f"this SDK has no {name}")
