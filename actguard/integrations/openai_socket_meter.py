"""One metered WebSocket between the SDK's connection and its conversation: what happens at each of its messages."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from actguard.context import Process, note_uncounted_call
from actguard.exceptions import BudgetExceededError
from actguard.guards.budget import BudgetGuard
from actguard.integrations.degraded import NOT_COUNTED, report
from actguard.integrations.metering import Call
from actguard.integrations.openai_turns import Conversation, TurnExchange


class SocketMeter:
    """One connection between the SDK and its conversation. Its lock is held only while nothing waits."""

    def __init__(self, conversation: Conversation | None, uncounted: str | None, provider: str) -> None:
        self.conversation = conversation
        self.uncounted = uncounted
        self.provider = provider
        self.quiet = False
        """Somebody else receives for the one who sends: a crossing is not raised there, it refuses the next request."""
        self.lock = threading.RLock()

    def sending(self, message: object, budget: BudgetGuard | None) -> TurnExchange | None:
        """A message will be sent: an exchange when it has to be admitted.

        Raises:
            GuardError: it cannot be counted, and the scope needs to know what it costs.
        """
        conversation = self.conversation
        if conversation is None:
            if budget is not None and self.uncounted is not None:
                budget.note_uncounted(self.provider, self.uncounted)
            return None
        with self.lock:
            if budget is not None:
                conversation.budget = budget
            try:
                event = parsed(message)
                exchange = conversation.sending(event) if event else None
            except Exception as problem:  # noqa: BLE001  a message that cannot be read is the SDK's to judge
                report("read a message", self.provider, problem, NOT_COUNTED)
                return None
            if exchange is not None and budget is None:
                conversation.budget = None
                if Process.open_roots:
                    note_uncounted_call(self.provider)
                return None
            return exchange

    def admitted(self, budget: BudgetGuard, exchange: TurnExchange, ticket: Any) -> Call:
        """The call was admitted: from now on its answer may arrive."""
        with self.lock:
            call = Call(budget, exchange, ticket)
            call.answered(None)
            return call

    def failed(self, call: Call, error: BaseException) -> None:
        """It was not sent."""
        with self.lock:
            call.failed(error)

    def received(self, message: object) -> Mapping[str, Any] | None:
        """A message has arrived; what to send in turn, see `Conversation.received`."""
        if self.conversation is None:
            return None
        with self.lock:
            return read(self.conversation, message)

    def due(self) -> BudgetExceededError | None:
        """The crossing to raise before the next message is waited for: all answers on their way have arrived."""
        conversation = self.conversation
        if conversation is None or conversation.due is None:
            return None
        with self.lock:
            if conversation.busy:
                return None
            error, conversation.due = conversation.due, None
            return None if self.quiet else error

    def could_not_stop(self, problem: Exception) -> None:
        """An answer that reached a limit could not be stopped; that a connection has ended already is no problem."""
        if not (isinstance(problem, OSError) or is_closed(problem)):
            report("stop an answer", self.provider, problem)

    def closed(self) -> BudgetExceededError | None:
        """The connection has ended; the crossing to raise, if one is left."""
        if self.conversation is None:
            return None
        with self.lock:
            return self.conversation.closed()


def is_closed(error: Exception) -> bool:
    """True for what the websockets library raises at the end of a connection."""
    return any(kind.__name__ == "ConnectionClosed" for kind in type(error).__mro__)


def parsed(message: object) -> dict[str, Any]:
    """The event in a message; an empty one when it is none."""
    if not isinstance(message, str | bytes | bytearray):
        return {}
    try:
        event = from_json(message)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def read(conversation: Conversation, message: object) -> Mapping[str, Any] | None:
    """`Conversation.received`, for whatever arrives: our reading never breaks the connection."""
    try:
        event = parsed(message)
        return conversation.received(event) if event else None
    except Exception as problem:  # noqa: BLE001  the message is delivered whatever our reading does
        report("read a message", conversation.provider, problem)
        return None


def written(event: Mapping[str, Any]) -> str:
    """The message that an event is sent as."""
    return json.dumps(event)
