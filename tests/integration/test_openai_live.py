"""Live sessions and realtime translations: billed by the second of sound."""

from __future__ import annotations

import base64
from decimal import Decimal
from typing import Any

import openai
import pytest
from either import MODES, done, within
from openai_sockets import LOSE, Event, SocketServer, response, socket_server, usage
from spending import spending

from actguard.exceptions import ActGuardMonitoringWarning, BudgetExceededError, GuardError

websockets = pytest.importorskip("websockets")
no_sdk = pytest.mark.skipif(not hasattr(openai.OpenAI(api_key="k"), "live"), reason="this SDK has no live sessions")
pytestmark = [no_sdk, pytest.mark.filterwarnings("ignore:connect.. must be used:DeprecationWarning")]
PER_SECOND = Decimal(3) / 3600
"""USD, of gpt-live-1."""
SECOND = base64.b64encode(bytes(48_000)).decode()
START: Any = {"model": "gpt-live-1"}


@pytest.fixture(params=MODES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def client_for(kind: str, server: SocketServer) -> Any:
    made: Any = openai.OpenAI if kind == "sync" else openai.AsyncOpenAI
    return made(api_key="k", base_url=server.url, max_retries=0)


def used(seconds: float, kind: str = "session.usage.updated") -> Event:
    return {"type": kind, "event_id": "e", "usage": {"seconds": seconds}, "reason": "close_requested", "session": {}}


def about(amount: Decimal) -> Any:
    return pytest.approx(float(amount), rel=1e-9)


async def test_a_session_is_charged_by_its_seconds_when_it_is_closed(kind: str) -> None:
    def answer(event: Event) -> list[Event]:
        return [used(20), used(40), used(60, "session.closed")] if event["type"] == "session.close" else []

    with socket_server(answer) as server, spending() as budget:
        async with within(client_for(kind, server).live.connect()) as connection:
            await done(connection.session.start(session=START))
            await done(connection.session.close())
            while (await done(connection.recv())).type != "session.closed":
                assert budget.calls == 0
    assert (budget.calls, budget.usd_used, budget.estimated_usd) == (1, about(60 * PER_SECOND), 0)


@pytest.mark.parametrize("lost", [True, False])
async def test_a_session_that_is_lost_is_charged_as_far_as_it_was_told_of(kind: str, lost: bool) -> None:
    with socket_server(lambda _: [used(20), used(40), *([LOSE] if lost else [])]) as server, spending() as budget:
        async with within(client_for(kind, server).live.connect()) as connection:
            await done(connection.session.start(session=START))
            for _ in range(2):
                await done(connection.recv())
            if lost:
                with pytest.raises(websockets.exceptions.ConnectionClosed):
                    await done(connection.recv())
    assert (budget.calls, budget.usd_used) == (1, about(40 * PER_SECOND))
    assert budget.estimated_usd == budget.usd_used


async def test_a_session_that_reaches_the_limit_is_ended(kind: str) -> None:
    with (
        socket_server(lambda _: [used(second) for second in range(1, 100)]) as server,
        spending(usd_limit=10 * PER_SECOND) as budget,
    ):
        async with within(client_for(kind, server).live.connect()) as connection:
            await done(connection.session.start(session=START))
            with pytest.raises(BudgetExceededError):
                for _ in range(200):
                    await done(connection.recv())
            with pytest.raises(BudgetExceededError):
                await done(connection.session.start(session=START))
    assert budget.usd_used_exact >= 10 * PER_SECOND
    assert server.types() == ["session.start"]


async def test_answers_of_other_models_are_calls_of_their_own(kind: str) -> None:
    told = {"type": "response.completed", "response": response("resp_1", "completed", usage=usage())}
    nested = {"type": "response.event", "event_id": "e", "event": told}
    with socket_server(lambda _: [nested, nested, used(10, "session.closed")]) as server, spending() as budget:
        async with within(client_for(kind, server).live.connect()) as connection:
            await done(connection.session.start(session=START))
            for _ in range(3):
                await done(connection.recv())
    assert sorted((row.model, row.calls, row.output_tokens) for row in budget.breakdown()) == [
        ("gpt-4o-mini", 1, 50),
        ("gpt-live-1", 1, 0),
    ]


async def test_a_translation_is_charged_by_the_sound_that_was_sent_as_estimated(kind: str) -> None:
    with socket_server(lambda _: []) as server, spending() as budget:
        async with within(
            client_for(kind, server).realtime.translations.connect(model="gpt-realtime-translate")
        ) as connection:
            for _ in range(30):
                await done(connection.session.input_audio_buffer.append(audio=SECOND))
    expected = about(30 * Decimal("2.04") / 3600)
    assert (budget.calls, budget.usd_used, budget.estimated_usd) == (1, expected, expected)


async def test_hard_scopes_refuse_sessions(kind: str) -> None:
    with socket_server(lambda _: []) as server, spending(token_limit=1_000, enforcement="hard"):
        async with within(client_for(kind, server).live.connect()) as connection:
            with pytest.raises(GuardError, match="billed by the second"):
                await done(connection.session.start(session=START))
    assert server.received == []


async def test_a_session_that_is_only_listened_to_is_told_of_by_name(kind: str) -> None:
    with socket_server(lambda _: []) as server:
        sideband = client_for(kind, server).live.sideband.connect(session_id="s_1")
        async with within(sideband) as connection:
            with spending(), pytest.warns(ActGuardMonitoringWarning, match="live sessions held elsewhere"):
                await done(connection.send_raw('{"type": "session.update"}'))
