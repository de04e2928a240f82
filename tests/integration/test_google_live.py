"""Google's Live API inside a budget scope: the real client talks to a WebSocket server on loopback, turn by turn."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from gateway_tools import certificate
from google import genai
from google.genai import types
from spending import spending, spent
from websockets.asyncio.server import ServerConnection, serve

from actguard.client import Client
from actguard.events import LlmUsage
from actguard.exceptions import ActGuardMonitoringWarning, BudgetExceededError, GuardError
from actguard.guards.admission import Asked
from actguard.integrations import google_live
from actguard.money.usage import Usage
from actguard.monitoring import Reports
from actguard.testing import capture_events

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.skipif(
        "async_client_args" not in types.HttpOptions.model_fields,
        reason="this SDK's live sessions cannot be told to trust the certificate of these tests",
    ),
]

MODEL = "gemini-3.8-live"
HELLO: Any = {"role": "user", "parts": [{"text": "Hello there"}]}
USAGE = {
    "promptTokenCount": 1000,
    "responseTokenCount": 100,
    "totalTokenCount": 1100,
    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 600}, {"modality": "AUDIO", "tokenCount": 400}],
    "responseTokensDetails": [{"modality": "AUDIO", "tokenCount": 100}],
}
PRICE = (600 * Decimal("0.75") + 400 * 3 + 100 * 12) / 1_000_000


def says(text: str, **more: Any) -> dict[str, Any]:
    return {"serverContent": {"modelTurn": {"parts": [{"text": text}]}}, **more}


def ends(**more: Any) -> dict[str, Any]:
    return {"serverContent": {"turnComplete": True}, **more}


class Conversation:
    """What the server answers to each message, and what it received."""

    def __init__(self) -> None:
        self.turns: list[list[dict[str, Any]]] = []
        self.received: list[dict[str, Any]] = []
        self.closed = False
        self.url = ""
        self.certificate = Path()

    async def serve(self, socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send(json.dumps({"setupComplete": {"sessionId": "s"}}))
        async for message in socket:
            self.received.append(json.loads(message))
            for answer in self.turns.pop(0) if self.turns else []:
                await socket.send(json.dumps(answer))
        self.closed = True

    @asynccontextmanager
    async def connected(self, **config: Any) -> AsyncIterator[Any]:
        trusting: Any = {"ssl": ssl.create_default_context(cafile=str(self.certificate))}
        client = genai.Client(
            api_key="k", vertexai=False, http_options={"base_url": self.url, "async_client_args": trusting}
        )
        async with client.aio.live.connect(model=MODEL, config={"response_modalities": ["AUDIO"], **config}) as session:
            yield session


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    return certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
async def conversation(tls: tuple[ssl.SSLContext, Path]) -> AsyncIterator[Conversation]:
    conversation = Conversation()
    async with serve(conversation.serve, "127.0.0.1", 0, ssl=tls[0]) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        conversation.url, conversation.certificate = f"https://127.0.0.1:{port}", tls[1]
        yield conversation


async def ask(session: Any) -> list[Any]:
    await session.send_client_content(turns=HELLO)
    return [message async for message in session.receive()]


async def test_every_turn_is_charged_by_its_report_and_its_modalities(conversation: Conversation) -> None:
    conversation.turns = [[says("four"), ends(usageMetadata=USAGE)]] * 2
    with Client() as guard, guard.run(), guard.budget_guard(usd_limit=9) as budget:
        with capture_events(guard, LlmUsage) as events:
            async with conversation.connected() as session:
                assert len(await ask(session)) == 2
                assert spent(budget) == (1, 1000, 0, 0, 100)
                await ask(session)
            charges = [(event.usd, event.estimated, event.api, event.model) for event in events]
        assert charges == [(PRICE, False, "live", MODEL)] * 2
        assert spent(budget) == (2, 2000, 0, 0, 200)
        assert (budget.usd_used_exact, budget.estimated_usd) == (2 * PRICE, 0)


async def test_a_report_that_goes_on_replaces_the_one_before(conversation: Conversation) -> None:
    growing = [says("four", usageMetadata={**USAGE, "responseTokenCount": n}) for n in (10, 50)]
    conversation.turns = [[*growing, ends(usageMetadata=USAGE)]]
    with spending() as budget:
        async with conversation.connected() as session:
            await ask(session)
        assert spent(budget) == (1, 1000, 0, 0, 100)


async def test_the_generations_around_a_tool_call_are_both_charged(conversation: Conversation) -> None:
    call = {"toolCall": {"functionCalls": [{"id": "1", "name": "weather", "args": {}}]}, "usageMetadata": USAGE}
    after = {**USAGE, "promptTokenCount": 1200}
    conversation.turns = [[call], [says("Sunny"), ends(usageMetadata=after)]]
    with spending() as budget:
        async with conversation.connected() as session:
            await session.send_client_content(turns=HELLO)
            async for message in session.receive():
                if message.tool_call:
                    await session.send_tool_response(
                        function_responses=types.FunctionResponse(id="1", name="weather", response={"is": "sunny"})
                    )
        assert spent(budget) == (2, 2200, 0, 0, 200)


async def test_a_report_after_the_end_of_a_turn_is_charged_when_it_comes(conversation: Conversation) -> None:
    conversation.turns = [[ends(), {"usageMetadata": USAGE}, ends()]]
    with spending() as budget:
        async with conversation.connected() as session:
            await ask(session)
            async for _ in session.receive():
                pass
        assert spent(budget) == (1, 1000, 0, 0, 100)
        assert budget.estimated_usd == 0


async def test_a_turn_without_a_report_is_charged_as_estimated(conversation: Conversation) -> None:
    conversation.turns = [[says("x" * 400), ends()]]
    with spending() as budget:
        async with conversation.connected() as session:
            await ask(session)
            assert budget.calls == 0
        assert spent(budget) == (1, 3, 0, 0, 100)
        assert budget.estimated_usd == budget.usd_used > 0


async def test_a_session_in_which_nothing_was_said_costs_nothing(conversation: Conversation) -> None:
    with spending() as budget:
        async with conversation.connected():
            pass
        assert (budget.calls, budget.account.held.tokens) == (0, 0)


async def test_streamed_audio_is_one_turn_and_estimated_where_nothing_is_reported(conversation: Conversation) -> None:
    with spending() as budget:
        async with conversation.connected() as session:
            for _ in range(10):
                await session.send_realtime_input(audio=types.Blob(data=b"\0" * 50_000, mime_type="audio/pcm"))
        assert budget.calls == 1
        assert budget.estimated_usd > 0


async def test_a_turn_that_crosses_is_delivered_and_the_next_is_refused(conversation: Conversation) -> None:
    conversation.turns = [[says("four"), ends(usageMetadata=USAGE)]] * 2
    with spending(token_limit=1100) as budget:
        async with conversation.connected() as session:
            await session.send_client_content(turns=HELLO)
            seen = []
            with pytest.raises(BudgetExceededError) as crossing:
                async for message in session.receive():
                    seen.append(message)
            assert (len(seen), crossing.value.partial) == (2, "four")
            with pytest.raises(BudgetExceededError):
                await session.send_client_content(turns=HELLO)
            with pytest.raises(BudgetExceededError):
                await session.send_realtime_input(text="Hello?")
        with pytest.raises(BudgetExceededError):
            async with conversation.connected():
                raise AssertionError("a full budget opens no session")
        assert len(conversation.received) == 1
        assert spent(budget) == (1, 1000, 0, 0, 100)


async def test_a_turn_that_crosses_may_just_end_and_the_next_is_refused(conversation: Conversation) -> None:
    conversation.turns = [[says("four"), ends(usageMetadata=USAGE)]] * 2
    with spending(token_limit=1100, on_crossing="return"):
        async with conversation.connected() as session:
            assert len(await ask(session)) == 2
            with pytest.raises(BudgetExceededError):
                await session.send_client_content(turns=HELLO)


async def test_a_turn_that_reaches_the_limit_is_cut(conversation: Conversation) -> None:
    conversation.turns = [[says("x" * 400) for _ in range(50)]]
    with spending(token_limit=1000) as budget:
        async with conversation.connected() as session:
            await session.send_client_content(turns=HELLO)
            seen = 0
            with pytest.raises(BudgetExceededError) as crossing:
                async for _ in session.receive():
                    seen += 1
        assert 10 <= seen <= 20
        assert crossing.value.partial == "x" * 400 * seen
        assert budget.tokens_used == 3 + 100 * seen
        assert budget.estimated_usd > 0


async def test_a_session_belongs_to_the_scope_that_sends(conversation: Conversation) -> None:
    conversation.turns = [[ends(usageMetadata=USAGE)]] * 2
    with Client() as guard, guard.run(), guard.budget_guard(usd_limit=9) as outer:
        async with conversation.connected() as session:
            with guard.budget_guard(usd_limit=9) as inner:
                await ask(session)
            await ask(session)
        assert (inner.calls, outer.calls) == (1, 2)


async def test_a_hard_limit_refuses_a_session_unless_told_otherwise(conversation: Conversation) -> None:
    conversation.turns = [[ends(usageMetadata=USAGE)]]
    with spending(usd_limit=1, enforcement="hard"), pytest.raises(GuardError, match="keeps the conversation"):
        async with conversation.connected():
            raise AssertionError("refused before it is sent")
    with spending(usd_limit=1, enforcement="hard", allow_unbounded=True) as budget:
        async with conversation.connected() as session:
            await ask(session)
        assert budget.calls == 1


async def test_two_tasks_that_begin_a_turn_at_once_hold_one(conversation: Conversation) -> None:
    conversation.turns = [[], [ends(usageMetadata=USAGE)]]
    with spending(on_full="wait", token_limit=9_000) as budget:
        other = budget.admit(Asked("google", MODEL, "live", estimate=Usage(uncached_input_tokens=9_000)))
        meter = google_live.LiveMeter(MODEL, budget)
        both = [asyncio.create_task(meter.send([HELLO])) for _ in range(2)]
        while len(budget.tree.queues.get(budget.account, ())) < 2:
            await asyncio.sleep(0)
        other.release()
        await asyncio.gather(*both)
        assert len(budget.tree.open_calls) == 1
        meter.end()
        assert not budget.tree.open_calls
    assert budget.calls == 1


async def test_nothing_is_kept_of_what_no_scope_counts(conversation: Conversation) -> None:
    conversation.turns = [[says("word " * 9), ends()]] * 2
    async with conversation.connected() as session:
        await ask(session)
        await ask(session)
        assert google_live._meters[session]._texts == []


async def test_what_cannot_be_read_is_sent_all_the_same(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no")

    monkeypatch.setattr("actguard.integrations.google_live_meter.estimated_input", broken)
    monkeypatch.setattr("actguard.integrations.degraded.reports", Reports())
    conversation.turns = [[ends(usageMetadata=USAGE)]]
    with spending() as budget:
        async with conversation.connected() as session:
            with pytest.warns(ActGuardMonitoringWarning, match="read a message"):
                await ask(session)
    assert budget.calls == 1


async def test_outside_a_scope_nothing_is_counted(conversation: Conversation) -> None:
    conversation.turns = [[ends(usageMetadata=USAGE)]] * 2
    with spending() as budget:
        pass
    async with conversation.connected() as session:
        assert len(await ask(session)) == 1
    assert budget.calls == 0
