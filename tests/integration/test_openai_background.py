"""Answers that are generated in the background, and assistants' runs: charged once per id, when they are fetched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from canned import Canned, serving
from either import MODES, done, items, within
from genai_prices import Usage as PricedUsage
from genai_prices import calc_price
from openai_calls import BACKGROUND
from openai_sockets import response, usage
from spending import spending, spent

from actguard.client import Client
from actguard.events import LlmUsage
from actguard.exceptions import GuardError
from actguard.testing import capture_events

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # assistants are going away
MODEL = "gpt-4o-mini"
ONE = calc_price(PricedUsage(input_tokens=1000, output_tokens=50), MODEL, provider_id="openai").total_price
RUN: dict[str, Any] = {
    "id": "run_1",
    "object": "thread.run",
    "assistant_id": "asst_1",
    "thread_id": "thread_1",
    "model": MODEL,
    "status": "queued",
    "usage": None,
}
RUN_USAGE = {"prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 1050}
FINISHED = {**RUN, "status": "completed", "usage": RUN_USAGE}
RUNS = "/v1/threads/thread_1/runs"

Answers = dict[tuple[str, str], Canned]


def answer(value: object) -> Canned:
    return Canned("application/json", json.dumps(value).encode())


def streamed(*events: tuple[str, Any]) -> Canned:
    lines = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events)
    return Canned("text/event-stream", (lines + "event: done\ndata: [DONE]\n\n").encode())


@pytest.fixture
def answers() -> Answers:
    """What the server answers; tests change it as time goes on."""
    return {
        ("POST", "/v1/responses"): answer(response("resp_1", "queued", background=True)),
        ("GET", "/v1/responses/resp_1"): answer(response("resp_1", "completed", usage=usage())),
        ("POST", "/v1/responses/resp_1/cancel"): answer(response("resp_1", "cancelled")),
        ("POST", RUNS): answer(RUN),
        ("POST", "/v1/threads/runs"): answer(RUN),
        ("GET", f"{RUNS}/run_1"): answer(FINISHED),
        ("POST", f"{RUNS}/run_1/cancel"): answer({**RUN, "status": "cancelling"}),
        ("POST", f"{RUNS}/run_1/submit_tool_outputs"): answer({**RUN, "status": "queued"}),
    }


@pytest.fixture(params=MODES)
def client(request: pytest.FixtureRequest, answers: Answers) -> Iterator[Any]:
    kind: Any = openai.OpenAI if request.param == "sync" else openai.AsyncOpenAI
    with serving(answers) as url:
        yield kind(api_key="k", base_url=f"{url}/v1", max_retries=0)


async def submitted(client: Any) -> Any:
    return await done(client.responses.create(model=MODEL, input="Hello", extra_body=BACKGROUND))


async def test_a_background_response_is_charged_once_however_often_it_is_fetched(client: Any) -> None:
    with (
        Client() as guard,
        guard.run(),
        guard.budget_guard(usd_limit=9) as budget,
        capture_events(guard, LlmUsage) as events,
    ):
        queued = await submitted(client)
        assert budget.account.held.tokens > 0
        for _ in range(3):
            await done(client.responses.retrieve(queued.id))
        assert (spent(budget), budget.usd_used_exact) == ((1, 1000, 0, 0, 50), ONE)
        assert budget.account.held.tokens == 0
        assert [(event.usd, event.estimated) for event in events] == [(ONE, False)]


async def test_a_background_response_that_is_not_ready_is_not_charged_yet(client: Any, answers: Answers) -> None:
    answers["GET", "/v1/responses/resp_1"] = answer(response("resp_1", "in_progress", background=True))
    with spending() as budget:
        await submitted(client)
        await done(client.responses.retrieve("resp_1"))
        assert (budget.calls, budget.account.held.tokens > 0) == (0, True)


@pytest.mark.skipif(not hasattr(openai.OpenAI(api_key="k").responses, "cancel"), reason="this SDK cannot cancel")
async def test_a_cancelled_background_response_costs_what_it_says(client: Any, answers: Answers) -> None:
    with spending() as budget:
        await submitted(client)
        await done(client.responses.cancel("resp_1"))
        assert (budget.calls, budget.account.held.tokens > 0) == (0, True)
    assert budget.usd_used == budget.estimated_usd > 0  # nobody says what was generated until then
    answers["POST", "/v1/responses/resp_1/cancel"] = answer(response("resp_1", "cancelled", usage=usage(100, 5)))
    with spending() as budget:
        await submitted(client)
        await done(client.responses.cancel("resp_1"))
        await done(client.responses.retrieve("resp_1"))
    assert (spent(budget), budget.estimated_usd) == ((1, 100, 0, 0, 5), 0)


async def test_a_later_scope_of_the_same_root_leaves_it_to_the_one_that_submitted(client: Any) -> None:
    with Client() as guard, guard.run(), guard.budget_guard(usd_limit=9) as root:
        with guard.budget_guard(usd_limit=9) as submits:
            await submitted(client)
        assert submits.estimated_usd > 0
        with guard.budget_guard(usd_limit=9) as fetches:
            await done(client.responses.retrieve("resp_1"))
    assert (submits.usd_used_exact, fetches.calls, root.usd_used_exact) == (ONE, 0, ONE)
    assert root.estimated_usd == 0


async def test_when_the_root_that_submitted_is_closed_the_one_that_fetches_pays(client: Any) -> None:
    with Client() as guard:
        with guard.run(), guard.budget_guard(usd_limit=9) as submits:
            await submitted(client)
        assert submits.estimated_usd > 0
        with guard.run(), guard.budget_guard(usd_limit=9) as fetches:
            for _ in range(2):
                await done(client.responses.retrieve("resp_1"))
        assert (fetches.calls, fetches.usd_used_exact) == (1, ONE)
        assert (submits.calls, submits.usd_used) == (0, 0)  # once, not twice


async def test_a_run_is_charged_once_when_it_has_ended(client: Any, answers: Answers) -> None:
    with spending() as budget:
        await done(client.beta.threads.runs.create("thread_1", assistant_id="asst_1"))
        assert budget.calls == 0
        for _ in range(2):
            await done(client.beta.threads.runs.retrieve("run_1", thread_id="thread_1"))
    assert (spent(budget), budget.usd_used_exact) == ((1, 1000, 0, 0, 50), ONE)
    assert budget.estimated_usd == 0


async def test_polling_a_run_charges_it_once(client: Any) -> None:
    with spending() as budget:
        run = await done(
            client.beta.threads.runs.create_and_poll(thread_id="thread_1", assistant_id="asst_1", poll_interval_ms=1)
        )
        assert run.status == "completed"
        created = await done(client.beta.threads.create_and_run_poll(assistant_id="asst_1", poll_interval_ms=1))
        assert created.id == "run_1"  # the same again
    assert (spent(budget), budget.estimated_usd) == ((1, 1000, 0, 0, 50), 0)


async def test_a_run_that_needs_tools_is_charged_at_its_end(client: Any, answers: Answers) -> None:
    answers["GET", f"{RUNS}/run_1"] = answer({**RUN, "status": "requires_action"})
    with spending() as budget:
        await done(client.beta.threads.runs.create("thread_1", assistant_id="asst_1"))
        await done(client.beta.threads.runs.retrieve("run_1", thread_id="thread_1"))
        await done(client.beta.threads.runs.submit_tool_outputs("run_1", thread_id="thread_1", tool_outputs=[]))
        assert budget.calls == 0
        answers["GET", f"{RUNS}/run_1"] = answer(FINISHED)
        await done(client.beta.threads.runs.retrieve("run_1", thread_id="thread_1"))
        assert budget.account.held.tokens == 0
    assert (spent(budget), budget.estimated_usd) == ((1, 1000, 0, 0, 50), 0)


@pytest.mark.parametrize("helper", [False, True])
async def test_a_streamed_run_is_charged_by_the_event_that_ends_it(client: Any, answers: Answers, helper: bool) -> None:
    answers["POST", RUNS] = streamed(("thread.run.created", RUN), ("thread.run.completed", FINISHED))
    with spending() as budget:
        runs = client.beta.threads.runs
        if helper:
            async with within(runs.stream(thread_id="thread_1", assistant_id="asst_1")) as stream:
                await done(stream.until_done())
        else:
            await items(await done(runs.create("thread_1", assistant_id="asst_1", stream=True)))
        await done(runs.retrieve("run_1", thread_id="thread_1"))
    assert (spent(budget), budget.estimated_usd) == ((1, 1000, 0, 0, 50), 0)


@pytest.mark.parametrize("status", ["failed", "cancelled", "expired"])
async def test_a_run_that_came_to_nothing_gives_its_hold_back(client: Any, answers: Answers, status: str) -> None:
    answers["GET", f"{RUNS}/run_1"] = answer({**RUN, "status": status})
    with spending() as budget:
        await done(client.beta.threads.runs.create("thread_1", assistant_id="asst_1"))
        await done(client.beta.threads.runs.cancel("run_1", thread_id="thread_1"))
        assert budget.account.held.tokens > 0
        await done(client.beta.threads.runs.retrieve("run_1", thread_id="thread_1"))
        assert budget.account.held.tokens == 0
    assert budget.calls == 0


async def test_a_hard_scope_refuses_runs(client: Any) -> None:
    with (
        spending(token_limit=1_000, enforcement="hard"),
        pytest.raises(GuardError, match="stored thread") as refusal,
    ):
        await done(client.beta.threads.runs.create("thread_1", assistant_id="asst_1", model=MODEL))
    assert refusal.value.code == "UNBOUNDED_CALL"


async def test_decisions_are_charged_with_their_usage(client: Any, answers: Answers) -> None:
    if not hasattr(client, "decisions"):
        pytest.skip("this SDK does not have them")
    answers["POST", "/v1/decisions"] = answer({"model": "gpt-6-luna", "answers": [], "usage": usage()})
    with spending() as budget:
        await done(client.decisions.create(model="gpt-6-luna", input="x", questions=[]))
    counts = PricedUsage(input_tokens=1000, output_tokens=50)
    assert budget.usd_used_exact == calc_price(counts, "gpt-6-luna", provider_id="openai").total_price
