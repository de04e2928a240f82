"""Gemini's batches: held when they are submitted, charged once, at the batch price, when their answers are fetched."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Any

import pytest
from canned import Canned, serving
from either import MODES, done
from genai_prices import Usage as PricedUsage
from genai_prices import calc_price
from google.genai import types
from google_clients import QUIET, google_at
from spending import spending, spent

from actguard.client import Client
from actguard.events import LlmUsage
from actguard.exceptions import ActGuardMonitoringWarning, BudgetExceededError, GuardError
from actguard.testing import capture_events

pytestmark = [
    pytest.mark.skipif(
        not hasattr(types, "InlinedRequest"), reason="this SDK has no batches with their requests in the call"
    ),
    pytest.mark.filterwarnings(QUIET),
]

MODEL = "gemini-2.5-flash"
USAGE = {"promptTokenCount": 1000, "candidatesTokenCount": 40, "thoughtsTokenCount": 10, "totalTokenCount": 1050}
CONTENT = {"content": {"role": "model", "parts": [{"text": "Hi"}]}, "finishReason": "STOP"}
ANSWER = {"response": {"candidates": [CONTENT], "usageMetadata": USAGE, "modelVersion": MODEL}}
FAILED = {"error": {"code": 3, "message": "No."}}
ONE = calc_price(
    PricedUsage(input_tokens=1000, output_tokens=50), MODEL, provider_id="google", price_context={"processing": "batch"}
).total_price
REQUEST: Any = {
    "contents": [{"role": "user", "parts": [{"text": "Hi" * 20}]}],
    "config": {"max_output_tokens": 100},
}
HELD_OF_ONE = 10 + 100


def batch(state: str, *responses: Any, name: str = "batches/b1") -> Canned:
    output = {"output": {"inlinedResponses": {"inlinedResponses": list(responses)}}} if responses else {}
    about = {"model": f"models/{MODEL}", "state": f"BATCH_STATE_{state}", "displayName": "b", **output}
    return Canned("application/json", json.dumps({"name": name, "metadata": about, "done": bool(responses)}).encode())


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    embedded = {"response": {"embedding": {"values": [0.1]}, "tokenCount": "7"}}
    embeddings = {
        "name": "batches/e1",
        "metadata": {
            "model": "models/gemini-embedding-001",
            "state": "BATCH_STATE_SUCCEEDED",
            "output": {"inlinedEmbedContentResponses": {"inlinedResponses": [embedded]}},
        },
    }
    answers = {
        ("POST", f"/v1beta/models/{MODEL}:batchGenerateContent"): batch("PENDING"),
        ("GET", "/v1beta/batches/b1"): batch("SUCCEEDED", ANSWER, ANSWER, FAILED),
        ("GET", "/v1beta/batches/b3"): batch("RUNNING", name="batches/b3"),
        ("POST", "/v1beta/batches/b1:cancel"): Canned("application/json", b"{}"),
        ("GET", "/v1beta/batches/e1"): Canned("application/json", json.dumps(embeddings).encode()),
    }
    with serving(answers) as base_url:
        yield base_url


@pytest.fixture(params=MODES)
async def batches(request: pytest.FixtureRequest, url: str) -> AsyncIterator[Any]:
    async with google_at(url, request.param) as client:
        yield client.batches


async def submitted(batches: Any) -> Any:
    return await done(batches.create(model=MODEL, src=[REQUEST] * 3))


async def test_each_answer_is_charged_once_at_the_batch_price(batches: Any) -> None:
    with Client() as guard, guard.run(), guard.budget_guard(usd_limit=9) as budget:
        with capture_events(guard, LlmUsage) as events:
            job = await submitted(batches)
            assert (budget.calls, budget.account.held.tokens) == (0, 3 * HELD_OF_ONE)
            for _ in range(2):
                fetched = await done(batches.get(name=job.name))
                assert len(fetched.dest.inlined_responses) == 3
            charges = [(event.usd, event.estimated, event.api) for event in events]
        assert charges == [(ONE, False, "batches")] * 2
        assert spent(budget) == (2, 2000, 0, 0, 100)
        assert Decimal(str(budget.usd_used)) == 2 * ONE
        assert budget.account.held.tokens == 0


async def test_a_batch_that_runs_stays_held(batches: Any) -> None:
    with spending() as budget:
        await submitted(batches)
        await done(batches.get(name="batches/b3"))
        await done(batches.cancel(name="batches/b1"))
        assert (budget.calls, budget.account.held.tokens) == (0, 3 * HELD_OF_ONE)
    assert budget.estimated_usd == budget.usd_used > 0


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED", "EXPIRED"])
@pytest.mark.parametrize("mode", MODES)
async def test_a_batch_that_came_to_nothing_gives_back_what_it_held(mode: str, state: str) -> None:
    answers = {
        ("POST", f"/v1beta/models/{MODEL}:batchGenerateContent"): batch("PENDING"),
        ("GET", "/v1beta/batches/b1"): batch(state),
    }
    with serving(answers) as url, spending() as budget:
        async with google_at(url, mode) as client:
            job = await submitted(client.batches)
            await done(client.batches.get(name=job.name))
        assert budget.account.held.tokens == 0
    assert budget.calls == 0


async def test_the_batch_that_crosses_is_on_the_error_and_no_other_is_submitted(batches: Any) -> None:
    with spending(token_limit=2000) as budget:
        with pytest.raises(BudgetExceededError) as crossing:
            await done(batches.get(name="batches/b1"))
        assert crossing.value.response.name == "batches/b1"
        with pytest.raises(BudgetExceededError):
            await submitted(batches)
        assert (await done(batches.get(name="batches/b1"))).name == "batches/b1"
        assert budget.calls == 2


async def test_embeddings_in_a_batch_are_charged(batches: Any) -> None:
    with spending() as budget:
        await done(batches.get(name="batches/e1"))
        assert budget.calls == 1


async def test_a_hard_limit_holds_the_most_that_a_batch_can_cost(batches: Any) -> None:
    with spending(usd_limit="0.05", enforcement="hard") as budget:
        job = await submitted(batches)
        assert 0 < budget.account.held.usd <= Decimal("0.05")
        await done(batches.get(name=job.name))
        assert (budget.account.held.usd, budget.calls) == (0, 2)
    with spending(token_limit=400, enforcement="hard"), pytest.raises(BudgetExceededError):
        await submitted(batches)
    with spending(usd_limit=1, enforcement="hard"), pytest.raises(GuardError, match="no output limit"):
        await done(batches.create(model=MODEL, src=[{"contents": REQUEST["contents"]}]))


async def test_every_candidate_of_a_request_is_held(batches: Any) -> None:
    request = {**REQUEST, "config": {**REQUEST["config"], "candidate_count": 3}}
    with spending(token_limit=1_000, enforcement="hard") as budget:
        await done(batches.create(model=MODEL, src=[request]))
        assert budget.account.held.tokens >= 300


async def test_a_batch_in_a_file_is_told_of_once_and_refused_by_a_hard_limit(batches: Any) -> None:
    with spending() as budget:
        with pytest.warns(ActGuardMonitoringWarning, match="batches whose requests are in a file"):
            await done(batches.create(model=MODEL, src="files/f1"))
        assert (budget.calls, budget.account.held.tokens) == (0, 0)
    with spending(usd_limit=1, enforcement="hard"), pytest.raises(GuardError, match="in a file"):
        await done(batches.create(model=MODEL, src="files/f1"))
