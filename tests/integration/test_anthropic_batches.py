"""Batches: held when they are submitted, charged at the batch price when results are read, each request once."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from typing import Any

import anthropic
import pytest
from canned import Canned, serving
from either import MODES, done, first, items, within
from genai_prices import Usage as PricedUsage
from genai_prices import calc_price
from spending import spending, spent

from actguard.client import Client
from actguard.events import LlmUsage
from actguard.exceptions import BudgetExceededError, GuardError
from actguard.money.usage import Usage
from actguard.testing import capture_events

MODEL = "claude-sonnet-4-6"
USAGE = {"input_tokens": 1000, "output_tokens": 50, "service_tier": "batch"}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": MODEL,
    "content": [{"type": "text", "text": "Hi"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": USAGE,
}
RUNNING = {
    "id": "batch_1",
    "type": "message_batch",
    "processing_status": "in_progress",
    "request_counts": {"processing": 3, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0},
    "ended_at": None,
    "created_at": "2026-11-23T00:00:00Z",
    "expires_at": "2026-11-24T00:00:00Z",
    "archived_at": None,
    "cancel_initiated_at": None,
    "results_url": None,
}
ENDED = {
    **RUNNING,
    "processing_status": "ended",
    "request_counts": {"processing": 0, "succeeded": 2, "errored": 0, "canceled": 1, "expired": 0},
    "ended_at": "2026-11-23T01:00:00Z",
    "results_url": "/v1/messages/batches/batch_1/results",
}
NOTHING_CAME = {
    **ENDED,
    "id": "batch_2",
    "request_counts": {"processing": 0, "succeeded": 0, "errored": 0, "canceled": 3, "expired": 0},
}
RESULTS = [
    {"custom_id": "a", "result": {"type": "succeeded", "message": MESSAGE}},
    {"custom_id": "b", "result": {"type": "succeeded", "message": MESSAGE}},
    {"custom_id": "c", "result": {"type": "canceled"}},
]
REQUEST: Any = {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": "Hi" * 20}]}
HELD_OF_ONE = 10 + 100
ONE = calc_price(
    PricedUsage(input_tokens=1000, output_tokens=50),
    MODEL,
    provider_id="anthropic",
    price_context={"processing": "batch"},
).total_price

needs_raw_results = pytest.mark.skipif(
    not hasattr(anthropic.Anthropic(api_key="k").messages.batches.with_raw_response, "results"),
    reason="this SDK has no raw results",
)


def requests_for(*names: str, **changes: Any) -> Any:
    return [{"custom_id": name, "params": {**REQUEST, **changes}} for name in names]


def answer(value: object) -> Canned:
    return Canned("application/json", json.dumps(value).encode())


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    lines = "".join(json.dumps(result) + "\n" for result in RESULTS)
    answers = {
        ("POST", "/v1/messages"): answer({**MESSAGE, "usage": {**USAGE, "service_tier": "standard"}}),
        ("POST", "/v1/messages/batches"): answer(RUNNING),
        ("GET", "/v1/messages/batches"): answer(
            {"data": [ENDED], "has_more": False, "first_id": None, "last_id": None}
        ),
        ("GET", "/v1/messages/batches/batch_1"): answer(ENDED),
        ("GET", "/v1/messages/batches/batch_2"): answer(NOTHING_CAME),
        ("POST", "/v1/messages/batches/batch_1/cancel"): answer({**RUNNING, "processing_status": "canceling"}),
        ("GET", "/v1/messages/batches/batch_1/results"): Canned("application/x-jsonl", lines.encode()),
    }
    with serving(answers) as base_url:
        yield base_url


@pytest.fixture(params=MODES)
async def client(request: pytest.FixtureRequest, url: str) -> AsyncIterator[Any]:
    kind: Any = anthropic.Anthropic if request.param == "sync" else anthropic.AsyncAnthropic
    client = kind(api_key="k", base_url=url, max_retries=0)
    yield client
    await done(client.close())


@pytest.fixture(params=["messages", "beta"])
def batches(request: pytest.FixtureRequest, client: Any) -> Any:
    return client.messages.batches if request.param == "messages" else client.beta.messages.batches


async def submitted(batches: Any) -> Any:
    return await done(batches.create(requests=requests_for("a", "b", "c")))


async def test_each_result_is_charged_once_at_the_batch_price(batches: Any) -> None:
    with (
        Client() as guard,
        guard.run(),
        guard.budget_guard(usd_limit=9) as budget,
        capture_events(guard, LlmUsage) as events,
    ):
        batch = await submitted(batches)
        assert budget.calls == 0
        for _ in range(2):
            results = await done(batches.results(batch.id))
            assert [result.custom_id for result in await items(results)] == ["a", "b", "c"]
        assert spent(budget) == (2, 2000, 0, 0, 100)
        assert Decimal(str(budget.usd_used)) == 2 * ONE > 0
        assert budget.estimated_usd == 0
        charges = [(event.usd, event.estimated, event.api) for event in events]
    assert charges == [(ONE, False, "messages.batches")] * 2


async def test_what_a_batch_may_cost_is_held_until_its_results_are_read(batches: Any) -> None:
    with spending(token_limit=3 * HELD_OF_ONE) as budget:
        await submitted(batches)
        with pytest.raises(BudgetExceededError):  # full of holds, for now
            await submitted(batches)
        assert budget.account.held.tokens == 3 * HELD_OF_ONE
    assert (budget.tokens_used, budget.estimated_usd > 0) == (3 * HELD_OF_ONE, True)


async def test_a_scope_that_is_left_before_the_results_is_charged_an_estimate_at_the_batch_price(batches: Any) -> None:
    with spending() as budget:
        await submitted(batches)
    estimate = Usage(uncached_input_tokens=10, output_tokens=100)
    whole = budget.prices.price("anthropic", MODEL, estimate)
    assert Decimal(str(budget.estimated_usd)) == 3 * whole / 2


async def test_results_that_are_read_in_part_leave_the_rest_held(batches: Any) -> None:
    with spending() as budget:
        batch = await submitted(batches)
        results = await done(batches.results(batch.id))
        assert (await first(results)).custom_id == "a"
        await done(results.close())
        assert (budget.calls, budget.account.held.tokens) == (1, 2 * HELD_OF_ONE)
        await items(await done(batches.results(batch.id)))
        assert (budget.calls, budget.account.held.tokens) == (2, 0)


async def test_a_batch_of_another_program_is_charged_to_who_reads_it(batches: Any) -> None:
    with spending() as budget:
        await items(await done(batches.results("batch_1")))
        assert spent(budget) == (2, 2000, 0, 0, 100)


async def test_a_batch_is_charged_to_the_scope_that_submitted_it(batches: Any) -> None:
    with Client() as guard, guard.run(), guard.budget_guard(usd_limit=9) as root:
        with guard.budget_guard(usd_limit=9, name="submits") as submits:
            batch = await submitted(batches)
        assert submits.calls == 3  # estimated, for now
        with guard.budget_guard(usd_limit=9, name="reads") as reads:
            await items(await done(batches.results(batch.id)))
        assert (submits.calls, reads.calls, root.calls) == (2, 0, 2)
        assert (submits.estimated_usd, root.tokens_used) == (0, 2100)


async def test_a_batch_that_was_cancelled_whole_gives_everything_back(client: Any) -> None:
    answers = {
        ("POST", "/v1/messages/batches"): answer({**RUNNING, "id": "batch_2"}),
        ("POST", "/v1/messages/batches/batch_2/cancel"): answer({**RUNNING, "processing_status": "canceling"}),
        ("GET", "/v1/messages/batches/batch_2"): answer(NOTHING_CAME),
    }
    with serving(answers) as url, spending() as budget:
        batches = client.copy(base_url=url).messages.batches
        batch = await submitted(batches)
        await done(batches.cancel(batch.id))
        assert budget.account.held.tokens == 3 * HELD_OF_ONE
        await done(batches.retrieve(batch.id))
        assert budget.account.held.tokens == 0
    assert budget.calls == 0


@needs_raw_results
async def test_raw_results_are_charged_as_they_are_read(client: Any) -> None:
    with spending() as budget:
        response = await done(client.messages.batches.with_raw_response.results("batch_1"))
        assert len(await items(await done(response.parse()))) == 3
        assert spent(budget) == (2, 2000, 0, 0, 100)


@needs_raw_results
async def test_results_as_lines_are_charged_as_they_are_read(client: Any) -> None:
    with spending() as budget:
        async with within(client.messages.batches.with_streaming_response.results("batch_1")) as response:
            assert len([line for line in await items(response.iter_lines()) if line]) == 3
        assert spent(budget) == (2, 2000, 0, 0, 100)


async def test_results_that_cross_a_limit_are_delivered_first(batches: Any) -> None:
    with spending(token_limit=1500) as budget:
        results = await done(batches.results("batch_1"))
        seen = []
        with pytest.raises(BudgetExceededError) as crossing:
            if hasattr(results, "__anext__"):
                async for result in results:
                    seen.append(result.custom_id)
            else:
                for result in results:
                    seen.append(result.custom_id)
        assert seen == ["a", "b", "c"]
        assert crossing.value.response is results
        assert budget.tokens_used == 2100


async def test_over_budget_results_can_be_read_and_no_batch_submitted(client: Any) -> None:
    batches = client.messages.batches
    with spending(token_limit=1050) as budget:
        with pytest.raises(BudgetExceededError):
            await done(client.messages.create(**REQUEST))
        with pytest.raises(BudgetExceededError):
            await submitted(batches)
        assert (await done(batches.retrieve("batch_1"))).results_url
        assert (await done(batches.cancel("batch_1"))).id == "batch_1"
        assert await items(await done(batches.list())) or (await done(batches.list())).data
        with pytest.raises(BudgetExceededError):
            await items(await done(batches.results("batch_1")))
        assert spent(budget) == (3, 3000, 0, 0, 150)


async def test_a_hard_limit_holds_the_most_that_a_batch_can_cost(batches: Any) -> None:
    with spending(usd_limit="0.05", enforcement="hard") as budget:
        batch = await submitted(batches)
        held = budget.account.held
        assert 0 < held.usd <= Decimal("0.05")
        assert held.tokens >= 3 * (40 + 100)
        await items(await done(batches.results(batch.id)))
        assert (budget.account.held.usd, budget.account.held.tokens) == (0, 0)
        assert Decimal(str(budget.usd_used)) == 2 * ONE


async def test_a_hard_limit_refuses_a_batch_that_may_not_fit(batches: Any) -> None:
    with spending(token_limit=400, enforcement="hard") as budget:
        with pytest.raises(BudgetExceededError):
            await submitted(batches)
        assert (budget.calls, budget.account.held.tokens) == (0, 0)


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ([{}, {"model": "claude-haiku-4-5"}], "different models"),
        ([{"tools": [{"type": "web_search_20250305", "name": "web_search"}]}], "a tool of its own"),
    ],
)
async def test_a_hard_limit_refuses_a_batch_whose_cost_has_no_bound(client: Any, params: Any, reason: str) -> None:
    requests = [{"custom_id": str(n), "params": {**REQUEST, **changes}} for n, changes in enumerate(params)]
    with spending(usd_limit=1, enforcement="hard"), pytest.raises(GuardError, match=reason):
        await done(client.messages.batches.create(requests=requests))


def test_batches_are_charged_on_either_loop(url: str, on_loop: Callable[..., Any]) -> None:
    async def run() -> None:
        async with anthropic.AsyncAnthropic(api_key="k", base_url=url, max_retries=0) as client:
            with spending() as budget:
                batch = await submitted(client.messages.batches)
                await items(await client.messages.batches.results(batch.id))
                assert spent(budget) == (2, 2000, 0, 0, 100)

    on_loop(run)
