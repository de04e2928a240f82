"""Conversations over WebSockets that several threads speak into: what is held comes back."""

from __future__ import annotations

from typing import Any

import pytest
from spending import spending

from actguard.guards.budget import BudgetGuard
from actguard.integrations.metering import Call, question
from actguard.integrations.openai_live import TimedConversation
from actguard.integrations.openai_realtime_turns import RealtimeConversation
from actguard.integrations.openai_turns import Conversation, TurnExchange

SOUND = {"input_audio_buffer.append": RealtimeConversation, "session.input_audio_buffer.append": TimedConversation}


def admitted(budget: BudgetGuard, exchange: TurnExchange | None) -> None:
    assert exchange is not None
    Call(budget, exchange, budget.admit(question(budget, exchange))).answered(None)


@pytest.mark.parametrize(("kind", "conversation_class"), SOUND.items(), ids=list(SOUND))
def test_two_threads_that_are_heard_at_once_hold_one_answer(kind: str, conversation_class: type[Conversation]) -> None:
    with spending() as budget:
        budget.wait_ready()
        conversation = conversation_class("openai", None, "gpt-realtime")
        conversation.budget = budget
        at_once = [conversation.sending({"type": kind, "audio": "AAAA"}) for _ in range(2)]
        for exchange in at_once:
            admitted(budget, exchange)
        assert len(budget.tree.open_calls) == 1
        conversation.closed()
        assert not budget.tree.open_calls
    assert budget.calls == (0 if conversation_class is RealtimeConversation else 1)


def test_what_was_transcribed_is_not_remembered_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actguard.integrations.openai_turns.REMEMBERED", 10)
    with spending() as budget:
        budget.wait_ready()
        conversation = RealtimeConversation("openai", None, "gpt-realtime")
        conversation.budget = budget
        for number in range(30):
            event: dict[str, Any] = {
                "type": "conversation.item.input_audio_transcription.completed",
                "item_id": str(number),
                "usage": {"type": "tokens", "input_tokens": 3, "output_tokens": 1, "total_tokens": 4},
            }
            conversation.received(event)
        assert len(conversation._ended) == 10
    assert budget.calls == 30
