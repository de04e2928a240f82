"""Gemini's batches: asked for at once, answered within a day, at the batch price.

A batch whose requests are in the call that submits it is held then, and charged when it is fetched with its answers,
each of them once. One whose requests and answers are in files cannot be counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from actguard.guards.dividing import Part
from actguard.integrations.batches import BATCH_PRICE, Batches, batches, request_of
from actguard.integrations.google_bound import bound_of
from actguard.integrations.google_conversion import conversion_takes
from actguard.integrations.google_failures import outcome_of
from actguard.integrations.google_options import argument, attempts
from actguard.integrations.google_request import candidates, estimate, output_limit
from actguard.integrations.google_usage import count, model_of, read_embeddings_usage, read_usage
from actguard.integrations.metering import FREE, Bill, Bound, Exchange, Outcome, Request, Settlement, Unknown
from actguard.money.usage import Usage

PROVIDER = "google"
API = "batches"
SUBMIT = re.compile(r"^/*(?P<model>.+):(?P<method>batchGenerateContent|asyncBatchEmbedContent)(?:\?.*)?$")
FETCH = re.compile(r"^/*batches/(?P<id>[^/:?]+)(?:\?.*)?$")
IN_A_FILE = "batches whose requests are in a file"
_CAME_TO_NOTHING = ("FAILED", "CANCELLED", "EXPIRED")


class GoogleBatch(Exchange):
    """What batches have in common."""

    provider = PROVIDER

    def __init__(self, client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__(client, args, kwargs)
        self._batches: Batches = batches.here()


class SubmittedBatch(GoogleBatch):
    """A batch that is submitted."""

    def __init__(self, client: Any, args: tuple[Any, ...], kwargs: dict[str, Any], model: str, generates: bool) -> None:
        super().__init__(client, args, kwargs)
        self.model = model.removeprefix("models/")
        self._generates = generates
        if self._requests is None:
            self.uncounted = IN_A_FILE

    @cached_property
    def _requests(self) -> list[Mapping[str, Any]] | None:
        """The requests in the body; None when they are in a file."""
        body: Any = argument(self.args, self.kwargs, 2, "request_dict")
        for name in ("batch", "inputConfig", "requests", "requests"):
            body = body.get(name) if isinstance(body, Mapping) else None
        if not isinstance(body, list):
            return None
        requests = [each.get("request") if isinstance(each, Mapping) else None for each in body]
        return [each if isinstance(each, Mapping) else {} for each in requests]

    @cached_property
    def parts(self) -> dict[str, Part]:
        """What each request is expected to use, by its place in the batch."""
        return {
            str(place): Part(
                self.model,
                estimate(request),
                _output_of(request) if self._generates else 0,
                context=BATCH_PRICE,
            )
            for place, request in enumerate(self._requests or ())
        }

    def request(self) -> Request:
        return request_of(self.parts.values(), API, self.model)

    def bound(self) -> Bound | None:
        if self._requests is None:
            return Bound(0, unbounded="its requests are in a file")
        most: list[Usage] = []
        for place, request in enumerate(self._requests):
            of_one = bound_of(self.model, request, 1, output=self._generates)
            limit = self.parts[str(place)].output_limit
            if of_one.unbounded is not None or limit is None:
                return Bound(0, unbounded=of_one.unbounded or "one of its requests has no output limit")
            most.append(Usage(uncached_input_tokens=of_one.input_tokens, output_tokens=limit))
        for place, usage in enumerate(most):
            self.parts[str(place)] = self.parts[str(place)]._replace(most=usage)
        return Bound.of_parts(most, attempts(self.client, self.args, self.kwargs))

    def failure(self, error: BaseException) -> Outcome:
        return outcome_of(error, attempts(self.client, self.args, self.kwargs))

    def answer(self, result: Any, settlement: Settlement) -> Any:
        name = _json(result).get("name")
        if self._requests is None:
            settlement.release()
        elif isinstance(name, str):
            self._batches.submitted(settlement, name, self.parts)
        else:
            settlement.unknown()
        return result


class FetchedBatch(GoogleBatch):
    """A batch that is looked at, with its answers once it is done."""

    refusable = False

    def request(self) -> Request:
        return Request(model="unknown", api=API, output_limit=0)

    def failure(self, error: BaseException) -> Outcome:
        return FREE

    def answer(self, result: Any, settlement: Settlement) -> Any:
        batch = _json(result)
        name, about = str(batch.get("name")), batch.get("metadata")
        if isinstance(about, Mapping):
            if str(about.get("state")).endswith(_CAME_TO_NOTHING):
                self._batches.came_to_nothing(name)
            for place, response in enumerate(_responses(about.get("output") or batch.get("response"))):
                self._batches.result(settlement, name, str(place), _bill(response, about.get("model")))
        settlement.release()
        conversion_takes(settlement)
        return result


def _output_of(request: Mapping[str, Any]) -> int | None:
    """The most output of a request, all its candidates together; None where it does not say."""
    limit = output_limit(request)
    return None if limit is None else limit * candidates(request)


def _responses(output: Any) -> list[Any]:
    """The answers in the output of a batch; none when they are in a file, or still to come."""
    for name in ("inlinedResponses", "inlinedEmbedContentResponses"):
        inlined = output.get(name) if isinstance(output, Mapping) else None
        responses = inlined.get("inlinedResponses") if isinstance(inlined, Mapping) else None
        if isinstance(responses, list):
            return responses
    return []


def _bill(item: Any, model: Any) -> Bill | Unknown | None:
    """What one answer costs; None for an error, `Unknown` when it does not say."""
    response = item.get("response") if isinstance(item, Mapping) else None
    if not isinstance(response, Mapping):
        return None
    usage = read_usage(response.get("usageMetadata")) or read_embeddings_usage(response)
    if usage is None and (tokens := count(response, "tokenCount")):
        usage = Usage(uncached_input_tokens=tokens)
    if usage is None:
        return Unknown()
    answered = model_of(response) or (str(model).removeprefix("models/") if model else None)
    return Bill(usage, model=answered, context=BATCH_PRICE)


def _json(result: Any) -> Mapping[str, Any]:
    """The JSON of an answer. Up to SDK 1.20 it is decoded already."""
    body = getattr(result, "body", result)
    if isinstance(body, str | bytes):
        try:
            body = json.loads(body)
        except ValueError:
            return {}
    return body if isinstance(body, Mapping) else {}


def open_batch(client: Any, args: tuple[Any, ...], kwargs: dict[str, Any], method: str, path: str) -> Exchange | None:
    """An exchange for submitting or fetching a batch; None for anything else."""
    if method == "post" and (submit := SUBMIT.match(path)):
        return SubmittedBatch(client, args, kwargs, submit["model"], submit["method"] == "batchGenerateContent")
    if method == "get" and FETCH.match(path):
        return FetchedBatch(client, args, kwargs)
    return None
