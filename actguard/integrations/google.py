"""Google GenAI: ``google.genai``, AI Studio and Vertex, sync and async.

All calls but Live (`google_live`) and interactions (`google_interactions`) pass one of four methods of the SDK's API
client, with a path and a JSON body. What they return is converted by the method that the user called; so a crossing is
kept until that is done, and the error carries what the user would have got. Streams are lazy: the request is sent with
the first ``next()``, in the scope that the stream was made in, or else in the one that is active then.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import cached_property
from types import ModuleType
from typing import Any

from actguard.integrations import google_interactions, google_live
from actguard.integrations.estimate import BYTES_PER_TOKEN
from actguard.integrations.google_batches import open_batch
from actguard.integrations.google_bound import bound_of, merged
from actguard.integrations.google_conversion import (
    async_conversion,
    budget_ends_stream,
    conversion_takes,
    sync_conversion,
)
from actguard.integrations.google_failures import outcome_of
from actguard.integrations.google_grounding import grounding, searches_of
from actguard.integrations.google_options import argument, attempts, extra_body, limits_for_all, with_limit
from actguard.integrations.google_request import APIS, billed_call, candidates, estimate, output_limit
from actguard.integrations.google_streams import async_stream, reads_from, sync_stream
from actguard.integrations.google_surfaces import UncountedExchange, uncounted_surface, uncounted_tool
from actguard.integrations.google_usage import (
    StreamedContent,
    generated_text,
    model_of,
    price_context,
    read_embeddings_usage,
    read_usage,
)
from actguard.integrations.metering import (
    Bill,
    Bound,
    Exchange,
    Outcome,
    Request,
    Settlement,
    Switch,
    async_hook,
    sync_hook,
)
from actguard.integrations.patching import Target, TargetsOf
from actguard.integrations.streams import MeteredAsyncIterator, MeteredIterator, StreamMeter, StreamReader
from actguard.integrations.written import input_at_least
from actguard.money.usage import Usage

PROVIDER = "google"


class GoogleExchange(Exchange):
    """One billable request to Google's GenAI API."""

    provider = PROVIDER

    def __init__(
        self,
        client: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        model: str,
        method: str,
        body: Mapping[str, Any],
    ) -> None:
        super().__init__(client, args, kwargs)
        self.model = model
        self.method = method
        self.body = body
        self.uncounted = uncounted_tool(body)

    @cached_property
    def estimate(self) -> Usage:
        """The input as estimated from the request."""
        return estimate(self.body)

    def request(self) -> Request:
        extra = extra_body(self.client, self.args, self.kwargs)
        return Request(
            model=self.model,
            api=APIS[self.method],
            stream=self.method == "streamGenerateContent",
            estimate=self.estimate,
            output_limit=output_limit(extra, self.body) if APIS[self.method] == "generate_content" else 0,
            outputs=candidates(extra, self.body),
        )

    def bound(self) -> Bound | None:
        generates = APIS[self.method] == "generate_content"
        if not generates and APIS[self.method] != "embed_content" and "embedding" not in self.model:
            return Bound(0, unbounded="what it generates is not billed by the token")
        if limits_for_all(self.client, self.args, self.kwargs):
            return Bound(0, unbounded="the client's http_options configure the generation of all its calls")
        whole = merged(self.body, extra_body(self.client, self.args, self.kwargs))
        return bound_of(self.model, whole, self.attempts, output=generates)

    def reasoning_effort(self) -> Any:
        thinking = (self.body.get("generationConfig") or {}).get("thinkingConfig") or {}
        level = thinking.get("thinkingLevel", thinking.get("thinking_level"))
        return level and str(getattr(level, "value", level)).lower()

    def limit_output(self, tokens: int) -> None:
        self.args, self.kwargs = with_limit(self.args, self.kwargs, self.body, tokens)

    @property
    def attempts(self) -> int:
        """How often the SDK sends the request at the most."""
        return attempts(self.client, self.args, self.kwargs)

    def failure(self, error: BaseException) -> Outcome:
        return outcome_of(error, attempts=self.attempts)

    def answer(self, result: Any, settlement: Settlement) -> Any:
        if self.method == "streamGenerateContent":
            return self._stream(result, settlement)
        settlement.charge(self.bill(decoded(result)))
        conversion_takes(settlement)
        return result

    def bill(self, answer: Any) -> Bill:
        """What a whole answer costs; estimated where it has no counts."""
        block = answer.get("usageMetadata") if isinstance(answer, Mapping) else None
        usage = read_usage(block) if APIS[self.method] == "generate_content" else read_embeddings_usage(answer)
        estimated = usage is None
        if usage is None:
            usage = self._uncounted(answer)
        model = model_of(answer)
        usage = usage + grounding(searches_of(answer), model or self.model)
        context = price_context(block, self.body)
        return Bill(usage, model=model, context=context, estimated=estimated and not usage.is_zero)

    def _uncounted(self, answer: Any) -> Usage:
        """The usage of an answer without counts: a refused prompt costs nothing, the rest what it looks like."""
        if isinstance(answer, Mapping) and not answer.get("candidates") and answer.get("promptFeedback"):
            return Usage()
        _, written = generated_text(answer)
        return Usage(uncached_input_tokens=self.estimate.input_tokens, output_tokens=-(-written // BYTES_PER_TOKEN))

    def _stream(self, source: Any, settlement: Settlement) -> Any:
        reader = ContentReader(self)
        if hasattr(source, "__anext__"):
            # The request is sent already: an error that comes now is the stream's own.
            stream = MeteredAsyncIterator(source, StreamMeter(reader, settlement), lambda: _aclose(source))
            reads_from(stream)
            return stream
        return MeteredIterator(source, StreamMeter(reader, settlement, failure=self.failure), lambda: _close(source))


class ContentReader(StreamReader):
    """Reads a streamed answer along."""

    def __init__(self, exchange: GoogleExchange) -> None:
        self._exchange = exchange
        self._content = StreamedContent()
        self._searches = 0

    @property
    def text(self) -> str:
        return self._content.text

    def feed(self, item: Any) -> bool:
        chunk = decoded(item)
        self._content.feed(chunk)
        self._searches = max(self._searches, searches_of(chunk))
        self.output_seen = self._content.output_tokens
        return True

    def bill(self, complete: bool) -> Bill:
        content = self._content
        usage = content.usage()
        # Some servers never name a finish reason; the counts of a stream that came to its end are final, too.
        final = content.complete or (complete and (bool(content.block) or content.refused))
        if not final and not (usage is not None and usage.input_tokens):
            usage = self._exchange.estimate + (usage or Usage())
        usage = (usage or Usage()) + grounding(self._searches, content.model or self._exchange.model)
        context = price_context(content.block, self._exchange.body)
        return Bill(usage, model=content.model, context=context, estimated=not final)

    def at_least(self) -> Usage:
        usage = self._content.usage_at_least()
        if usage is not None and self._content.block:
            return usage
        return input_at_least(self._exchange.estimate) + (usage or Usage())


def decoded(answer: Any) -> Any:
    """The JSON of an answer or chunk; None where it has none. Up to SDK 1.20 it is decoded already."""
    body = getattr(answer, "body", answer)
    if not isinstance(body, str | bytes):
        return body
    try:
        return json.loads(body)
    except ValueError:
        return None  # the SDK is about to say so itself


def open_exchange(client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Exchange | None:
    """An exchange for a request that may be billed; None for counting, files, lists and what else is free."""
    method = str(argument(args, kwargs, 0, "http_method")).lower()
    path = str(argument(args, kwargs, 1, "path"))
    if method != "post" or (call := billed_call(path)) is None:
        if method == "post" and (uncounted := uncounted_surface(path)) is not None:
            return UncountedExchange(client, args, kwargs, uncounted)
        return open_batch(client, args, kwargs, method, path)
    body = argument(args, kwargs, 2, "request_dict")
    return GoogleExchange(client, args, kwargs, *call, body if isinstance(body, Mapping) else {})


# --- closing a stream at the provider ---------------------------------------------------------------------------------


def _close(source: Any) -> None:
    """Close the connection behind a generator of the SDK, so that chunks it has received can still be read from it."""
    response = _response_behind(source, "gi_frame", "session_response")
    (source if response is None else response).close()


async def _aclose(source: Any) -> None:
    response = _response_behind(source, "ag_frame", "response")
    if response is None:
        await source.aclose()
    elif hasattr(response, "aclose"):
        await response.aclose()
    else:
        response.close()


def _response_behind(source: Any, frame_name: str, variable: str) -> Any:
    """The HTTP response that a suspended generator of the SDK reads from; None where it is not found.

    It is a local variable there and reachable in no other way. Closing the generator instead loses what it buffers.
    """
    frame = getattr(source, frame_name, None)
    response = getattr(frame.f_locals.get(variable), "response_stream", None) if frame is not None else None
    return response if hasattr(response, "close") else None


# --- where to hook ----------------------------------------------------------------------------------------------------


def _api_client_targets(module: ModuleType) -> Iterator[Target]:
    """The class is called ``ApiClient`` up to 1.3.0."""
    owner = getattr(module, "BaseApiClient", None) or module.ApiClient
    for name in ("request", "request_streamed"):
        yield Target(owner, name, _sync)
    for name in ("async_request", "async_request_streamed"):
        yield Target(owner, name, _async)


def _sync(original: Callable[..., Any], switch: Switch) -> Callable[..., Any]:
    return sync_hook(original, open_exchange, switch)


def _async(original: Callable[..., Awaitable[Any]], switch: Switch) -> Callable[..., Awaitable[Any]]:
    return async_hook(original, open_exchange, switch)


CONVERTING = ("_generate_content", "embed_content", "generate_images")
"""Methods that make one billed call and convert its answer."""


def _models_targets(module: ModuleType) -> Iterator[Target]:
    for owner, wrap in ((module.Models, sync_conversion), (module.AsyncModels, async_conversion)):
        for name in CONVERTING:
            if name in vars(owner):
                yield Target(owner, name, wrap)
    yield Target(module.Models, "generate_content_stream", sync_stream)
    yield Target(module.AsyncModels, "generate_content_stream", async_stream)


def _batches_targets(module: ModuleType) -> Iterator[Target]:
    yield Target(module.Batches, "get", sync_conversion)
    yield Target(module.AsyncBatches, "get", async_conversion)


def _chats_targets(module: ModuleType) -> Iterator[Target]:
    yield Target(module.Chat, "send_message_stream", sync_stream)
    yield Target(module.AsyncChat, "send_message_stream", async_stream)


def _continuation_targets(module: ModuleType) -> Iterator[Target]:
    """Older versions do not take up streams again."""
    owner = getattr(module, "StreamContinuation", None)
    if owner is not None and "end_hop" in vars(owner):
        yield Target(owner, "end_hop", budget_ends_stream)


MODULES: dict[str, TargetsOf] = {
    "google.genai._api_client": _api_client_targets,
    "google.genai._extra_utils": _continuation_targets,
    "google.genai.batches": _batches_targets,
    "google.genai.chats": _chats_targets,
    "google.genai.models": _models_targets,
    **google_interactions.MODULES,
    **google_live.MODULES,
}
