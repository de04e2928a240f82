"""OpenAI's requests that are not billed themselves, though their answer may carry a bill."""

from __future__ import annotations

from typing import Any

from actguard.integrations.metering import FREE, Bill, Outcome, Request, Settlement
from actguard.integrations.openai_request import model_of
from actguard.integrations.openai_streams import OpenAIReader, ResponsesReader, RunReader
from actguard.integrations.openai_usage import bill_of, field
from actguard.integrations.stainless import StainlessExchange
from actguard.integrations.streams import StreamReader
from actguard.money.usage import Usage

ENDED_WITHOUT_ANSWER = ("failed", "cancelled", "expired")


class FetchExchange(StainlessExchange):
    """A request whose answer may be one that was generated in the background. It costs nothing by itself."""

    refusable = False

    def __init__(self, client: Any, args: tuple[Any, ...], kwargs: dict[str, Any], api: str, provider: str) -> None:
        super().__init__(client, args, kwargs)
        self.provider = provider
        self.api = api

    def request(self) -> Request:
        return Request(model="unknown", api=self.api, stream=self.streams, output_limit=0)

    def failure(self, error: BaseException) -> Outcome:
        return FREE

    def bill(self, answer: Any) -> Bill | None:
        return bill_of(answer)

    def without_usage(self, answer: Any) -> Outcome:
        answer_id = field(answer, "id")
        status = field(answer, "status")
        if self.api == "responses" and status == "cancelled":
            return FREE  # what was generated until then is billed, and nobody says how much: the estimate stays
        if isinstance(answer_id, str) and status in ENDED_WITHOUT_ANSWER:
            return Bill(Usage(), id=answer_id)  # it came to nothing: give back what was held for it
        return FREE

    def reader(self) -> StreamReader:
        return RunReader(Usage()) if self.api == "threads.runs" else ResponsesReader(Usage())


class UnknownExchange(FetchExchange):
    """A POST that nobody knows to be billable or free: it is not refused, and charged when its answer has usage."""

    def request(self) -> Request:
        return Request(model=model_of(self.api, self.body), api=self.api, stream=self.streams, output_limit=0)

    def reader(self) -> StreamReader:
        return _UnknownReader(Usage())


class UncountedExchange(FetchExchange):
    """A POST that costs something, and no answer says how much. See `openai_surfaces`."""

    refusable = True

    def __init__(
        self, client: Any, args: tuple[Any, ...], kwargs: dict[str, Any], api: str, provider: str, uncounted: str
    ) -> None:
        super().__init__(client, args, kwargs, api, provider)
        self.uncounted = uncounted

    def answer(self, result: Any, settlement: Settlement) -> Any:
        settlement.release()
        return result


class _UnknownReader(OpenAIReader):
    """Any stream of events, one of which may have usage."""

    def feed(self, item: Any) -> bool:
        self._final = bill_of(item) or bill_of(field(item, "response")) or self._final
        return True

    def bill(self, complete: bool) -> Outcome:
        return self._final
