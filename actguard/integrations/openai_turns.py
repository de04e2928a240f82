"""What a WebSocket connection to OpenAI costs: one call for each answer, asked for or given by the server on its own.

A `Conversation` sees every message of a connection, in both directions, and never waits:

    response.create (ours)     a `TurnExchange`: admitted like any call, refused over budget, limited by hard scopes
    response.created           the answer begins: the oldest request that waits for one; else the server began it
    response.….delta           read along; a limit that is reached stops the answer
    response.completed, .done  charged with its usage, once per response id
    the connection ends        what was begun is charged as estimated, what was not is given back

Realtime servers answer on their own when they hear a pause: sending audio counts as asking for one answer, unless the
session says that there will be none. The transcription of that audio is a call of another model.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from actguard.exceptions import BudgetExceededError
from actguard.guards.bounding import Bound
from actguard.guards.budget import BudgetGuard
from actguard.integrations.metering import FREE, Exchange, Outcome, Request, Settlement, question
from actguard.integrations.openai_bound import LIMIT_FIELDS, bound_of
from actguard.integrations.openai_request import asked_effort, input_estimate, model_of, output_limit
from actguard.integrations.openai_streams import OpenAIReader, ResponsesReader
from actguard.integrations.openai_usage import bill_of, field
from actguard.integrations.streams import StreamMeter
from actguard.money.usage import Usage

REMEMBERED = 1_000
"""How many answers of a connection are remembered; the oldest are forgotten first."""
_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled"})
_BEGINS = frozenset({"response.created", "response.queued", "response.in_progress"})


class Turn:
    """One answer, from the request for it until its end."""

    __slots__ = ("event_id", "lane", "meter", "on_its_own", "reader", "sent", "settlement")

    def __init__(self, reader: OpenAIReader, settlement: Settlement, *, lane: Any, event_id: Any, sent: int) -> None:
        self.reader = reader
        self.settlement = settlement
        self.meter: StreamMeter | None = None
        """What reads it along, once it has begun: until then it is expected to be as long as any."""
        self.lane = lane
        self.event_id = event_id
        self.sent = sent
        """How much was sent when it was asked for."""
        self.on_its_own = False
        """The server has begun it."""


class TurnExchange(Exchange):
    """The request for one answer."""

    def __init__(self, conversation: Conversation, event: dict[str, Any]) -> None:
        super().__init__(None, (), {})
        self.conversation = conversation
        self.event = event
        self.provider = conversation.provider
        self.base_url = conversation.base_url
        self.changed = False
        """The event is not sent as the caller wrote it."""
        self.turn: Turn | None = None

    def request(self) -> Request:
        return self.conversation.request(self.event)

    def bound(self) -> Bound | None:
        return self.conversation.bound(self.event)

    def reasoning_effort(self) -> Any:
        return asked_effort(self.event)

    def limit_output(self, tokens: int) -> None:
        self.conversation.limit(self.event, tokens)
        self.changed = True

    def failure(self, error: BaseException) -> Outcome:
        self.conversation.forget(self.turn)
        return FREE

    def answer(self, result: Any, settlement: Settlement) -> Any:
        self.turn = self.conversation.asked(self.event, settlement)
        return result


class Conversation:
    """The answers of one connection. Not thread-safe by itself: see `openai_sockets`."""

    api = "responses"

    def __init__(self, provider: str, base_url: str | None, model: str | None) -> None:
        self.provider = provider
        self.base_url = base_url
        self.model = model
        self.budget: BudgetGuard | None = None
        """The scope in which something was sent last: it pays for what the server does on its own."""
        self.due: BudgetExceededError | None = None
        """A crossing to raise as soon as no answer is on its way."""
        self.sent = 0
        """The most input tokens of everything that was sent."""
        self._waiting: list[Turn] = []
        self._running: dict[Any, Turn] = {}
        self._ended: OrderedDict[str, int] = OrderedDict()
        """Response ids, with the tokens of each answer and of what it answered."""

    @property
    def busy(self) -> bool:
        """True while an answer is on its way."""
        return bool(self._running)

    # --- sending --------------------------------------------------------------------------------------------------

    def sending(self, event: dict[str, Any]) -> TurnExchange | None:
        """A message will be sent: an exchange when it asks for an answer."""
        return TurnExchange(self, event) if event.get("type") == "response.create" else None

    def request(self, event: Mapping[str, Any]) -> Request:
        """What the request for an answer says about its cost."""
        carried = self._ended.get(str(event.get("previous_response_id")), 0)
        estimate = input_estimate("responses", None, event) + Usage(cache_read_tokens=carried)
        return Request(
            model=model_of("responses", event),
            api=self.api,
            stream=True,
            estimate=estimate,
            output_limit=output_limit("responses", event),
        )

    def bound(self, event: Mapping[str, Any]) -> Bound:
        """The most it can cost. An earlier answer that it continues is bounded when this connection has seen it."""
        carried = self._ended.get(str(event.get("previous_response_id")))
        body = dict(event) if carried is None else {**event, "previous_response_id": None}
        bound = bound_of("responses", body, 1)
        if carried is None or bound.unbounded is not None:
            return bound
        return Bound(bound.input_tokens + carried, least_output=bound.least_output)

    def limit(self, event: dict[str, Any], tokens: int) -> None:
        """Have the event say that its answer may have no more than ``tokens``."""
        event[LIMIT_FIELDS["responses"][0]] = tokens

    def asked(self, event: Mapping[str, Any], settlement: Settlement) -> Turn:
        """The request for an answer was admitted and will be sent now."""
        reader = self.reader(self.request(event).estimate)
        turn = Turn(reader, settlement, lane=event.get("stream_id"), event_id=event.get("event_id"), sent=self.sent)
        self._waiting.append(turn)
        return turn

    def forget(self, turn: Turn | None) -> None:
        """It was not sent."""
        if turn in self._waiting:
            self._waiting.remove(turn)

    def reader(self, estimate: Usage) -> OpenAIReader:
        """What reads an answer along."""
        return ResponsesReader(estimate)

    # --- receiving ------------------------------------------------------------------------------------------------

    def received(self, event: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """A message has arrived. What to send in turn, to stop an answer; an empty event: close the connection."""
        kind = str(event.get("type"))
        if kind == "error":
            self._failed(event)
            return None
        if not kind.startswith("response."):
            return None
        place = self.place(event)
        turn = self._running.get(place)
        if turn is None:
            response_id = field(event.get("response"), "id")
            if (kind in _BEGINS or self.ends(kind)) and response_id not in self._ended:
                turn = self._begin(place, event.get("stream_id"))
            if turn is None:
                return None
        meter = turn.meter
        if meter is None:
            return None
        meter.received(event)
        if self.ends(kind):
            self._end(place, turn, event.get("response"))
        elif meter.must_close:
            meter.must_close = False
            return self.stop(place)
        return None

    def place(self, event: Mapping[str, Any]) -> Any:
        """Where the answer that an event belongs to runs: a connection has lanes, one answer at a time in each."""
        return event.get("stream_id")

    def ends(self, kind: str) -> bool:
        """True for the last event of an answer."""
        return kind in _ENDS

    def stop(self, place: Any) -> Mapping[str, Any]:
        """The event that stops an answer at the provider; there is none in this API."""
        return {}

    def closed(self) -> BudgetExceededError | None:
        """The connection has ended. Charges what is known of each answer; the crossing to raise, if there is one."""
        waiting, self._waiting = self._waiting, []
        running, self._running = self._running, {}
        for turn in waiting:
            if turn.settlement.settled:
                continue
            turn.settlement.unknown()  # it was sent, and nobody knows how far the server has come with it
        for turn in running.values():
            self._finish(turn, ConnectionError("the connection has ended"))
        error, self.due = self.due, None
        return error

    # --- inside ---------------------------------------------------------------------------------------------------

    def _begin(self, place: Any, lane: Any) -> Turn | None:
        turn = next((each for each in self._waiting if each.lane == lane), None)
        if turn is not None:
            self._waiting.remove(turn)
        else:
            turn = self.on_its_own(lane)
        if turn is not None:
            turn.meter = StreamMeter(turn.reader, turn.settlement)
            self._running[place] = turn
        return turn

    def on_its_own(self, lane: Any) -> Turn | None:
        """The server has begun an answer that nobody asked for: the scope in which something was sent last pays."""
        settlement = self.unasked()
        if settlement is None:
            return None
        turn = Turn(self.reader(Usage()), settlement, lane=lane, event_id=None, sent=self.sent)
        turn.on_its_own = True
        return turn

    def unasked(self, model: str | None = None) -> Settlement | None:
        """A call that the server makes on its own: it is charged and cannot be refused any more."""
        budget = self.budget
        if budget is None or not budget.ready:
            return None
        exchange = _Unasked(self, {"model": model or self.model})
        return Settlement(budget.admit(question(budget, exchange)), budget)

    def _end(self, place: Any, turn: Turn, response: Any) -> None:
        self._running.pop(place, None)
        response_id = field(response, "id")
        if isinstance(response_id, str):
            bill = bill_of(response)
            self.remember(response_id, 0 if bill is None else bill.usage.total_tokens)
        self.over(turn, response)
        self._finish(turn, StopIteration())
        if self.due is not None and self.due.response is None:
            self.due.response = response

    def remember(self, answer_id: str, tokens: int = 0) -> None:
        """The answer with this id is charged."""
        self._ended[answer_id] = tokens
        while len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)

    def over(self, turn: Turn, response: Any) -> None:
        """An answer has ended."""

    def _finish(self, turn: Turn, how: Exception) -> None:
        crossing = None if turn.meter is None else turn.meter.ended(how, StopIteration)
        if isinstance(crossing, BudgetExceededError):
            self.due = crossing

    def _failed(self, event: Mapping[str, Any]) -> None:
        lane, event_id = event.get("stream_id"), field(event.get("error"), "event_id")
        turn = next((t for t in self._waiting if t.lane == lane and event_id in (None, t.event_id)), None)
        if turn is not None:  # what runs in the lane goes on
            self._waiting.remove(turn)
            turn.settlement.release()
        elif (turn := self._running.pop(lane, None)) is not None:
            self._finish(turn, ConnectionError("the answer has failed"))


class _Unasked(TurnExchange):
    """A call that the server makes on its own."""

    refusable = False

    def request(self) -> Request:
        return Request(model=self.event["model"] or "unknown", api=self.conversation.api, stream=True)
