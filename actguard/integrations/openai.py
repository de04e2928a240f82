"""The OpenAI SDK (1.76 and later, Azure and compatible servers included): where to hook it, what its calls cost.

Every call of every resource goes through the client's ``request``. It is billed by its path:

    POST of an API that generates      admitted, refused over budget      `OpenAIExchange`
    GET of a background answer         charged once per id, never blocked `FetchExchange`
    files and batches                  see `actguard.integrations.openai_batches`
    POST of what nobody can count      refused or warned about            `UncountedExchange`
    any other POST                     charged if the answer has usage    `UnknownExchange`
    everything else                    free
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from typing import Any
from urllib.parse import urlsplit

from actguard.integrations import openai_sockets
from actguard.integrations.metering import (
    Bill,
    Bound,
    Deferred,
    Exchange,
    Outcome,
    Request,
    Unknown,
)
from actguard.integrations.openai_batches import batch_exchange
from actguard.integrations.openai_bound import bound_of, limit_fields, other_field
from actguard.integrations.openai_fetch import FetchExchange, UncountedExchange, UnknownExchange
from actguard.integrations.openai_request import (
    asked_effort,
    billed_api,
    fetched_api,
    input_estimate,
    is_free,
    model_of,
    output_estimate,
    output_limit,
    outputs,
    spoken,
)
from actguard.integrations.openai_streams import ChatReader, MediaReader, ResponsesReader, RunReader
from actguard.integrations.openai_surfaces import uncounted_surface
from actguard.integrations.openai_usage import PENDING, bill_of, field
from actguard.integrations.patching import TargetsOf
from actguard.integrations.stainless import StainlessExchange, options_of, path_of, targets
from actguard.integrations.streams import StreamReader
from actguard.money.usage import Usage

_without_stream_options: set[str] = set()
"""Base URLs of servers that reject ``stream_options``: they are not asked again."""


def provider_of(client: Any) -> str:
    """Who answers a client, as far as its class says; its base URL may say more."""
    kind: type = type(client)
    return _provider_of_class(kind)


@cache
def _provider_of_class(client_class: type) -> str:
    names = {kind.__name__ for kind in client_class.__mro__}
    return "azure" if names & {"BaseAzureClient", "AzureOpenAI", "AsyncAzureOpenAI"} else "openai"


class OpenAIExchange(StainlessExchange):
    """One call that is billed when it is answered."""

    _estimated: Usage | None = None
    _stream_options: Mapping[str, Any] | None = None
    """The user's own stream options, where we have added to them."""
    _limited: str | None = None
    """The field of the request that we have put an output limit into."""

    def __init__(self, client: Any, args: tuple[Any, ...], kwargs: dict[str, Any], api: str) -> None:
        super().__init__(client, args, kwargs)
        self.provider = provider_of(client)
        self.api = api

    @property
    def estimate(self) -> Usage:
        """The input, estimated."""
        if self._estimated is None:
            self._estimated = input_estimate(self.api, self.options, self.body)
        return self._estimated

    def request(self) -> Request:
        api, body, streams = self.api, self.body, self.streams
        model, limit, number = model_of(api, body), output_limit(api, body), outputs(api, body)
        request = Request(model, api, streams, self.estimate, limit, number)
        self.see_parsed_answers()
        if streams and api in ("chat.completions", "completions") and not self.raw:
            self._ask_for_usage()
        return request

    def reasoning_effort(self) -> Any:
        return asked_effort(self.body)

    def resend(self, error: BaseException) -> bool:
        if getattr(error, "status_code", None) not in (400, 422):
            return False
        message = f"{error} {getattr(error, 'body', '')}"
        if self._stream_options is not None and "stream_options" in message:
            asked, self._stream_options = self._stream_options, None
            self.replace_in_body({"stream_options": asked} if asked else {}, without=("stream_options",))
            _without_stream_options.add(str(self.base_url))
            return True
        return self._respell_limit(message)

    def bound(self) -> Bound | None:
        return bound_of(self.api, self.given, self.attempts)

    def limit_output(self, tokens: int) -> None:
        host = urlsplit(str(self.base_url)).hostname or ""
        fields = limit_fields(self.api, self.given, tokens, openai_itself=host.endswith("openai.com"))
        self._limited = next((name for name in fields if name not in self.given), None)
        self.replace_in_body(fields)

    def _respell_limit(self, message: str) -> bool:
        """A server that does not know the name of the limit that was added is asked with the other one, once."""
        name, self._limited = self._limited, None
        other = None if name is None else other_field(self.api, name)
        if name is None or other is None or name not in message:
            return False
        self.replace_in_body({other: self.body[name]}, without=(name,))
        return True

    def bill(self, answer: Any) -> Bill | None:
        return bill_of(answer)

    def without_usage(self, answer: Any) -> Outcome:
        answer_id = field(answer, "id")
        if isinstance(answer_id, str) and field(answer, "status") in PENDING:
            return Deferred(answer_id)
        if self.api == "audio.speech":
            usage, estimated = spoken(self.body)
            return Bill(usage, estimated=estimated)
        if answer is None:
            return Unknown()
        usage = self.estimate + Usage(output_tokens=output_estimate(self.api, answer))
        return Bill(usage, model=field(answer, "model"), estimated=True)

    def reader(self) -> StreamReader:
        match self.api:
            case "chat.completions" | "completions":
                return ChatReader(self.estimate, self._stream_options is not None, self.body.get("service_tier"))
            case "threads.runs":
                return RunReader(self.estimate)
            case "responses" | "responses.compact":
                return ResponsesReader(self.estimate, self.body.get("service_tier"))
            case _:
                return MediaReader(self.estimate)

    def _ask_for_usage(self) -> None:
        """Have the stream report its usage, whatever other stream options the caller set."""
        asked = self.body.get("stream_options") or {}
        if not isinstance(asked, Mapping) or not isinstance(self.options.json_data, Mapping):
            return
        if asked.get("include_usage") or str(self.base_url) in _without_stream_options:
            return
        self._stream_options = asked
        self.replace_in_body({"stream_options": {**asked, "include_usage": True}})


def open_exchange(client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Exchange | None:
    """An exchange for a call of the client's ``request``; None when it is free."""
    options = options_of(args, kwargs)
    method, path = options.method.lower(), path_of(options)
    if method == "post" and (api := billed_api(path)) is not None:
        return OpenAIExchange(client, args, kwargs, api)
    provider = provider_of(client)
    if (batch := batch_exchange(method, path)) is not None:
        return batch(client, args, kwargs, path, provider)
    if method in ("get", "post") and (api := fetched_api(method, path)) is not None:
        return FetchExchange(client, args, kwargs, api, provider)
    if is_free(method, path):
        return None
    if (what := uncounted_surface(path, options.json_data)) is not None:
        return UncountedExchange(client, args, kwargs, path, provider, what)
    return UnknownExchange(client, args, kwargs, path, provider)


MODULES: dict[str, TargetsOf] = {
    "openai._base_client": partial(targets, open_exchange=open_exchange),
    **openai_sockets.MODULES,
}
"""The modules of the SDK to patch, and what to wrap in them."""
