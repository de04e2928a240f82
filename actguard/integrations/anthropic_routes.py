"""Anthropic: the SDK's own client and those for Bedrock, Vertex and Foundry, sync and async.

One method of the client base sees every call, whole or streamed, parsed or raw, and always as ``/v1/messages`` with
the model that the user named; the platforms rewrite both later. It is billed by its path:

    POST messages                        a message                                    `AnthropicExchange`
    the same through middleware          each request that goes out below it          `anthropic_attempts`
    messages/batches                     held when submitted, charged by results      `anthropic_batches`
    sessions, dreams, deployments        counted when they are looked at             `anthropic_agents`
    everything else                      free: counting tokens, models, files, lists
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from actguard.integrations.anthropic import AnthropicExchange
from actguard.integrations.anthropic_agents import agent_exchange
from actguard.integrations.anthropic_attempts import MiddlewareExchange, async_attempt, has_middleware, sync_attempt
from actguard.integrations.anthropic_batches import BATCHES, BatchExchange, BatchResults, BatchStatus, SubmittedBatch
from actguard.integrations.metering import Exchange
from actguard.integrations.patching import Target, TargetsOf
from actguard.integrations.stainless import options_of, path_of, targets

APIS: Mapping[str, str] = {"v1/messages": "messages", "v1/complete": "completions"}


def open_exchange(client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Exchange | None:
    """An exchange for a message, a batch or an agent; None for what is free: counting tokens, models, files."""
    options = options_of(args, kwargs)
    method, path = options.method.lower(), path_of(options)
    if method == "post":
        for known, api in APIS.items():
            if path == known or path.endswith("/" + known):
                kind = MiddlewareExchange if has_middleware(client) else AnthropicExchange
                return kind(client, args, kwargs, api)
    if (of_batch := _of_batch(method, path)) is not None:
        return of_batch(client, args, kwargs)
    return agent_exchange(client, args, kwargs, method, options)


def _of_batch(method: str, path: str) -> type[BatchExchange] | None:
    """How a request about batches is metered; None for any other, and for lists of them."""
    about = BATCHES.search(path)
    match (method, about is not None, about and about["id"], about and about["what"]):
        case ("post", True, None, None):
            return SubmittedBatch
        case ("get", True, str(), "results"):
            return BatchResults
        case ("get", True, str(), None) | ("post", True, str(), "cancel"):
            return BatchStatus
    return None


def _targets(client_base: ModuleType) -> Iterator[Target]:
    yield from targets(client_base, open_exchange)
    for owner, wrap in ((client_base.SyncAPIClient, sync_attempt), (client_base.AsyncAPIClient, async_attempt)):
        if "_attempt_request" in vars(owner):
            yield Target(owner, "_attempt_request", wrap)


MODULES: dict[str, TargetsOf] = {"anthropic._base_client": _targets}
"""The modules of the SDK to patch, and what to wrap in them."""
