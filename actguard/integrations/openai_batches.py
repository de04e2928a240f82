"""OpenAI's batches: held when they are submitted, charged with the batch discount when their results are known.

    POST files, purpose=batch      read along, so that a batch of this file can be held      `UploadExchange`
    POST batches                   admitted with what the requests of the file may cost      `BatchExchange`
    GET batches, GET batches/ID,   an ended batch: charged with its whole usage, or given    `BatchFetch`
      POST batches/ID/cancel         back; else its output file is remembered
    GET files/ID/content           the output of a batch: each line is charged, once         `ResultsExchange`

A batch that reports its usage is charged with that, unless the model's price rises with the size of a call: then, and
where it reports none, the lines of its output file are charged, one by one, when they are read.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

from pydantic_core import from_json

from actguard.context import active_budget
from actguard.guards.bounding import Bound
from actguard.guards.dividing import Part
from actguard.integrations.batches import BATCH_PRICE, batches, request_of
from actguard.integrations.bodies import BodyReader, meter_body, unread
from actguard.integrations.degraded import NOT_COUNTED, report
from actguard.integrations.metering import Bill, Outcome, Request, Settlement, Unknown
from actguard.integrations.openai_bound import bound_of
from actguard.integrations.openai_fetch import FetchExchange
from actguard.integrations.openai_request import billed_api, input_estimate, model_of, output_limit, outputs
from actguard.integrations.openai_usage import bill_of, field, fields_of
from actguard.integrations.stainless import http_response_of, json_of
from actguard.locks import SettlingLock
from actguard.money.usage import Usage

READ_BYTES = 64 * 2**20
"""The longest file that is read for its requests or results, in bytes."""
REMEMBERED = 100_000
"""How many requests of files are remembered, and how many names of results; the oldest files are forgotten first."""
_ENDED = frozenset({"completed", "failed", "cancelled", "expired"})
_HUGE = 10**9
"""More input tokens than any tier of a price starts at."""
_FETCHED = re.compile(r"(?:^|/)batches(?:/[^/]+)?$")
_CANCELLED = re.compile(r"(?:^|/)batches/[^/]+/cancel$")
_CONTENT = re.compile(r"(?:^|/)files/([^/]+)/content$")
_NO_FILES = SimpleNamespace(files=())

FileKey = tuple[str, str]
"""The base URL of the API, and a file's id there."""


class BatchInput(NamedTuple):
    """The requests of an input file."""

    parts: Mapping[str, Part]
    """By their ``custom_id``."""
    unbounded: str | None
    """Why it can cost more than it shows; None: it cannot."""


class _Files:
    """What is known about the files of batches, in this process: file ids are unique at their provider."""

    def __init__(self) -> None:
        self._lock = SettlingLock()
        self._known: OrderedDict[FileKey, tuple[Any, int]] = OrderedDict()
        self._size = 0

    def put(self, key: FileKey, value: Any, size: int = 1) -> None:
        with self._lock:
            self._size += size - self._known.pop(key, (None, 0))[1]
            self._known[key] = value, size
            while self._size > REMEMBERED and len(self._known) > 1:
                self._size -= self._known.popitem(last=False)[1][1]

    def get(self, key: FileKey) -> Any:
        with self._lock:
            return self._known.get(key, (None, 0))[0]


_inputs, _outputs = _Files(), _Files()


def batch_exchange(method: str, path: str) -> Callable[..., FetchExchange] | None:
    """The exchange for a request that has to do with batches; None for any other."""
    if method == "post":
        if path == "files" or path.endswith("/files"):
            return None if "vector_stores/" in path or "containers/" in path else UploadExchange
        if path == "batches" or path.endswith("/batches"):
            return BatchExchange
        return BatchFetch if _CANCELLED.search(path) else None
    if method == "get":
        if _CONTENT.search(path):
            return ResultsExchange
        return BatchFetch if _FETCHED.search(path) else None
    return None


class UploadExchange(FetchExchange):
    """The upload of a file, which is free. The requests of a batch are read from it."""

    def answer(self, result: Any, settlement: Settlement) -> Any:
        settlement.release()
        file_id = field(_answer_of(result), "id")
        if isinstance(file_id, str) and self.body.get("purpose") == "batch":
            content = _content_of(self.options.files)
            if content is not None:
                known = batch_input(content)
                _inputs.put((self.base_url or "", file_id), known, len(known.parts))
        return result


class BatchExchange(FetchExchange):
    """The submission of a batch."""

    refusable = True

    @property
    def _input(self) -> BatchInput | None:
        known = _inputs.get((self.base_url or "", str(self.body.get("input_file_id"))))
        return known if isinstance(known, BatchInput) else None

    def request(self) -> Request:
        known = self._input
        return request_of(() if known is None else known.parts.values(), "batches", model_of("batches", self.body))

    def bound(self) -> Bound:
        known = self._input
        if known is None:
            return Bound(0, unbounded="its input file was not uploaded in this budget scope")
        if known.unbounded is not None:
            return Bound(0, unbounded=known.unbounded)
        if len({part.model for part in known.parts.values()}) > 1:
            return Bound(0, unbounded="its requests name different models")
        return Bound.of_parts([part.most for part in known.parts.values() if part.most is not None], self.attempts)

    def failure(self, error: BaseException) -> Outcome:
        return super(FetchExchange, self).failure(error)  # it costs something, unlike the fetching of an answer

    def answer(self, result: Any, settlement: Settlement) -> Any:
        batch_id, known = field(_answer_of(result), "id"), self._input
        if isinstance(batch_id, str) and known is not None:
            batches.here().submitted(settlement, batch_id, known.parts)
        else:
            settlement.release()
        return result


class BatchFetch(FetchExchange):
    """A request that shows a batch, or several."""

    def answer(self, result: Any, settlement: Settlement) -> Any:
        answer = _answer_of(result)
        data = field(answer, "data")
        if isinstance(data, list):  # which lists everybody's
            for batch in data:
                self._see(batch, settlement, batches.here().knows(str(field(batch, "id"))))
        else:
            self._see(answer, settlement, ours=True)
        settlement.release()
        return result

    def _see(self, batch: Any, settlement: Settlement, ours: bool) -> None:
        batch_id, status, output = (field(batch, name) for name in ("id", "status", "output_file_id"))
        if not isinstance(batch_id, str) or status not in _ENDED:
            return
        if isinstance(output, str):
            _outputs.put((self.base_url or "", output), batch_id)
        if not ours:
            return
        bill = bill_of(batch)
        if bill is not None and not bill.usage.is_zero:
            self._charge_whole(batch_id, bill, settlement)
        elif not isinstance(output, str):
            batches.here().came_to_nothing(batch_id)

    def _charge_whole(self, batch_id: str, bill: Bill, settlement: Settlement) -> None:
        seen = batches.here()
        model = bill.model or seen.model_of(batch_id)
        if model is not None and not _rises_with_size(settlement.provider, model):
            seen.whole(settlement, batch_id, bill)


class ResultsExchange(FetchExchange):
    """The download of a file, which is free. If it is the output of a batch, its lines are charged."""

    def answer(self, result: Any, settlement: Settlement) -> Any:
        response = http_response_of(result)
        if response is None:
            settlement.release()
        elif unread(response):
            reader = _ResultsReader(response, lambda body: self._charge(body, settlement))
            meter_body(response, reader, settlement, result)
        else:
            self._charge(response.content, settlement)
            settlement.release()
        return result

    def _charge(self, content: bytes, settlement: Settlement) -> None:
        if not _has_results(content):
            return
        if len(content) > READ_BYTES:
            report("read the results of a batch", self.provider, ValueError("too long"), NOT_COUNTED)
            return
        file_id = path_file_id(self.api)
        seen = batches.here()
        batch_id = _outputs.get((self.base_url or "", file_id)) or file_id
        for name, bill in results(content):
            seen.result(settlement, batch_id, name, bill)
        seen.came_to_nothing(batch_id)  # what has no result was not billed


class _ResultsReader(BodyReader):
    """The output file of a batch, while the caller reads it: charged when it has come to its end."""

    tells_progress = False

    def __init__(self, response: Any, charge: Callable[[bytes], None]) -> None:
        super().__init__(response)
        self._charge = charge
        self._start = b""

    def read(self, chunk: bytes) -> None:
        """Only what kind of file it is: a part of it would be charged without the rest."""
        self._start = self._start or chunk

    def bill(self, complete: bool) -> Outcome:
        body = self.body
        if complete and body is not None:
            self._charge(body)
        elif complete and _has_results(self._start):
            report("read the results of a batch", "openai", ValueError("too long"), NOT_COUNTED)
        return None


def _has_results(content: bytes) -> bool:
    """True for the output of a batch, by its first line; the files of other people's making are none."""
    first = content[:READ_BYTES].lstrip().partition(b"\n")[0]
    return first.startswith(b"{") and b'"custom_id"' in first


def path_file_id(path: str) -> str:
    """The id of the file whose content a path names."""
    found = _CONTENT.search(path)
    return "" if found is None else found[1]


def batch_input(content: bytes) -> BatchInput:
    """The requests of an input file, one JSON object a line; what is none is left out: the provider refuses it."""
    parts: dict[str, Part] = {}
    unbounded: str | None = None
    for number, line in enumerate(content.splitlines()):
        request = _json(line)
        body = request.get("body")
        api = billed_api(str(request.get("url") or "").strip("/"))
        if api is None or not isinstance(body, Mapping):
            continue
        part, why = _part(api, body)
        parts[str(request.get("custom_id") or number)] = part
        unbounded = unbounded or why
    return BatchInput(parts, unbounded)


def _part(api: str, body: Mapping[str, Any]) -> tuple[Part, str | None]:
    estimate, limit = input_estimate(api, _NO_FILES, body), output_limit(api, body)
    bound = bound_of(api, body, 1)
    output = bound.output_tokens if bound.output_tokens is not None else limit
    why = bound.unbounded or ("a request of it names no output limit" if output is None else None)
    most = None
    if why is None and output is not None:
        answers = outputs(api, body) if bound.output_tokens is None else 1
        most = Usage(uncached_input_tokens=bound.input_tokens, output_tokens=output * answers)
    whole = None if limit is None else limit * outputs(api, body)
    return Part(model_of(api, body), estimate, whole, most, BATCH_PRICE), why


def results(content: bytes) -> Iterator[tuple[str, Bill | Unknown | None]]:
    """The results in an output file: the name of each request, and what it did cost (None: nothing)."""
    for number, line in enumerate(content.splitlines()):
        result = _json(line)
        response = result.get("response")
        if not isinstance(response, Mapping):
            continue
        name, bill = str(result.get("custom_id") or number), bill_of(response.get("body"))
        if bill is not None:
            yield name, bill._replace(context=BATCH_PRICE, id=None)
        else:
            yield name, None if response.get("status_code") != 200 else Unknown()


def _json(line: bytes) -> Mapping[str, Any]:
    try:
        value = from_json(line) if line.strip() else {}
    except ValueError:
        return {}
    return value if isinstance(value, Mapping) else {}


def _rises_with_size(provider: str, model: str) -> bool:
    """True when a call with much input costs more per token: the usage of many calls is then not priced as one."""
    budget = active_budget()
    if budget is None:
        return False
    small, large = (
        budget.prices.marginal_rates(provider, model, BATCH_PRICE, input_tokens=tokens) for tokens in (0, _HUGE)
    )
    return bool(small != large)


def _answer_of(result: Any) -> Any:
    """The answer that the SDK returned, a model or parsed JSON; nothing of a body that was not read."""
    response = http_response_of(result)
    if response is None:
        return result
    return {} if unread(response) else fields_of(json_of(response))


def _content_of(files: Any) -> bytes | None:
    """The content of the one file that is uploaded, where it can be read without using it up."""
    entries = list(files.values()) if isinstance(files, Mapping) else [entry[1] for entry in files or ()]
    if len(entries) != 1:
        return None
    content = entries[0][1] if isinstance(entries[0], tuple) and len(entries[0]) > 1 else entries[0]
    if isinstance(content, str):
        content = content.encode()
    if isinstance(content, bytes | bytearray):
        return bytes(content) if len(content) <= READ_BYTES else None
    try:
        here = content.tell()
        content.seek(0)
        read = content.read(READ_BYTES + 1)
        content.seek(here)
    except (AttributeError, OSError, ValueError):
        return None
    return read if isinstance(read, bytes) and len(read) <= READ_BYTES else None
