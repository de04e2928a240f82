"""Managed agents and dreams: held when they start, charged for what is new whenever they are looked at."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
from canned import Canned, serving
from either import MODES, done, items
from spending import spending, spent

from actguard.client import Client
from actguard.events import LlmUsage
from actguard.exceptions import ActGuardMonitoringWarning, BudgetExceededError, GuardError
from actguard.testing import capture_events

pytestmark = [
    pytest.mark.skipif(not hasattr(anthropic.resources.beta.Beta, "dreams"), reason="this SDK has no dreams"),
    pytest.mark.filterwarnings("ignore:.*runtime of managed agents"),
]

MODEL = "claude-sonnet-4-6"
SAID: Any = [{"type": "user.message", "content": [{"type": "text", "text": "Hi" * 20}]}]
STOP: Any = [{"type": "user.interrupt"}]


def session(tokens: int, output: int, **more: Any) -> dict[str, Any]:
    usage = {"input_tokens": tokens, "output_tokens": output, "cache_read_input_tokens": 0, **more}
    agent = {"type": "agent", "id": "agent_1", "model": {"id": MODEL, "speed": "standard"}}
    return {"type": "session", "id": "sesn_1", "status": "idle", "agent": agent, "usage": usage}


def step(step_id: str, tokens: int, output: int) -> dict[str, Any]:
    usage = {"input_tokens": tokens, "output_tokens": output}
    usage |= {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    return {"type": "span.model_request_end", "id": step_id, "model_request_start_id": "s", "model_usage": usage}


STEPS = [step("e1", 600, 20), step("e2", 400, 30)]


def answer(value: object) -> Canned:
    return Canned("application/json", json.dumps(value).encode())


def events(*values: dict[str, Any]) -> Canned:
    lines = "".join(f"event: {value['type']}\ndata: {json.dumps(value)}\n\n" for value in values)
    return Canned("text/event-stream", lines.encode())


@pytest.fixture
def answers() -> dict[tuple[str, str], Canned]:
    dream = {"type": "dream", "id": "drm_1", "model": {"id": MODEL}, "status": "pending"}
    used = {"input_tokens": 500, "output_tokens": 5, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    return {
        ("POST", "/v1/sessions"): answer(session(0, 0)),
        ("GET", "/v1/sessions/sesn_1"): answer(session(1000, 50)),
        ("POST", "/v1/sessions/sesn_1/archive"): answer(session(1500, 70)),
        ("POST", "/v1/sessions/sesn_1/events"): answer({"data": SAID}),
        ("GET", "/v1/sessions/sesn_1/events"): answer({"data": STEPS}),
        ("GET", "/v1/sessions/sesn_1/events/stream"): events(
            step("e1", 600, 20), step("e2", 400, 30), step("e3", 1, 1)
        ),
        ("POST", "/v1/deployments/dep_1/run"): answer(
            {"type": "deployment_run", "id": "run_1", "session_id": "sesn_1"}
        ),
        ("POST", "/v1/dreams"): answer(dream),
        ("GET", "/v1/dreams/drm_1"): answer({**dream, "status": "completed", "usage": used}),
    }


@pytest.fixture(params=MODES)
async def beta(request: pytest.FixtureRequest, answers: dict[tuple[str, str], Canned]) -> AsyncIterator[Any]:
    kind: Any = anthropic.Anthropic if request.param == "sync" else anthropic.AsyncAnthropic
    with serving(answers) as url:
        client = kind(api_key="k", base_url=url, max_retries=0)
        yield client.beta
        await done(client.close())


async def start(beta: Any) -> Any:
    return await done(beta.sessions.create(agent="agent_1", environment_id="env_1", initial_events=SAID))


async def test_what_is_new_is_charged_whenever_a_session_is_looked_at(beta: Any) -> None:
    with Client() as guard, guard.run(), guard.budget_guard(usd_limit=9) as budget:
        with capture_events(guard, LlmUsage) as seen:
            await start(beta)
            assert budget.calls == 0
            assert budget.account.held.tokens > 0
            for _ in range(2):
                await done(beta.sessions.retrieve("sesn_1"))
                assert spent(budget) == (1, 1000, 0, 0, 50)
            assert budget.account.held.tokens == 0
            await done(beta.sessions.archive("sesn_1"))
            assert [(event.model, event.input_tokens, event.api) for event in seen] == [
                (MODEL, 1000, "managed_agents"),
                (MODEL, 500, "managed_agents"),
            ]
        assert spent(budget) == (2, 1500, 0, 0, 70)
        assert budget.estimated_usd == 0


async def test_the_steps_of_a_session_are_charged_once_whoever_tells_of_them(beta: Any) -> None:
    with spending() as budget:
        await start(beta)
        stream = await done(beta.sessions.events.stream("sesn_1"))
        assert len(await items(stream)) == 3
        assert spent(budget) == (3, 1001, 0, 0, 51)
        await done(beta.sessions.events.list("sesn_1"))
        await done(beta.sessions.retrieve("sesn_1"))
        await items(await done(beta.sessions.events.stream("sesn_1")))
        assert spent(budget) == (3, 1001, 0, 0, 51)
        assert budget.estimated_usd == 0


async def test_work_that_nobody_looks_at_is_charged_as_estimated(beta: Any) -> None:
    with spending() as budget:
        await start(beta)
        await done(beta.sessions.events.send("sesn_1", events=SAID))
    assert budget.calls == 1
    assert budget.estimated_usd > 0


async def test_a_deployment_and_a_dream_are_held_until_they_are_looked_at(beta: Any) -> None:
    with spending() as budget:
        await done(beta.sessions.create(agent="agent_1", environment_id="env_1"))
        assert budget.account.held.tokens == 0
        await done(beta.deployments.run("dep_1"))
        assert budget.account.held.tokens > 0
        await done(beta.dreams.create(inputs=[{"type": "sessions", "session_ids": ["sesn_1"]}], model=MODEL))
        assert budget.calls == 0
        assert budget.account.held.tokens > 0
        await done(beta.sessions.retrieve("sesn_1"))
        await done(beta.dreams.retrieve("drm_1"))
        await done(beta.dreams.retrieve("drm_1"))
        assert spent(budget) == (2, 1500, 0, 0, 55)
        assert budget.account.held.tokens == 0


async def test_several_models_at_once_make_the_charge_an_estimate(beta: Any, answers: Any) -> None:
    both = session(1000, 50)
    answers["GET", "/v1/sessions/sesn_1"] = answer({**both, "agent": {**both["agent"], "multiagent": {"type": "x"}}})
    with spending() as budget:
        await done(beta.sessions.retrieve("sesn_1"))
        assert budget.estimated_usd == budget.usd_used > 0


async def test_searches_and_hour_long_cache_writes_of_a_session_are_charged(beta: Any, answers: Any) -> None:
    more = {"cache_creation": {"ephemeral_1h_input_tokens": 100, "ephemeral_5m_input_tokens": 0}}
    searched = {"server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 1}}
    answers["GET", "/v1/sessions/sesn_1"] = answer(session(1000, 50, **more, **searched))
    with spending() as budget:
        await done(beta.sessions.retrieve("sesn_1"))
        assert float(budget.usd_used) == pytest.approx((1000 * 3 + 100 * 6 + 50 * 15) / 1e6 + 0.02)


async def test_the_events_end_with_the_one_that_crosses_a_limit(beta: Any) -> None:
    with spending(token_limit=1000) as budget:
        stream = await done(beta.sessions.events.stream("sesn_1"))
        seen: list[str] = []
        with pytest.raises(BudgetExceededError):
            if hasattr(stream, "__anext__"):
                async for event in stream:
                    seen.append(event.id)
            else:
                for event in stream:
                    seen.append(event.id)
        assert seen[:2] == ["e1", "e2"]
        assert budget.tokens_used >= 1050


async def test_over_budget_an_agent_can_be_looked_at_and_stopped_and_not_be_told_more(beta: Any) -> None:
    with spending(token_limit=1000) as budget:
        with pytest.raises(BudgetExceededError) as crossing:
            await done(beta.sessions.retrieve("sesn_1"))
        assert crossing.value.response.id == "sesn_1"
        with pytest.raises(BudgetExceededError):
            await done(beta.sessions.events.send("sesn_1", events=SAID))
        with pytest.raises(BudgetExceededError):
            await done(beta.dreams.create(inputs=[{"type": "sessions", "session_ids": ["sesn_1"]}], model=MODEL))
        await done(beta.sessions.events.send("sesn_1", events=STOP))
        assert (await done(beta.sessions.retrieve("sesn_1"))).id == "sesn_1"
        assert budget.calls == 1


@pytest.mark.filterwarnings("default:.*runtime of managed agents")
async def test_the_runtime_of_agents_is_told_of_by_name_and_refused_where_limits_must_hold(beta: Any) -> None:
    with spending(), pytest.warns(ActGuardMonitoringWarning, match="runtime of managed agents"):
        await start(beta)
    with spending(usd_limit=1, enforcement="hard"), pytest.raises(GuardError, match="runtime of managed agents"):
        await start(beta)
