"""Anthropic's message batches: asked for at once, answered within a day, at the batch price.

POST messages/batches            admitted as one call; each of its requests then has a hold of its own
GET  messages/batches/…/results  each result is charged once, however often it is read
GET  messages/batches/…, cancel  free; a batch that ended without any answer gives its holds back
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from pydantic_core import from_json

from actguard.guards.dividing import Part
from actguard.integrations.anthropic_bound import bound_of
from actguard.integrations.anthropic_request import estimate_of, output_limit_of, provider_of
from actguard.integrations.anthropic_usage import field, price_context, read_usage
from actguard.integrations.batches import BATCH_PRICE, Batches, batches, request_of
from actguard.integrations.bodies import BodyReader, meter_body, unread
from actguard.integrations.items import meter_items
from actguard.integrations.metering import FREE, Bill, Bound, Outcome, Request, Settlement, Unknown
from actguard.integrations.stainless import StainlessExchange, http_response_of, path_of
from actguard.integrations.streams import StreamMeter, StreamReader
from actguard.money.usage import Usage

API = "messages.batches"
BATCHES = re.compile(r"(?:^|/)v1/messages/batches(?:/(?P<id>[^/]+)(?:/(?P<what>results|cancel))?)?$")
"""The paths of batches."""


class BatchExchange(StainlessExchange):
    """Anything that is asked of the batches of one client."""

    def __init__(self, client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__(client, args, kwargs)
        client_class: Any = type(client)
        self.provider = provider_of(client_class)
        self._settlement: Settlement | None = None
        self._batches: Batches = batches.here()

    def answer(self, result: Any, settlement: Settlement) -> Any:
        self._settlement = settlement
        return super().answer(result, settlement)

    def bill(self, answer: Any) -> Bill | None:
        return None

    def reader(self) -> StreamReader:
        raise NotImplementedError("batches are not streamed as events")

    @property
    def batch_id(self) -> str:
        """The batch that the request is about."""
        found = BATCHES.search(path_of(self.options))
        return "" if found is None else found["id"] or ""


class SubmittedBatch(BatchExchange):
    """A batch that is submitted."""

    @cached_property
    def parts(self) -> dict[str, Part]:
        """What each of its requests is expected to use, by its ``custom_id``."""
        return {str(each.get("custom_id")): _part(each.get("params")) for each in self._requests()}

    def _requests(self) -> Iterable[Mapping[str, Any]]:
        requests = self.body.get("requests")
        if requests is not None and not isinstance(requests, list):
            requests = list(requests)  # a generator, which can be read once
            self.replace_in_body({"requests": requests})
        return [each for each in requests or () if isinstance(each, Mapping)]

    def request(self) -> Request:
        return request_of(self.parts.values(), API, "unknown")

    def bound(self) -> Bound | None:
        if len({part.model for part in self.parts.values()}) > 1:
            return Bound(0, unbounded="its requests name different models")
        most: dict[str, Usage] = {}
        for each in self._requests():
            params = each.get("params")
            of_one = bound_of(params if isinstance(params, Mapping) else {}, 1)
            name = str(each.get("custom_id"))
            limit = self.parts[name].output_limit
            if of_one.unbounded is not None or limit is None:
                return Bound(0, unbounded=of_one.unbounded or "one of its requests has no max_tokens")
            most[name] = Usage(uncached_input_tokens=of_one.input_tokens, output_tokens=limit)
        for name, usage in most.items():
            self.parts[name] = self.parts[name]._replace(most=usage)
        return Bound.of_parts(list(most.values()), self.attempts)

    def without_usage(self, answer: Any) -> Outcome:
        batch_id = field(answer, "id")
        if not isinstance(batch_id, str) or self._settlement is None:
            return Unknown()
        self._batches.submitted(self._settlement, batch_id, self.parts)
        return FREE


class BatchStatus(BatchExchange):
    """A batch that is looked at, or cancelled."""

    refusable = False

    def request(self) -> Request:
        return Request(model="unknown", api=API, output_limit=0)

    def failure(self, error: BaseException) -> Outcome:
        return FREE

    def without_usage(self, answer: Any) -> Outcome:
        if field(answer, "processing_status") == "ended":
            counts = field(answer, "request_counts")
            if field(counts, "succeeded") == 0:
                self._batches.came_to_nothing(self.batch_id)
        return FREE


class BatchResults(BatchStatus):
    """The results of a batch, read line by line."""

    def answer(self, result: Any, settlement: Settlement) -> Any:
        self._settlement = settlement
        if not hasattr(type(result), "__decode__"):
            return self._raw(result, settlement)
        meter_items(result, result.http_response, "__decode__", StreamMeter(self.reader(), settlement, result))
        return result

    def reader(self) -> StreamReader:
        return ResultsReader(self)

    def _raw(self, result: Any, settlement: Settlement) -> Any:
        """The results as an HTTP response, with its body read or not."""
        response = http_response_of(result)
        if response is not None and unread(response):
            meter_body(response, LinesBodyReader(response, self.reader()), settlement, result)
        else:
            for line in () if response is None else response.content.splitlines():
                if line.strip():
                    self.read(from_json(line))
            settlement.release()
        return result

    def read(self, line: Any) -> None:
        """Charge one result."""
        name, result = field(line, "custom_id"), field(line, "result")
        if isinstance(name, str) and self._settlement is not None:
            self._batches.result(self._settlement, self.batch_id, name, _bill(result))


class ResultsReader(StreamReader):
    """Charges each result as it is read; the reading itself costs nothing."""

    tells_progress = False

    def __init__(self, exchange: BatchResults) -> None:
        self._exchange = exchange

    def feed(self, item: Any) -> bool:
        self._exchange.read(item)
        return True

    def bill(self, complete: bool) -> Outcome:
        return FREE


class LinesBodyReader(BodyReader):
    """A body of JSON lines: each goes to the reader of the results."""

    tells_progress = False

    def __init__(self, response: Any, items: StreamReader) -> None:
        super().__init__(response)
        self._items = items
        self._line = b""

    def read(self, chunk: bytes) -> None:
        *lines, self._line = (self._line + chunk).split(b"\n")
        for line in lines:
            self._read_line(line)

    def _read_line(self, line: bytes) -> None:
        if line.strip():
            self._items.feed(from_json(line))

    def bill(self, complete: bool) -> Outcome:
        if complete:
            self._read_line(self._line)
        return self._items.bill(complete)


def _part(params: Any) -> Part:
    body = params if isinstance(params, Mapping) else {}
    model = body.get("model")
    return Part(
        model if isinstance(model, str) and model else "unknown",
        estimate_of(body),
        output_limit_of(body),
        context=BATCH_PRICE,
    )


def _bill(result: Any) -> Bill | None:
    """What one result costs; None when the request came to nothing: errors, cancellation and expiry are free."""
    message = field(result, "message")
    if field(result, "type") != "succeeded" or message is None:
        return None
    block = field(message, "usage")
    usage, model = read_usage(block), field(message, "model")
    context = {**price_context(block), **BATCH_PRICE}
    context.pop("service_tier", None)
    return Bill(usage or Usage(), model=model if isinstance(model, str) and model else None, context=context)
