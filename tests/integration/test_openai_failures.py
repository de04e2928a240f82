"""OpenAI calls that fail: what was never sent or refused costs nothing, what may have been billed is estimated."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import openai
import pytest
import trio
from either import MODES, done
from openai_calls import ASK, assert_charged_as_billed, chat, chat_chunks, chat_stream
from spending import spending

from actguard.testing import Answer, Failure, Gate, Hang, LoopbackProvider, Reset

IMPATIENT = openai.Timeout(5, read=0.1)
"""Connecting may take its time; only the answer has to come soon."""


@pytest.fixture(params=MODES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def client_of(provider: LoopbackProvider, kind: str, **settings: Any) -> Any:
    return provider.openai(**settings) if kind == "sync" else provider.async_openai(**settings)


def assert_nothing_charged(budget: Any) -> None:
    assert budget.calls == 0
    assert budget.tokens_used == 0
    assert budget.breakdown() == []


def assert_estimated(budget: Any, *, attempts: int = 1) -> None:
    [row] = budget.breakdown()
    assert row.estimated
    assert row.input_tokens == attempts * (row.input_tokens // attempts) > 0
    assert row.output_tokens > 0


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 429, 500, 503])
@pytest.mark.parametrize("call", [chat, chat_stream], ids=["plain", "stream"])
async def test_an_error_status_costs_nothing(provider: LoopbackProvider, kind: str, status: int, call: Any) -> None:
    provider.script(Failure(status))
    with spending() as budget:
        with pytest.raises(openai.APIStatusError) as error:
            await call(client_of(provider, kind))
        assert error.value.status_code == status
        assert_nothing_charged(budget)


async def test_a_server_that_is_not_there_costs_nothing(kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    make = openai.OpenAI if kind == "sync" else openai.AsyncOpenAI
    client = make(api_key="sk-test", base_url=f"http://127.0.0.1:{port}/v1", max_retries=0)
    with spending() as budget, pytest.raises(openai.APIConnectionError):
        await chat(client)
    assert_nothing_charged(budget)
    await done(client.close())


async def test_a_closed_client_costs_nothing(provider: LoopbackProvider, kind: str) -> None:
    client = client_of(provider, kind)
    await done(client.close())
    with spending() as budget, pytest.raises((RuntimeError, openai.APIConnectionError)):
        await chat(client)
    assert_nothing_charged(budget)


async def test_a_request_that_cannot_be_encoded_costs_nothing(provider: LoopbackProvider, kind: str) -> None:
    with spending() as budget, pytest.raises(TypeError):
        await chat(client_of(provider, kind), user=object())
    assert_nothing_charged(budget)


async def test_a_timeout_is_estimated(provider: LoopbackProvider, kind: str) -> None:
    provider.script(Hang())
    with spending() as budget, pytest.raises(openai.APITimeoutError):
        await chat(client_of(provider, kind, timeout=IMPATIENT))
    assert_estimated(budget)


async def test_a_timeout_with_retries_is_estimated_for_each_attempt(provider: LoopbackProvider, kind: str) -> None:
    provider.script(Hang(), Hang(), Hang())
    with spending() as once, pytest.raises(openai.APITimeoutError):
        await chat(client_of(provider, kind, timeout=IMPATIENT))
    with spending() as thrice, pytest.raises(openai.APITimeoutError):
        await chat(client_of(provider, kind, timeout=IMPATIENT, max_retries=1))
    assert len(provider.requests) == 3
    assert thrice.tokens_used == 2 * once.tokens_used
    assert_estimated(thrice, attempts=2)


async def test_a_lost_connection_is_estimated(provider: LoopbackProvider, kind: str) -> None:
    provider.script(Reset())
    with spending() as budget, pytest.raises(openai.APIConnectionError):
        await chat(client_of(provider, kind))
    assert_estimated(budget)


async def test_an_answer_that_is_cut_in_its_middle_is_estimated(provider: LoopbackProvider, kind: str) -> None:
    provider.script(Answer(text="word " * 100, cut_after=1))
    with spending() as budget, pytest.raises(openai.APIConnectionError):
        await chat(client_of(provider, kind))
    assert_estimated(budget)


async def test_only_the_attempt_that_was_answered_is_charged(provider: LoopbackProvider, kind: str) -> None:
    provider.script(Failure(429, retry_after=0.001), Failure(500, retry_after=0.001))
    with spending() as budget:
        await chat(client_of(provider, kind, max_retries=2))
    assert len(provider.requests) == 3
    assert_charged_as_billed(budget, provider)


async def test_a_cancelled_call_is_estimated(provider: LoopbackProvider) -> None:
    provider.script(Hang())
    with spending() as budget:
        call = asyncio.create_task(chat(provider.async_openai()))
        await provider.wait_for(lambda: len(provider.requests) == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert_estimated(budget)


def test_a_call_that_trio_cancels_is_estimated(provider: LoopbackProvider) -> None:
    provider.script(Hang())

    async def call_and_give_up() -> None:
        async with provider.async_openai() as client, trio.open_nursery() as nursery:
            nursery.start_soon(chat, client)
            await trio.to_thread.run_sync(provider.wait_for_sync, lambda: len(provider.requests) == 1)
            nursery.cancel_scope.cancel()

    with spending() as budget:
        trio.run(call_and_give_up)
        assert_estimated(budget)


async def test_a_failed_call_gives_its_hold_back(provider: LoopbackProvider, kind: str) -> None:
    client = client_of(provider, kind)
    provider.script(Failure(500), "Hello")
    with spending(token_limit=2_000) as budget:
        with pytest.raises(openai.InternalServerError):
            await chat(client, max_tokens=1_900)
        await chat(client, max_tokens=1_900)
    assert_charged_as_billed(budget, provider)


async def test_no_lock_is_held_while_a_call_is_under_way(provider: LoopbackProvider) -> None:
    gate = Gate()
    provider.script(Answer(text="late", gate=gate))
    client = provider.async_openai()
    with spending() as budget:
        slow = asyncio.create_task(chat(client))
        await provider.wait_for(lambda: gate.held == 1)
        await chat_chunks(client)
        assert budget.calls == 1
        gate.open()
        await slow
    assert_charged_as_billed(budget, provider)


async def test_a_call_outside_any_scope_is_not_touched(provider: LoopbackProvider, kind: str) -> None:
    client = client_of(provider, kind)
    with spending():
        pass
    assert (await chat(client)).choices
    assert await chat_chunks(client)
    assert all("stream_options" not in request.body for request in provider.requests)
    assert {"model": ASK["model"], "messages": ASK["messages"]} == ASK
