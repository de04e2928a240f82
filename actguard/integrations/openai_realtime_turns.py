"""Realtime sessions as conversations: the server keeps what was said, and may answer on its own what it hears."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actguard.exceptions import BudgetExceededError
from actguard.guards.bounding import Bound
from actguard.integrations.bounds import Unbounded, most_input, refuse_present
from actguard.integrations.metering import Request, Settlement
from actguard.integrations.openai_realtime import (
    LARGEST_ANSWER,
    SESSION_TOKENS,
    RealtimeReader,
    Session,
    most_of_realtime,
    transcribed,
)
from actguard.integrations.openai_streams import OpenAIReader
from actguard.integrations.openai_turns import Conversation, Turn, TurnExchange
from actguard.integrations.openai_usage import bill_of, field
from actguard.money.usage import Usage

_SETTINGS = frozenset(
    {"session.created", "session.updated", "transcription_session.created", "transcription_session.updated"}
)


class RealtimeConversation(Conversation):
    """A realtime session: the server keeps the conversation, and may answer on its own."""

    api = "realtime"

    def __init__(self, provider: str, base_url: str | None, model: str | None) -> None:
        super().__init__(provider, base_url, model)
        self.session = Session()
        self._expected: Turn | None = None
        """The answer that the server may give on its own to what it hears."""
        self._most = SESSION_TOKENS if model is not None else None
        """The most tokens that the conversation had when it was last known; None: it may have a past."""
        self._known_at = 0
        """How much had been sent then."""
        self._context = Usage()
        self._events = 0

    def sending(self, event: dict[str, Any]) -> TurnExchange | None:
        kind = event.get("type")
        exchange: TurnExchange | None = None
        if kind == "response.create":
            exchange = TurnExchange(self, event)
            if not event.get("event_id"):  # so that an error says which request it is about
                self._events += 1
                event["event_id"] = f"actguard_{self._events}"
                exchange.changed = True
        elif kind == "input_audio_buffer.append" and self._expected is None and self.session.answers_on_its_own:
            exchange = _HeardExchange(self, event)
        elif kind in ("session.update", "transcription_session.update"):
            self.session.update(event.get("session"), asked=True)
        try:
            self.sent += most_of_realtime(event, self.session)
        except Unbounded:
            self._most = None
        self._context += self.session.estimate(event)
        return exchange

    def request(self, event: Mapping[str, Any]) -> Request:
        limit = self.session.output_limit(event.get("response"))
        return Request(
            model=self.session.model or self.model or "unknown",
            api=self.api,
            stream=True,
            estimate=self._context,
            output_limit=limit,
        )

    def bound(self, event: Mapping[str, Any]) -> Bound:
        try:
            response = event.get("response")
            refuse_present(response if isinstance(response, Mapping) else {}, {"prompt": "it uses a stored prompt"})
            self.session.refuse_unbounded(response)
            if self._most is None:
                raise Unbounded("the conversation before it is not known")
            here = most_input(response, lambda part: None) if response else 0
        except Unbounded as why:
            return Bound(0, unbounded=str(why))
        return Bound(self._most + self.sent - self._known_at + here)

    def limit(self, event: dict[str, Any], tokens: int) -> None:
        response = dict(event.get("response") or {})
        response[self.session.limit_field] = min(tokens, LARGEST_ANSWER)
        event["response"] = response

    def asked(self, event: Mapping[str, Any], settlement: Settlement) -> Turn:
        turn = super().asked(event, settlement)
        if event.get("type") != "response.create":
            self._waiting.remove(turn)
            if self._expected is None:
                self._expected = turn
            else:  # another thread was heard meanwhile
                settlement.release()
        return turn

    def forget(self, turn: Turn | None) -> None:
        super().forget(turn)
        if turn is self._expected:
            self._expected = None

    def reader(self, estimate: Usage) -> OpenAIReader:
        return RealtimeReader(estimate, self.session)

    def received(self, event: Mapping[str, Any]) -> Mapping[str, Any] | None:
        kind = event.get("type")
        if kind in _SETTINGS:
            self.session.update(event.get("session"))
        elif kind == "conversation.item.input_audio_transcription.completed":
            self._transcribed(event)
        return super().received(event)

    def place(self, event: Mapping[str, Any]) -> Any:
        return field(event.get("response"), "id") or event.get("response_id")

    def ends(self, kind: str) -> bool:
        return kind == "response.done"

    def stop(self, place: Any) -> Mapping[str, Any]:
        return {"type": "response.cancel", "response_id": place}

    def on_its_own(self, lane: Any) -> Turn | None:
        turn, self._expected = self._expected, None
        if turn is None:
            return super().on_its_own(lane)
        turn.on_its_own = True
        return turn

    def over(self, turn: Turn, response: Any) -> None:
        bill = bill_of(response)
        if bill is None:
            return
        if field(response, "conversation_id") is None and "conversation_id" in response:
            return  # an answer outside the conversation
        usage = bill.usage
        heard = audio_tokens(usage)
        self._context = Usage(
            cache_read_tokens=usage.total_tokens,
            details={"input_audio_tokens": heard, "cache_audio_read_tokens": heard} if heard else {},
        )
        if not turn.on_its_own and self._most is not None:
            self._most, self._known_at = usage.total_tokens + SESSION_TOKENS, turn.sent
        elif self._most is not None:
            self._most += usage.output_tokens

    def closed(self) -> BudgetExceededError | None:
        expected, self._expected = self._expected, None
        if expected is not None:
            expected.settlement.release()
        return super().closed()

    def _failed(self, event: Mapping[str, Any]) -> None:
        event_id = field(event.get("error"), "event_id")
        turn = next((each for each in self._waiting if each.event_id == event_id), None)
        if turn is not None:  # other errors end no answer
            self._waiting.remove(turn)
            turn.settlement.release()

    def _transcribed(self, event: Mapping[str, Any]) -> None:
        bill = transcribed(event, self.session)
        if bill is None or bill.id in self._ended:
            return
        settlement = self.unasked(bill.model)
        if settlement is None:
            return
        self.remember(str(bill.id))
        settlement.charge(bill._replace(id=None))
        self.due = settlement.take_error() or self.due


class _HeardExchange(TurnExchange):
    """Audio that the server may answer on its own."""

    def bound(self) -> Bound:
        return Bound(0, unbounded="the server answers on its own when it hears a pause (turn_detection)")


def audio_tokens(usage: Usage) -> int:
    """The tokens of a call that were sound, heard or spoken."""
    return int(usage.details.get("input_audio_tokens", 0) + usage.details.get("output_audio_tokens", 0))
