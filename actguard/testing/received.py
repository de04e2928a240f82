"""What a `LoopbackProvider` saw: one record for each request, and totals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Provider = Literal["openai", "anthropic", "google"]
"""Whose API was spoken."""

Platform = Literal["openai", "azure", "anthropic", "bedrock", "vertex", "google"]
"""Whose server was asked: Azure speaks OpenAI's API, Bedrock Anthropic's, Vertex Google's and Anthropic's."""

REDACTED = "[redacted]"
SECRET_HEADERS = frozenset(
    (
        "authorization",
        "proxy-authorization",
        "api-key",
        "x-api-key",
        "x-goog-api-key",
        "x-amz-security-token",
        "cookie",
    )
)
SECRET_QUERY = frozenset(("key", "api_key", "api-key", "access_token", "token"))


def without_secrets(pairs: Iterable[tuple[str, str]], secret: frozenset[str]) -> dict[str, str]:
    """Headers or query as a dict, secret values replaced."""
    return {name: REDACTED if name.lower() in secret else value for name, value in pairs}


@dataclass(slots=True, eq=False)
class ReceivedRequest:
    """One request, and how far its answer has come. The provider keeps it up to date while it answers.

    Secrets in headers and query are replaced by ``"[redacted]"`` before they are kept.
    """

    number: int
    """1 for the first request of a provider."""
    provider: Provider
    platform: Platform
    api: str
    """``"chat.completions"``, ``"responses"``, ``"messages"``, ``"generate_content"``, ``"embeddings"`` …;
    ``"unknown"`` for a path that the provider does not have."""
    method: str
    path: str
    """Without the query."""
    query: Mapping[str, str] = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    """Names in lower case."""
    body: Mapping[str, Any] = field(repr=False)
    """The JSON body, or the fields of a form (a file is ``{"filename", "bytes"}``); empty when there is none."""
    model: str = ""
    """As the request names it."""
    stream: bool = False
    output_limit: int | None = None
    """The most tokens that the request allows one choice to have."""
    status: int | None = None
    """The answer's status; None until it is sent."""
    billed: bool = False
    """The call is on the invoice; in tokens only where tokens are what is paid for."""
    input_tokens: int = 0
    """Billed: all input, cache reads and writes included."""
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    """Billed: what was really generated. Grows while a stream runs and stops where the client left."""
    completed: bool = False
    """The answer was sent to its end."""
    disconnected: bool = False
    """The client left before the end."""
    done: bool = False
    """Nothing more will happen to this request: it was answered, cut, or its client has left."""


@dataclass(frozen=True, slots=True)
class Billed:
    """What a real provider would have on its invoice, in tokens."""

    calls: int = 0
    """Requests that cost something."""
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0

    @classmethod
    def of(cls, requests: Iterable[ReceivedRequest]) -> Billed:
        """The totals of some requests.

        Example: ``Billed.of(r for r in provider.requests if r.model == "gpt-4o")``.
        """
        paid = [request for request in requests if request.billed]
        return cls(
            calls=len(paid),
            input_tokens=sum(request.input_tokens for request in paid),
            cached_input_tokens=sum(request.cached_input_tokens for request in paid),
            cache_write_tokens=sum(request.cache_write_tokens for request in paid),
            output_tokens=sum(request.output_tokens for request in paid),
        )

    @property
    def total_tokens(self) -> int:
        """Input plus output."""
        return self.input_tokens + self.output_tokens
