"""What the OpenAI and the Anthropic SDK have in common: a client base whose `request` every call goes through.

``request(cast_to, options, *, stream=False, stream_cls=None)`` is seen once per logical call, retries inside. What it
returns depends on the caller's wishes; `StainlessExchange.answer` knows the kinds:

    model, dict, str              the answer                                       charged at once
    Stream, AsyncStream           `_iterator` is replaced by a metered one         charged while it is read
    LegacyAPIResponse,            an HTTP response around a body: read already     charged at once
    APIResponse, httpx Response     or not yet                                     charged while it is read
"""

from __future__ import annotations

import copy
import functools
import sys
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from types import ModuleType
from typing import Any

from pydantic_core import from_json

from actguard.integrations.bodies import (
    BodyReader,
    EventBodyReader,
    JsonBodyReader,
    OpaqueBodyReader,
    meter_body,
    notice_close,
    unread,
)
from actguard.integrations.metering import (
    FREE,
    Bill,
    Exchange,
    OpenExchange,
    Outcome,
    Settlement,
    Switch,
    Unknown,
    async_hook,
    sync_hook,
    under_way,
)
from actguard.integrations.patching import Target
from actguard.integrations.streams import MeteredAsyncIterator, MeteredIterator, StreamMeter, StreamReader
from actguard.integrations.transport import was_sent

RAW_RESPONSE_HEADER = "x-stainless-raw-response"


class StainlessExchange(Exchange):
    """One call of ``SyncAPIClient.request`` or ``AsyncAPIClient.request``."""

    _parsed: Any = None
    _body: Mapping[str, Any] | None = None

    def __init__(self, client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__(client, args, kwargs)
        client_class: Any = type(client)
        self.base_url = text_of_url(client._base_url if keeps_url(client_class) else client.base_url)

    @property
    def options(self) -> Any:
        """The SDK's request options."""
        return options_of(self.args, self.kwargs)

    def replace_options(self, **changes: Any) -> None:
        """Send a changed copy of the options; the SDK may use the original once more."""
        options = copy.copy(self.options)
        for name, value in changes.items():
            setattr(options, name, value)
        if "options" in self.kwargs:
            self.kwargs = {**self.kwargs, "options": options}
        else:
            self.args = (self.args[0], options, *self.args[2:])
        self._body = None

    def replace_in_body(self, fields: Mapping[str, Any], without: Collection[str] = ()) -> None:
        """Send a request whose JSON has these fields, whatever the user's ``extra_body`` says, and not those."""
        options = self.options
        gone = {*fields, *without}
        extra = options.extra_json and {name: value for name, value in options.extra_json.items() if name not in gone}
        whole = options.json_data if isinstance(options.json_data, Mapping) else self.body
        kept = {name: value for name, value in whole.items() if name not in gone}
        self.replace_options(json_data={**kept, **fields}, extra_json=extra)

    @property
    def attempts(self) -> int:
        """How many times the SDK sends the request at the most, should no answer come."""
        retries = self.options.get_max_retries(self.client.max_retries)
        return 1 + max(int(retries), 0)

    @property
    def body(self) -> Mapping[str, Any]:
        """The request's JSON as it goes over the wire: the user's ``extra_body`` wins."""
        if self._body is None:
            self._body = body_of(self.options)
        return self._body

    @property
    def given(self) -> dict[str, Any]:
        """The same without the SDK's marks for what was not given."""
        return {name: value for name, value in self.body.items() if not is_a(value, "Omit", "NotGiven")}

    @property
    def streams(self) -> bool:
        """True when the caller asked for a stream."""
        return bool(self.kwargs.get("stream"))

    @property
    def raw(self) -> bool:
        """True when the caller asked for the raw HTTP response."""
        return RAW_RESPONSE_HEADER in headers_of(self.options)

    # --- what a provider adds -------------------------------------------------------------------------------------

    @abstractmethod
    def bill(self, answer: Any) -> Bill | None:
        """Read a whole answer, a model or parsed JSON; None when it says nothing about usage."""

    @abstractmethod
    def reader(self) -> StreamReader:
        """A reader for a streamed answer: of the SDK's typed items, or of the events' parsed JSON."""

    def without_usage(self, answer: Any) -> Outcome:
        """What an answer costs that says nothing about usage. ``answer`` is None when it could not be read."""
        return Unknown()

    # --- settling -------------------------------------------------------------------------------------------------

    def answer(self, result: Any, settlement: Settlement) -> Any:
        if isinstance(result, dict) or hasattr(type(result), "__pydantic_fields__"):
            self._settle_answer(result, settlement)  # nearly every answer; asking a model for more costs 10 µs
        elif hasattr(type(result), "__stream__"):
            self._meter_stream(result, settlement)
        elif (response := http_response_of(result)) is None:
            self._settle_answer(result, settlement)
        elif unread(response):
            self._meter_unread(response, result, settlement)
        else:
            self._settle_answer(json_of(response), settlement)
        return result

    def failure(self, error: BaseException) -> Outcome:
        paid = self._parsed if self._parsed is not None else paid_answer_of(error)
        if paid is not None:
            return self.bill(paid) or self.without_usage(paid)
        status = getattr(error, "status_code", None)
        if isinstance(status, int):
            return FREE if status >= 400 else Unknown()
        if not isinstance(error, Exception):
            return Unknown()  # cancelled or interrupted: nobody knows how far the request got
        if is_a(error.__cause__, "RuntimeError"):
            return FREE  # a closed client, as older versions report it
        if not is_a(error, "APIError") and is_a(error, "OpenAIError", "AnthropicError", "RuntimeError"):
            return FREE  # no credentials, or a closed client
        return Unknown() if was_sent(error) else FREE

    def see_parsed_answers(self) -> None:
        """Have the answer noted before the SDK's parse helper sees it: the helper may raise over a paid answer."""
        parser = getattr(self.options, "post_parser", None)
        if not callable(parser):
            return

        def note_and_parse(answer: Any) -> Any:
            self._parsed = answer
            return parser(answer)

        self.replace_options(post_parser=note_and_parse)

    def _settle_answer(self, answer: Any, settlement: Settlement) -> None:
        bill = None if answer is None else self.bill(answer)
        settlement.settle(self.without_usage(answer) if bill is None else bill)

    def _meter_stream(self, stream: Any, settlement: Settlement) -> None:
        meter = StreamMeter(self.reader(), settlement, stream)
        # A generator on the stream itself would make a cycle of them, and a dropped stream would be settled late.
        unbound = copy.copy(stream)
        unbound.__dict__.pop("_iterator", None)
        notice_close(stream.response, meter)
        if hasattr(type(stream), "__anext__"):
            stream._iterator = MeteredAsyncIterator(unbound.__stream__(), meter, stream.response.aclose)
        else:
            stream._iterator = MeteredIterator(unbound.__stream__(), meter, stream.response.close)

    def _meter_unread(self, response: Any, result: Any, settlement: Settlement) -> None:
        meter_body(response, self._body_reader(response), settlement, result)

    def _body_reader(self, response: Any) -> BodyReader:
        content_type = response.headers.get("content-type", "").partition(";")[0].strip()
        if content_type == "text/event-stream":
            return EventBodyReader(response, self.reader())
        if content_type.endswith("json"):
            return JsonBodyReader(response, self._bill_or_estimate, self._estimate)
        return OpaqueBodyReader(response, self._estimate)

    def _bill_or_estimate(self, answer: Any) -> Outcome:
        return self.bill(answer) or self.without_usage(answer)

    def _estimate(self) -> Outcome:
        return self.without_usage(None)


def options_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The request options among the arguments of ``request``."""
    return kwargs["options"] if "options" in kwargs else args[1]


def body_of(options: Any) -> Mapping[str, Any]:
    """The JSON of a request; empty when it has another kind of body."""
    body = options.json_data
    if type(body) is not dict:
        if isinstance(body, bytes | bytearray):
            body = from_json(body)
        if not isinstance(body, Mapping):
            body = {}
    return {**body, **options.extra_json} if options.extra_json else body


def headers_of(options: Any) -> dict[str, Any]:
    """The caller's headers of a request, by lower-case name."""
    headers = options.headers
    return {name.lower(): value for name, value in headers.items()} if isinstance(headers, Mapping) else {}


def path_of(options: Any) -> str:
    """The request's path below the API's root, without query: ``chat/completions``."""
    return _path_of_url(options.url)


@functools.lru_cache(maxsize=256)
def _path_of_url(url: str) -> str:
    path = url.partition("?")[0]
    if "://" in path:
        path = path.partition("://")[2].partition("/")[2]
    return path.strip("/")


@functools.cache
def keeps_url(client_class: type) -> bool:
    """True where ``base_url`` is the SDK's own property, which hands out ``_base_url`` and takes 3 µs for it."""
    owner = next((kind for kind in client_class.__mro__ if "base_url" in vars(kind)), object)
    sdk = owner.__module__.partition(".")[0]
    return sdk in ("openai", "anthropic") and owner.__name__ in ("OpenAI", "AsyncOpenAI", "BaseClient")


_texts_of_urls: dict[int, tuple[Any, str]] = {}


def text_of_url(url: Any) -> str:
    """``str(url)``, remembered by the identity of a client's URL object: the text takes 5 µs, this takes 0.2."""
    known = _texts_of_urls.get(id(url))
    if known is not None and known[0] is url:
        return known[1]
    if len(_texts_of_urls) >= 256:
        _texts_of_urls.clear()
    text = str(url)
    _texts_of_urls[id(url)] = (url, text)  # which keeps the object, so that its id stays its own
    return text


def http_response_of(result: Any) -> Any:
    """The HTTP response inside what the SDK returned, if that is what it returned."""
    for candidate in (getattr(result, "http_response", None), result, getattr(result, "response", None)):
        if hasattr(candidate, "aiter_bytes") and hasattr(candidate, "is_stream_consumed"):
            return candidate
    return None


def json_of(response: Any) -> Any:
    """The body of a response that was read, as JSON; None when it is none."""
    try:
        return from_json(response.content)
    except ValueError:
        return None


def paid_answer_of(error: BaseException) -> Any:
    """The answer that an SDK error carries although it was paid: too long to parse, or not as the schema says."""
    if is_a(error, "APIResponseValidationError"):
        return getattr(error, "body", None)
    return getattr(error, "completion", None)


def retry_hook(original: Callable[..., Any], switch: Switch) -> Callable[..., Any]:
    """Note each attempt that the SDK gives up and makes again: a lost one may have been billed.

    The method that waits before an attempt is called from where the error of the last one is handled, with the answer
    where there was one: an error status costs nothing.
    """

    @functools.wraps(original)
    def sleep_for_retry(client: Any, *args: Any, **kwargs: Any) -> Any:
        exchange = under_way.get()
        if exchange is not None and switch.applied and kwargs.get("response") is None:
            error = sys.exception()
            if error is None or was_sent(error):
                exchange.lost += 1
        return original(client, *args, **kwargs)

    return sleep_for_retry


def targets(client_base: ModuleType, open_exchange: OpenExchange) -> Iterator[Target]:
    """What to wrap in an SDK's module of client bases."""
    for owner, hook in ((client_base.SyncAPIClient, sync_hook), (client_base.AsyncAPIClient, async_hook)):
        yield Target(owner, "request", functools.partial(hook, open_exchange=open_exchange))
        if "_sleep_for_retry" in vars(owner):
            yield Target(owner, "_sleep_for_retry", retry_hook)


def is_a(error: object, *names: str) -> bool:
    """True when a class of ``error`` has one of these names. By name, as this imports no SDK."""
    return any(kind.__name__ in names for kind in type(error).__mro__)
