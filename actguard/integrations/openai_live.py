"""Live sessions and realtime translations, which are billed by the second of sound, from their start to their end.

A live session reports its seconds while it runs and when it is closed. A translation reports nothing: it is charged, as
estimated, by the sound that was sent. The answers and decisions that a live session has other models make are calls of
those, charged by the usage that comes with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actguard.guards.bounding import Bound
from actguard.integrations.metering import Bill, Outcome, Request, Settlement
from actguard.integrations.openai_streams import OpenAIReader
from actguard.integrations.openai_turns import Conversation, Turn, TurnExchange
from actguard.integrations.openai_usage import bill_of, field, is_count
from actguard.integrations.streams import NEVER, StreamMeter
from actguard.money.usage import Usage

BYTES_PER_SECOND = 48_000
"""Of the sound that a translation is sent: 24 kHz, 16 bits, one channel."""
_STARTS = frozenset({"session.start", "session.input_audio_buffer.append"})
_NESTED = {"response.event": ("event", "response"), "decision.event": ("event", "decision")}
_SESSION = "session"


class TimedConversation(Conversation):
    """A session that is billed by the second."""

    api = "live"

    def sending(self, event: dict[str, Any]) -> TurnExchange | None:
        kind = event.get("type")
        exchange = TurnExchange(self, event) if kind in _STARTS and _SESSION not in self._running else None
        if kind == "session.input_audio_buffer.append":
            self.sent += len(str(event.get("audio") or "")) * 3 // 4
        return exchange

    def request(self, event: Mapping[str, Any]) -> Request:
        model = field(event.get("session"), "model") or self.model
        return Request(model=model or "unknown", api=self.api, stream=True, output_limit=0)

    def bound(self, event: Mapping[str, Any]) -> Bound:
        return Bound(0, unbounded="a session is billed by the second, however long it takes")

    def asked(self, event: Mapping[str, Any], settlement: Settlement) -> Turn:
        turn = Turn(TimedReader(self), settlement, lane=None, event_id=event.get("event_id"), sent=0)
        if _SESSION in self._running:  # another thread has started it meanwhile
            settlement.release()
            return turn
        turn.meter = StreamMeter(turn.reader, settlement)
        self._running[_SESSION] = turn
        return turn

    def forget(self, turn: Turn | None) -> None:
        if turn is not None and self._running.get(_SESSION) is turn:
            del self._running[_SESSION]

    def received(self, event: Mapping[str, Any]) -> Mapping[str, Any] | None:
        kind, turn = event.get("type"), self._running.get(_SESSION)
        if kind in _NESTED:
            self._delegated(event, *_NESTED[kind])
        elif turn is not None and turn.meter is not None and kind in ("session.usage.updated", "session.closed"):
            turn.meter.received(event)
            if kind == "session.closed":
                self._end(_SESSION, turn, None)
            elif turn.meter.must_close:
                turn.meter.must_close = False
                return {}
        return None

    def _delegated(self, event: Mapping[str, Any], *path: str) -> None:
        """An event of an answer that another model was asked for; its last one has usage."""
        answer: Any = event
        for name in path:
            answer = field(answer, name) or answer
        bill = bill_of(answer)
        answer_id = field(answer, "id")
        if bill is None or bill.model is None or answer_id in self._ended:
            return
        if (settlement := self.unasked(bill.model)) is None:
            return
        if isinstance(answer_id, str):
            self.remember(answer_id)
        settlement.charge(bill._replace(id=None))
        self.due = settlement.take_error() or self.due


class TimedReader(OpenAIReader):
    """The seconds of a session."""

    def __init__(self, conversation: TimedConversation) -> None:
        super().__init__(Usage())
        self._conversation = conversation
        self._seconds: float = 0
        self._ended = False

    def feed(self, item: Any) -> bool:
        seconds = field(item.get("usage"), "seconds")
        if is_count(seconds):
            self._seconds = seconds
            self._ended = item.get("type") == "session.closed"
        self.output_seen += 2 * NEVER  # no tokens, but ask the budget every time
        return True

    def at_least(self) -> Usage:
        return self.so_far()

    def bill(self, complete: bool) -> Outcome:
        seconds = self._seconds or self._conversation.sent / BYTES_PER_SECOND
        return Bill(Usage(details={"audio_seconds": seconds} if seconds else {}), estimated=not self._ended)
