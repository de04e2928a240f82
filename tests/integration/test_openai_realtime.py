"""OpenAI's realtime API: answers asked for and answers to what the server hears, in text and sound, charged once."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any

import openai
import pytest
from either import MODES, done, within
from genai_prices import Usage as PricedUsage
from genai_prices import calc_price
from openai_sockets import LOSE, Event, SocketServer, socket_server
from spending import spending, spent

from actguard.client import Client
from actguard.events import LlmUsage
from actguard.exceptions import BudgetExceededError, GuardError
from actguard.testing import capture_events

websockets = pytest.importorskip("websockets")
pytestmark = pytest.mark.filterwarnings("ignore:connect.. must be used:DeprecationWarning")  # by the SDK
MODEL = "gpt-realtime"
SESSION: Event = {
    "type": "realtime",
    "model": MODEL,
    "instructions": "Be kind.",
    "audio": {
        "input": {"format": {"type": "audio/pcm", "rate": 24000}, "turn_detection": {"type": "server_vad"}},
        "output": {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "marin"},
    },
}
CREATED: Event = {"type": "session.created", "event_id": "e1", "session": SESSION}
SILENT: Event = {
    "type": "session.updated",
    "event_id": "e2",
    "session": {**SESSION, "audio": {**SESSION["audio"], "input": {"turn_detection": None}}},
}
"""The server does not answer on its own."""
USAGE: Event = {
    "input_tokens": 300,
    "output_tokens": 100,
    "total_tokens": 400,
    "input_token_details": {
        "text_tokens": 100,
        "audio_tokens": 200,
        "cached_tokens": 120,
        "cached_tokens_details": {"text_tokens": 40, "audio_tokens": 80},
    },
    "output_token_details": {"text_tokens": 20, "audio_tokens": 80},
}
ONE = calc_price(
    PricedUsage(
        input_tokens=300,
        input_audio_tokens=200,
        cache_read_tokens=120,
        cache_audio_read_tokens=80,
        output_tokens=100,
        output_audio_tokens=80,
    ),
    MODEL,
    provider_id="openai",
).total_price
SECOND = base64.b64encode(bytes(48_000)).decode()
"""A second of sound."""


def response(response_id: str, status: str, usage: Event | None = None, **more: Any) -> Event:
    return {
        "id": response_id,
        "object": "realtime.response",
        "status": status,
        "output": [],
        "conversation_id": "conv_1",
        "usage": usage,
        **more,
    }


def begun(response_id: str, *texts: str, seconds: int = 0, beta: bool = False) -> list[Event]:
    names = (
        ("response.text.delta", "response.audio.delta")
        if beta
        else ("response.output_text.delta", "response.output_audio.delta")
    )
    place = {"response_id": response_id, "item_id": "i", "output_index": 0, "content_index": 0, "event_id": "e"}
    return [
        {"type": "response.created", "event_id": "e", "response": response(response_id, "in_progress")},
        *({"type": names[0], "delta": text, **place} for text in texts),
        *({"type": names[1], "delta": SECOND, **place} for _ in range(seconds)),
    ]


def ended(response_id: str, status: str = "completed", usage: Event | None = USAGE, **more: Any) -> Event:
    return {"type": "response.done", "event_id": "e", "response": response(response_id, status, usage, **more)}


def numbered(**more: Any) -> Callable[[Event], list[Event]]:
    count = iter(range(1, 1_000))

    def answer(event: Event) -> list[Event]:
        if event["type"] != "response.create":
            return []
        response_id = f"resp_{next(count)}"
        return [*begun(response_id, "Hi"), ended(response_id, **more)]

    return answer


@pytest.fixture(params=MODES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def connected(kind: str, server: SocketServer, **more: Any) -> Any:
    made: Any = openai.OpenAI if kind == "sync" else openai.AsyncOpenAI
    web = server.url.replace("http:", "ws:")  # older SDKs would take wss
    client = made(api_key="k", base_url=server.url, websocket_base_url=web, max_retries=0)
    realtime = client.realtime if hasattr(client, "realtime") else client.beta.realtime
    return realtime.connect(model=MODEL, **more)


async def until(connection: Any, *types: str) -> list[Any]:
    events: list[Any] = []
    while not events or events[-1].type not in types:
        events.append(await done(connection.recv()))
    return events


async def asked(connection: Any, **response: Any) -> list[Any]:
    await done(connection.response.create(response=response) if response else connection.response.create())
    return await until(connection, "response.done")


async def heard(connection: Any, seconds: int = 1) -> None:
    for _ in range(seconds):
        await done(connection.input_audio_buffer.append(audio=SECOND))


async def test_each_answer_is_charged_once_by_what_was_said_and_written(kind: str) -> None:
    with (
        socket_server(numbered(), CREATED) as server,
        Client() as guard,
        guard.run(),
        guard.budget_guard(usd_limit=9) as budget,
        capture_events(guard, LlmUsage) as events,
    ):
        async with within(connected(kind, server)) as connection:
            for _ in range(2):
                await asked(connection)
        assert spent(budget) == (2, 600, 240, 0, 200)
        assert budget.usd_used_exact == 2 * ONE
        assert (budget.estimated_usd, budget.account.held.tokens) == (0, 0)
        charges = [(event.usd, event.estimated, event.api, event.model) for event in events]
    assert charges == [(ONE, False, "realtime", MODEL)] * 2


async def test_an_end_that_is_told_of_twice_is_charged_once(kind: str) -> None:
    def answer(event: Event) -> list[Event]:
        return [*begun("resp_1", "Hi"), ended("resp_1"), ended("resp_1"), *begun("resp_2"), ended("resp_2")]

    with socket_server(answer) as server, spending() as budget:
        async with within(connected(kind, server)) as connection:
            await asked(connection)
            await until(connection, "response.done")
            await until(connection, "response.done")
    assert (spent(budget).calls, budget.usd_used_exact) == (2, 2 * ONE)


async def test_what_the_server_answers_on_its_own_is_charged_to_who_spoke(kind: str) -> None:
    def answer(event: Event) -> list[Event]:
        if event["type"] != "input_audio_buffer.append" or server.types().count(event["type"]) % 3:
            return []
        number = len(server.received)
        return [*begun(f"resp_{number}", seconds=1), ended(f"resp_{number}")]

    with socket_server(answer, CREATED) as server, spending() as budget:
        async with within(connected(kind, server)) as connection:
            for _ in range(2):
                await heard(connection, 3)
                await until(connection, "response.done")
        assert (spent(budget).calls, budget.usd_used_exact, budget.estimated_usd) == (2, 2 * ONE, 0)
        assert budget.account.held.tokens == 0


async def test_an_exceeded_budget_refuses_requests_and_speech_before_they_are_sent(kind: str) -> None:
    with socket_server(numbered(), CREATED) as server, spending(usd_limit=ONE / 2) as budget:
        async with within(connected(kind, server)) as connection:
            assert (await asked(connection))[-1].response.usage.total_tokens == 400
            with pytest.raises(BudgetExceededError) as crossing:
                await done(connection.recv())
            assert (crossing.value.partial, crossing.value.response["id"]) == ("Hi", "resp_1")
            with pytest.raises(BudgetExceededError):
                await asked(connection)
            with pytest.raises(BudgetExceededError):
                await heard(connection)
            await done(connection.conversation.item.create(item={"type": "message", "role": "user", "content": []}))
    assert (budget.calls, server.types()) == (1, ["response.create", "conversation.item.create"])


async def test_what_is_heard_without_an_answer_is_free(kind: str) -> None:
    with socket_server(lambda _: [], CREATED) as server, spending() as budget:
        async with within(connected(kind, server)) as connection:
            await done(connection.recv())  # the greeting: the server listens
            await heard(connection, 2)
            assert budget.account.held.tokens > 0  # an answer may come
        assert budget.account.held.tokens == 0
    assert (budget.calls, len(server.received)) == (0, 2)


async def test_an_answer_that_reaches_the_limit_is_cancelled_and_the_connection_goes_on(kind: str) -> None:
    cancelled = {**USAGE, "output_tokens": 700, "total_tokens": 1_000}

    def answer(event: Event) -> list[Event]:
        if event["type"] == "response.cancel":
            return [ended(event["response_id"], "cancelled", cancelled)]
        return begun("resp_1", *(f" word{number}" for number in range(600)))

    with socket_server(answer, CREATED) as server, spending(token_limit=200) as budget:
        async with within(connected(kind, server)) as connection:
            events = await asked(connection)
            assert events[-1].response.status == "cancelled"
            with pytest.raises(BudgetExceededError) as cut:
                await done(connection.recv())
            assert str(cut.value.partial).startswith(" word0 word1")
    assert server.received[-1] == {"type": "response.cancel", "response_id": "resp_1"}
    assert (spent(budget)[0], budget.tokens_used, budget.estimated_usd) == (1, 1_000, 0)


@pytest.mark.parametrize("lost", [True, False])
async def test_a_connection_that_ends_in_the_middle_is_charged_as_estimated(kind: str, lost: bool) -> None:
    events = begun("resp_1", "one", "two", seconds=2)
    with (
        socket_server(lambda _: [*events, *([LOSE] if lost else [])], CREATED) as server,
        Client() as guard,
        guard.run(),
        guard.budget_guard(usd_limit=9) as budget,
        capture_events(guard, LlmUsage) as usages,
    ):
        async with within(connected(kind, server)) as connection:
            await done(connection.response.create())
            for _ in (CREATED, *events):
                await done(connection.recv())
            if lost:
                with pytest.raises(websockets.exceptions.ConnectionClosed):
                    await done(connection.recv())
        [row] = budget.breakdown()
        assert (row.estimated, row.output_tokens) == (True, 2 + 40)
        spoken = calc_price(PricedUsage(output_tokens=40, output_audio_tokens=40), MODEL, provider_id="openai")
        assert spoken.total_price < row.usd < spoken.total_price * 2
        assert [event.estimated for event in usages] == [True]


async def test_what_is_read_after_closing_is_charged_once(kind: str) -> None:
    events = [*begun("resp_1", "Hi"), ended("resp_1")]
    with socket_server(lambda _: events, CREATED) as server, spending() as budget:
        async with within(connected(kind, server)) as connection:
            await done(connection.response.create())
            await until(connection, "response.output_text.delta")  # the end may come, or be lost by closing
            await done(connection.close())
            with pytest.raises(websockets.exceptions.ConnectionClosed):
                while True:
                    await done(connection.recv())
        assert budget.account.held.tokens == 0
    assert budget.calls == 1


async def test_an_answer_without_usage_is_estimated_and_a_refused_request_is_free(kind: str) -> None:
    def answer(event: Event) -> list[Event]:
        if len(server.received) == 1:
            error = {"type": "invalid_request_error", "message": "no", "event_id": event["event_id"]}
            return [{"type": "error", "event_id": "e", "error": error}]
        return [*begun("resp_1", "Hi"), ended("resp_1", usage=None)]

    with socket_server(answer, CREATED) as server, spending() as budget:
        async with within(connected(kind, server)) as connection:
            await done(connection.response.create())
            await until(connection, "error")
            assert (budget.account.held.tokens, budget.calls) == (0, 0)
            await asked(connection)
    [row] = budget.breakdown()
    assert (row.estimated, row.output_tokens) == (True, 1)


@pytest.mark.parametrize(
    ("usage", "model", "expected"),
    [
        (
            {
                "type": "tokens",
                "input_tokens": 30,
                "output_tokens": 10,
                "total_tokens": 40,
                "input_token_details": {"audio_tokens": 30, "text_tokens": 0},
            },
            "gpt-4o-transcribe",
            PricedUsage(input_tokens=30, input_audio_tokens=30, output_tokens=10),
        ),
        ({"type": "duration", "seconds": 36.0}, "whisper-1", PricedUsage(audio_seconds=36)),
    ],
)
async def test_transcriptions_of_what_is_heard_are_calls_of_another_model(
    kind: str, usage: Event, model: str, expected: PricedUsage
) -> None:
    audio = {"input": {"transcription": {"model": model}, "turn_detection": None}}
    session = {"type": "session.updated", "event_id": "e", "session": {**SESSION, "audio": audio}}
    done_event: Event = {
        "type": "conversation.item.input_audio_transcription.completed",
        "event_id": "e", "item_id": "i", "content_index": 0, "transcript": "Hi", "usage": usage,
    }  # fmt: skip
    with socket_server(lambda _: [session, done_event, done_event], CREATED) as server, spending() as budget:
        async with within(connected(kind, server)) as connection:
            await heard(connection)
            for _ in range(2):
                await until(connection, done_event["type"])
        [row] = budget.breakdown()
    assert (row.model, row.calls, row.estimated) == (model, 1, False)
    assert row.usd == calc_price(expected, model, provider_id="openai").total_price > 0


async def test_a_hard_scope_limits_the_output_and_is_never_exceeded(kind: str) -> None:
    count = iter(range(1, 1_000))

    def answer(event: Event) -> Iterable[Event]:
        if event["type"] != "response.create":
            return []
        limit, number = event["response"]["max_output_tokens"], next(count)
        usage = {"input_tokens": 100 * number, "output_tokens": limit, "total_tokens": 100 * number + limit,
                 "input_token_details": {"text_tokens": 100 * number, "audio_tokens": 0},
                 "output_token_details": {"text_tokens": 0, "audio_tokens": limit}}  # fmt: skip
        return [*begun(f"resp_{number}", "Hi"), ended(f"resp_{number}", usage=usage)]

    with socket_server(answer, CREATED, SILENT) as server, spending(usd_limit=1, enforcement="hard") as budget:
        async with within(connected(kind, server)) as connection:
            with pytest.raises(BudgetExceededError):
                for _ in range(50):
                    await asked(connection)
    limits = [event["response"]["max_output_tokens"] for event in server.received]
    assert limits[0] == 4_096
    assert min(limits) >= 16
    assert 0 < budget.usd_used_exact <= Decimal(1)


async def test_a_hard_scope_keeps_the_lower_limit_of_the_caller(kind: str) -> None:
    with socket_server(numbered(), CREATED) as server, spending(usd_limit=9, enforcement="hard"):
        async with within(connected(kind, server)) as connection:
            await asked(connection, max_output_tokens=60)
    assert server.received[0]["response"] == {"max_output_tokens": 60}


async def test_a_hard_scope_refuses_to_be_heard_by_a_server_that_answers_on_its_own(kind: str) -> None:
    with socket_server(numbered(), CREATED) as server, spending(usd_limit=9, enforcement="hard"):
        async with within(connected(kind, server)) as connection:
            with pytest.raises(GuardError, match="turn_detection") as refusal:
                await heard(connection)
            assert refusal.value.code == "UNBOUNDED_CALL"
    assert server.received == []


async def test_a_hard_scope_counts_what_is_heard_as_input(kind: str) -> None:
    with (
        socket_server(numbered(), CREATED, SILENT) as server,
        spending(token_limit=20_000, enforcement="hard") as budget,
    ):
        async with within(connected(kind, server)) as connection:
            await until(connection, "session.updated")
            await heard(connection, 5)
            await done(connection.response.create())
            held = budget.account.held.tokens
            assert held > 5 * 10
            await until(connection, "response.done")
            await heard(connection, 300)
            with pytest.raises(BudgetExceededError):
                await done(connection.response.create())
    assert budget.tokens_used == 400


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"prompt": {"id": "p"}}, "stored prompt"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tool of its own"),
    ],
)
async def test_a_hard_scope_refuses_what_has_no_bound(kind: str, more: Any, reason: str) -> None:
    with socket_server(numbered(), CREATED) as server, spending(usd_limit=9, enforcement="hard"):
        async with within(connected(kind, server)) as connection:
            with pytest.raises(GuardError, match=reason):
                await done(connection.response.create(response=more))
    assert server.received == []


async def test_a_scope_that_ends_before_the_answer_charges_an_estimate_first(kind: str) -> None:
    with socket_server(numbered(), CREATED) as server, Client() as guard, guard.run():
        async with within(connected(kind, server)) as connection:
            with guard.budget_guard(usd_limit=9) as budget:
                await done(connection.response.create())
            assert budget.estimated_usd > 0
            await until(connection, "response.done")
        assert (budget.usd_used_exact, budget.estimated_usd) == (ONE, 0)
