"""OpenAI's Responses API over WebSocket: each answer is admitted, read along, and charged once per response id."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
import warnings
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import openai
import pytest
from either import MODES, done, first, within
from genai_prices import Usage as PricedUsage
from genai_prices import calc_price
from openai_sockets import CLOSE, LOSE, Event, answering, socket_server
from spending import spending, spent

from actguard import providers
from actguard.client import Client
from actguard.events import LlmUsage
from actguard.exceptions import ActGuardMonitoringWarning, BudgetExceededError, GuardError
from actguard.testing import capture_events

websockets = pytest.importorskip("websockets")
no_sdk = pytest.mark.skipif(
    not hasattr(openai.OpenAI(api_key="k").responses, "connect"), reason="this SDK has no WebSocket for responses"
)
pytestmark = [no_sdk, pytest.mark.filterwarnings("ignore:connect.. must be used:DeprecationWarning")]
MODEL = "gpt-4o-mini"
ONE = calc_price(PricedUsage(input_tokens=1000, output_tokens=50), MODEL, provider_id="openai").total_price
ASK: dict[str, Any] = {"model": MODEL, "input": "Hello there, how are you?"}


def numbered(*texts: str, **more: Any) -> Callable[[Event], list[Event]]:
    """Answers each request, with ids that count up."""
    count = iter(range(1, 1_000))

    def answer(event: Event) -> list[Event]:
        if event["type"] != "response.create":
            return []
        return answering(f"resp_{next(count)}", *(texts or ("Hi",)), lane=event.get("stream_id"), **more)

    return answer


@pytest.fixture(params=MODES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def client_for(kind: str, url: str) -> Any:
    made: Any = openai.OpenAI if kind == "sync" else openai.AsyncOpenAI
    return made(api_key="k", base_url=url, max_retries=0)


async def read_answer(connection: Any) -> list[Any]:
    """The events until an answer has ended."""
    events = []
    while True:
        event = await done(connection.recv())
        events.append(event)
        if event.type in ("response.completed", "response.incomplete", "response.failed", "error"):
            return events


async def asked(connection: Any, **more: Any) -> list[Any]:
    await done(connection.response.create(**{**ASK, **more}))
    return await read_answer(connection)


async def asked_elsewhere(connection: Any) -> None:
    """Asks where no scope is active."""
    outside = contextvars.Context()
    if inspect.iscoroutinefunction(connection.response.create):
        await asyncio.get_running_loop().create_task(connection.response.create(**ASK), context=outside)
    else:
        outside.run(connection.response.create, **ASK)


async def test_each_answer_is_charged_once_with_its_usage(kind: str) -> None:
    with (
        socket_server(numbered()) as server,
        Client() as guard,
        guard.run(),
        guard.budget_guard(usd_limit=9) as budget,
        capture_events(guard, LlmUsage) as events,
    ):
        async with within(client_for(kind, server.url).responses.connect()) as connection:
            for _ in range(3):
                assert (await asked(connection))[-1].response.usage.output_tokens == 50
        assert spent(budget) == (3, 3000, 0, 0, 150)
        assert budget.usd_used_exact == 3 * ONE
        assert (budget.estimated_usd, budget.account.held.tokens) == (0, 0)
        charges = [(event.usd, event.estimated, event.api, event.model, event.stream) for event in events]
    assert charges == [(ONE, False, "responses", MODEL, True)] * 3
    assert server.received[0] == {"type": "response.create", **ASK}  # as the caller wrote it


async def test_an_answer_that_is_told_of_twice_is_charged_once(kind: str) -> None:
    def answer(event: Event) -> list[Event]:
        events = answering("resp_1", "Hi")
        return [*events, events[-1], *answering("resp_2", "Hi")]

    with socket_server(answer) as server, spending() as budget:
        async with within(client_for(kind, server.url).responses.connect()) as connection:
            await asked(connection)
            await read_answer(connection)  # once more
            await read_answer(connection)  # one that the server has begun itself
        assert spent(budget) == (2, 2000, 0, 0, 100)


async def test_raw_messages_and_iteration_are_metered_too(kind: str) -> None:
    with socket_server(lambda event: [*numbered()(event), CLOSE]) as server, spending() as budget:
        async with within(client_for(kind, server.url).responses.connect()) as connection:
            await done(connection.send_raw(json.dumps({"type": "response.create", **ASK})))
            if hasattr(connection, "__aiter__"):
                events = [event.type async for event in connection]
            else:
                events = [event.type for event in connection]
        assert events[-1] == "response.completed"
        assert spent(budget) == (1, 1000, 0, 0, 50)


async def test_an_event_that_is_queued_before_the_connection_is_admitted_when_it_is_sent(kind: str) -> None:
    with socket_server(numbered()) as server, spending() as budget:
        manager = client_for(kind, server.url).responses.connect()
        manager.send({"type": "response.create", **ASK})
        async with within(manager) as connection:
            assert budget.account.held.tokens > 0
            await read_answer(connection)
        assert spent(budget) == (1, 1000, 0, 0, 50)


async def test_an_exceeded_budget_refuses_the_next_request_before_it_is_sent(kind: str) -> None:
    with socket_server(numbered("Hi", " there")) as server, spending(usd_limit=ONE / 2) as budget:
        async with within(client_for(kind, server.url).responses.connect()) as connection:
            events = await asked(connection)
            assert events[-1].type == "response.completed"  # it is paid: it is delivered
            with pytest.raises(BudgetExceededError) as crossing:
                await done(connection.recv())
            assert crossing.value.partial == "Hi there"
            assert crossing.value.response["id"] == "resp_1"
            with pytest.raises(BudgetExceededError):
                await done(connection.response.create(**ASK))
        assert budget.calls == 1
    assert server.types() == ["response.create"]


async def test_with_on_crossing_return_only_the_next_request_is_refused(kind: str) -> None:
    with socket_server(numbered()) as server, spending(usd_limit=ONE / 2, on_crossing="return"):
        async with within(client_for(kind, server.url).responses.connect()) as connection:
            await asked(connection)
            with pytest.raises(BudgetExceededError):
                await done(connection.response.create(**ASK))
    assert len(server.received) == 1


async def test_an_answer_that_reaches_the_limit_is_stopped_by_closing_the_connection(kind: str) -> None:
    words = [f" word{number}" for number in range(2_000)]
    with (
        socket_server(lambda event: answering("resp_1", *words, end="")) as server,
        spending(token_limit=500) as budget,
    ):
        async with within(client_for(kind, server.url).responses.connect()) as connection:
            await done(connection.response.create(**ASK))
            text = ""
            with pytest.raises(BudgetExceededError) as cut:
                while True:
                    event = await done(connection.recv())
                    text += getattr(event, "delta", "")
        assert text.startswith(" word0 word1")
        assert cut.value.partial is not None
        assert text.startswith(cut.value.partial) or cut.value.partial.startswith(text)
        assert 500 <= budget.tokens_used <= 5_000
        assert budget.estimated_usd > 0


async def test_a_cut_answer_is_charged_no_less_than_what_closed_it(kind: str) -> None:
    pieces = [" a b c d e f g h"] * 200  # eight words each, in the bytes of four typical tokens
    with (
        socket_server(lambda event: answering("resp_1", *pieces, end="")) as server,
        spending(token_limit=500) as budget,
    ):
        async with within(client_for(kind, server.url).responses.connect()) as connection:
            await done(connection.response.create(**ASK))
            with pytest.raises(BudgetExceededError) as cut:
                while True:
                    await done(connection.recv())
        assert budget.tokens_used >= 8 * str(cut.value.partial).count("a") >= 480


@pytest.mark.parametrize("end", [LOSE, CLOSE, None], ids=["lost", "closed by the server", "closed by the client"])
async def test_a_connection_that_ends_in_the_middle_is_charged_as_estimated(kind: str, end: Event | None) -> None:
    events = answering("resp_1", "one", "two", "three", end="")
    with (
        socket_server(lambda event: [*events, *([] if end is None else [end])]) as server,
        Client() as guard,
        guard.run(),
        guard.budget_guard(usd_limit=9) as budget,
        capture_events(guard, LlmUsage) as usages,
    ):
        async with within(client_for(kind, server.url).responses.connect()) as connection:
            await done(connection.response.create(**ASK))
            for _ in range(4):
                await done(connection.recv())
            if end is not None:
                with pytest.raises(websockets.exceptions.ConnectionClosed):
                    await done(connection.recv())
        [row] = budget.breakdown()
        assert (row.estimated, row.output_tokens, row.input_tokens > 0) == (True, 3, True)
        assert [event.estimated for event in usages] == [True]
    assert budget.account.held.tokens == 0


async def test_a_request_that_was_never_answered_is_charged_as_estimated(kind: str) -> None:
    with socket_server(lambda event: [LOSE]) as server, spending() as budget:
        async with within(client_for(kind, server.url).responses.connect()) as connection:
            await done(connection.response.create(**ASK, max_output_tokens=100))
            with pytest.raises(websockets.exceptions.ConnectionClosed):
                await done(connection.recv())
    [row] = budget.breakdown()
    assert (row.estimated, row.output_tokens) == (True, 100)


async def test_a_refused_request_costs_nothing(kind: str) -> None:
    error = {"type": "error", "status": 400, "error": {"code": "invalid", "message": "no", "type": "x"}}
    with socket_server(lambda event: [error]) as server, spending() as budget:
        async with within(client_for(kind, server.url).responses.connect()) as connection:
            await asked(connection)
            assert budget.account.held.tokens == 0
    assert budget.calls == 0


@pytest.mark.parametrize("end", ["incomplete", "failed"])
async def test_answers_that_did_not_complete_are_charged_with_their_usage(kind: str, end: str) -> None:
    with socket_server(numbered(end=end)) as server, spending() as budget:
        async with within(client_for(kind, server.url).responses.connect()) as connection:
            await asked(connection)
    assert (spent(budget), budget.estimated_usd) == ((1, 1000, 0, 0, 50), 0)


async def test_a_hard_scope_limits_the_output_and_is_never_exceeded(kind: str) -> None:
    def answer(event: Event) -> list[Event]:
        limit = event["max_output_tokens"]
        usage = {"input_tokens": 20, "output_tokens": limit, "total_tokens": 20 + limit}
        return answering(f"resp_{limit}", "Hi", usage=usage)

    with socket_server(answer) as server, spending(usd_limit="0.001", enforcement="hard") as budget:
        async with within(client_for(kind, server.url).responses.connect()) as connection:
            with pytest.raises(BudgetExceededError):
                for _ in range(50):
                    await asked(connection)
    assert server.received
    assert all(event["max_output_tokens"] >= 16 for event in server.received)
    assert 0 < budget.usd_used_exact <= Decimal("0.001")


async def test_a_hard_scope_keeps_the_lower_limit_of_the_caller(kind: str) -> None:
    with socket_server(numbered()) as server, spending(usd_limit=1, enforcement="hard"):
        async with within(client_for(kind, server.url).responses.connect()) as connection:
            await asked(connection, max_output_tokens=60)
    assert server.received == [{"type": "response.create", **ASK, "max_output_tokens": 60}]


async def test_a_hard_scope_bounds_what_continues_an_answer_of_this_connection(kind: str) -> None:
    with socket_server(numbered()) as server, spending(token_limit=100_000, enforcement="hard") as budget:
        async with within(client_for(kind, server.url).responses.connect()) as connection:
            await asked(connection)
            await done(connection.response.create(**ASK, previous_response_id="resp_1", max_output_tokens=50))
            held = budget.account.held
            assert held.tokens >= 1_050 + 50
            await read_answer(connection)
            with pytest.raises(GuardError, match="previous_response_id") as refusal:
                await done(connection.response.create(**ASK, previous_response_id="resp_of_yesterday"))
            assert refusal.value.code == "UNBOUNDED_CALL"
    assert len(server.received) == 2


async def test_lanes_are_answers_of_their_own(kind: str) -> None:
    waiting: list[Event] = []

    def answer(event: Event) -> list[Event]:
        waiting.append(event)
        if len(waiting) < 2:
            return []
        one, two = (answering(f"resp_{each['stream_id']}", "Hi", lane=each["stream_id"]) for each in waiting)
        return [event for pair in zip(one, two, strict=True) for event in pair]

    with socket_server(answer) as server, spending() as budget:
        async with within(client_for(kind, server.url).responses.connect()) as connection:
            for lane in ("a", "b"):
                await done(connection.response.create(**ASK, stream_id=lane))
            for _ in range(2):
                await read_answer(connection)
        assert (spent(budget), budget.estimated_usd) == ((2, 2000, 0, 0, 100), 0)


async def test_sessions_with_lanes_are_metered_and_a_refusal_leaves_the_lane_usable(kind: str) -> None:
    sessions = pytest.importorskip("openai.lib.responses_websocket")
    limits = sessions.ResponsesWebSocketLimits(
        **dict.fromkeys(inspect.signature(sessions.ResponsesWebSocketLimits).parameters, 1000000)
    )
    made = sessions.ResponsesWebSocketSession if kind == "sync" else sessions.AsyncResponsesWebSocketSession
    with socket_server(numbered()) as server, Client() as guard, guard.run(), guard.budget_guard(usd_limit=9) as root:
        async with (
            within(client_for(kind, server.url).responses.connect()) as connection,
            within(made(connection, limits=limits)) as session,
        ):
            lane = session.lane("a")
            with guard.budget_guard(token_limit=2_000) as inner:
                for _ in range(2):
                    await done(lane.send({"type": "response.create", **ASK}))
                    assert (await done(lane.get_final_response())).usage.output_tokens == 50
                with pytest.raises(BudgetExceededError):
                    await done(lane.send({"type": "response.create", **ASK}))
            assert spent(inner) == (2, 2000, 0, 0, 100)
        assert root.calls == 2
    assert len(server.received) == 2


async def test_a_connection_that_was_made_before_the_scope_is_metered(kind: str) -> None:
    providers.unpatch()
    with socket_server(numbered()) as server:
        async with within(client_for(kind, server.url).responses.connect()) as connection:
            await asked(connection)
            with spending() as budget:
                await asked(connection)
            assert spent(budget) == (1, 1000, 0, 0, 50)
            await asked(connection)  # outside again
            assert budget.calls == 1
    assert len(server.received) == 3


async def test_an_answer_is_charged_to_the_scope_that_asked_for_it(kind: str) -> None:
    with socket_server(numbered()) as server, Client() as guard, guard.run(), guard.budget_guard(usd_limit=9) as root:
        async with within(client_for(kind, server.url).responses.connect()) as connection:
            with guard.budget_guard(usd_limit=9) as inner:
                await done(connection.response.create(**ASK))
            assert inner.estimated_usd > 0  # its answer has not come yet
            await read_answer(connection)
        assert (inner.calls, root.calls, inner.estimated_usd) == (1, 1, 0)
        assert inner.usd_used_exact == ONE


async def test_a_lost_connection_that_the_sdk_makes_again_stays_metered(kind: str) -> None:
    def answer(event: Event) -> list[Event]:
        if server.connections == 1:
            return [*answering("resp_1", "Hi", end=""), LOSE]
        return answering("resp_2", "Hi")

    with socket_server(answer) as server, spending() as budget:
        client = client_for(kind, server.url)
        manager = client.responses.connect(on_reconnecting=lambda _: None, initial_delay=0.001, max_delay=0.001)
        async with within(manager) as connection:
            events = aiter(connection) if kind == "async" else iter(connection)
            await done(connection.response.create(**ASK))
            assert (await first(events)).type == "response.created"
            assert (await first(events)).type == "response.output_text.delta"
            server.greeting = tuple(answering("resp_2", "Hi"))  # the server takes it up again
            while (await first(events)).type != "response.completed":
                pass
        rows = {row.estimated: row.calls for row in budget.breakdown()}
    assert rows == {True: 1, False: 1}


async def test_without_a_scope_nothing_is_said_unless_one_is_open_elsewhere(kind: str) -> None:
    with socket_server(numbered()) as server:
        async with within(client_for(kind, server.url).responses.connect()) as connection:
            with warnings.catch_warnings():
                warnings.simplefilter("error", ActGuardMonitoringWarning)
                await asked(connection)
            with spending() as budget:
                with pytest.warns(ActGuardMonitoringWarning, match="outside any budget scope"):
                    await asked_elsewhere(connection)
                await read_answer(connection)
            assert budget.calls == 0


async def test_a_request_that_is_refused_while_another_is_answered_leaves_that_one_alone(kind: str) -> None:
    begun, ended = answering("resp_1", "Hi", end=""), answering("resp_1")[-1:]
    refusal = {"type": "error", "status": 400, "error": {"code": "busy", "message": "no", "type": "x"}}
    answers = iter([begun, [refusal, *ended]])
    with socket_server(lambda event: next(answers)) as server, spending() as budget:
        async with within(client_for(kind, server.url).responses.connect()) as connection:
            await done(connection.response.create(**ASK))
            await done(connection.recv())
            await done(connection.response.create(**ASK))
            while (await done(connection.recv())).type != "response.completed":
                pass
        assert budget.account.held.tokens == 0
    assert (spent(budget), budget.estimated_usd) == ((1, 1000, 0, 0, 50), 0)


async def test_an_answer_that_ends_after_an_error_is_charged_by_its_own_figure(kind: str) -> None:
    begun, ended = answering("resp_1", "Hi", end=""), answering("resp_1")[-1:]
    error = {"type": "error", "status": 500, "error": {"code": "x", "message": "no", "type": "x"}}
    with socket_server(lambda event: [*begun, error, *ended]) as server, spending() as budget:
        async with within(client_for(kind, server.url).responses.connect()) as connection:
            await asked(connection)
            assert budget.estimated_usd > 0
            await done(connection.recv())
    assert (spent(budget), budget.estimated_usd) == ((1, 1000, 0, 0, 50), 0)


async def test_what_is_read_after_closing_is_charged_once(kind: str) -> None:
    with socket_server(lambda event: [*answering("resp_1", "Hi"), CLOSE]) as server, spending() as budget:
        async with within(client_for(kind, server.url).responses.connect()) as connection:
            await done(connection.response.create(**ASK))
            await done(connection.recv())
            await done(connection.close())
            with pytest.raises(websockets.exceptions.ConnectionClosed):
                while True:
                    await done(connection.recv())
    assert budget.calls == 1


async def test_methods_stay_what_they_are(kind: str) -> None:
    with socket_server(lambda event: []) as server:
        async with within(client_for(kind, server.url).responses.connect()) as connection:
            for method in (connection.send, connection.send_raw, connection.recv, connection.recv_bytes):
                assert inspect.iscoroutinefunction(method) == (kind == "async")
