"""What costs nothing is never blocked; an answer that can be fetched again is charged once."""

from __future__ import annotations

from typing import Any

import pytest
from either import MODES, done, items, within
from openai_calls import ASK_RESPONSES, BACKGROUND, MODEL, assert_charged_as_billed, chat, streams_retrieved
from spending import spending

from actguard.exceptions import BudgetExceededError
from actguard.testing import Answer, LoopbackProvider


@pytest.fixture(params=MODES)
def client(request: pytest.FixtureRequest, provider: LoopbackProvider) -> Any:
    return provider.openai() if request.param == "sync" else provider.async_openai()


async def test_free_calls_work_over_budget(provider: LoopbackProvider, client: Any) -> None:
    with spending(token_limit=1) as budget:
        with pytest.raises(BudgetExceededError):
            await chat(client)
        assert await items(client.models.list())
        assert await done(client.models.retrieve(MODEL))
        uploaded = await done(client.files.create(file=("a.jsonl", b"{}"), purpose="batch"))
        assert await done(client.files.retrieve(uploaded.id))
        assert await done(client.moderations.create(input="Hello"))
    assert budget.calls == 1


async def fetch_until_done(client: Any, response_id: str) -> Any:
    while True:
        answer = await done(client.responses.retrieve(response_id))
        if answer.status == "completed":
            return answer


async def test_three_retrieves_of_a_background_response_are_one_charge(provider: LoopbackProvider, client: Any) -> None:
    with spending() as budget:
        queued = await done(client.responses.create(**ASK_RESPONSES, extra_body=BACKGROUND))
        assert budget.calls == 0
        answers = [await fetch_until_done(client, queued.id) for _ in range(3)]
    assert all(answer.usage is not None for answer in answers)
    assert_charged_as_billed(budget, provider)


async def test_a_finished_response_is_not_charged_again_when_it_is_fetched(
    provider: LoopbackProvider, client: Any
) -> None:
    with spending() as budget:
        answer = await done(client.responses.create(**ASK_RESPONSES))
        await done(client.responses.retrieve(answer.id))
    assert_charged_as_billed(budget, provider)


@streams_retrieved
async def test_a_finished_response_is_not_charged_again_when_it_is_streamed(
    provider: LoopbackProvider, client: Any
) -> None:
    with spending() as budget:
        answer = await done(client.responses.create(**ASK_RESPONSES))
        async with within(await done(client.responses.retrieve(answer.id, stream=True))) as stream:
            await items(stream)
    assert_charged_as_billed(budget, provider)


async def test_a_response_that_was_created_elsewhere_is_charged_when_it_is_first_seen(
    provider: LoopbackProvider, client: Any
) -> None:
    answer = await done(client.responses.create(**ASK_RESPONSES))
    with spending() as budget:
        await done(client.responses.retrieve(answer.id))
        await done(client.responses.retrieve(answer.id))
    assert_charged_as_billed(budget, provider)


async def test_a_background_response_that_nobody_fetches_is_estimated_when_the_scope_ends(
    provider: LoopbackProvider, client: Any
) -> None:
    with spending() as budget:
        await done(client.responses.create(**ASK_RESPONSES, extra_body=BACKGROUND))
    [row] = budget.breakdown()
    assert row.estimated
    assert row.input_tokens > 0


async def test_a_background_response_can_be_fetched_over_budget(provider: LoopbackProvider, client: Any) -> None:
    with spending(token_limit=50_000) as budget:
        queued = await done(client.responses.create(**ASK_RESPONSES, extra_body=BACKGROUND))
        provider.script(Answer(text="Hi", input_tokens=60_000), api="chat.completions")
        with pytest.raises(BudgetExceededError):
            await chat(client)
        with pytest.raises(BudgetExceededError) as crossing:
            await fetch_until_done(client, queued.id)
    assert crossing.value.response.id == queued.id
    assert crossing.value.response.usage is not None
    assert budget.calls == 2
