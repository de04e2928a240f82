"""Errors, lost connections, waiting, and the surroundings that the provider runs in."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import anthropic
import openai
import pytest
import trio

from actguard.testing import Answer, Failure, Gate, Hang, LoopbackProvider, Reset

ASK: Any = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello there"}]}
ASK_CLAUDE: Any = {"model": "claude-haiku-4-5", "max_tokens": 100, "messages": ASK["messages"]}


def test_failures_reach_the_client_and_cost_nothing(provider: LoopbackProvider) -> None:
    provider.script(Failure(429, "Slow down", retry_after=1.5), Failure(529), Failure(401, code="odd"))
    with pytest.raises(openai.RateLimitError, match="Slow down") as limited:
        provider.openai().chat.completions.create(**ASK)
    assert limited.value.response.headers["retry-after"] == "1.5"
    with pytest.raises(anthropic.APIStatusError, match="overloaded_error"):
        provider.anthropic().messages.create(**ASK_CLAUDE)
    with pytest.raises(openai.AuthenticationError) as refused:
        provider.openai().chat.completions.create(**ASK)
    assert refused.value.code == "odd"
    assert [request.status for request in provider.requests] == [429, 529, 401]
    assert provider.billed.calls == 0


def test_the_sdk_retries_what_it_would_retry(provider: LoopbackProvider) -> None:
    provider.script(Failure(429, retry_after=0.001), Failure(503, retry_after=0.001), "third time lucky")
    client = provider.openai(max_retries=2)
    assert client.chat.completions.create(**ASK).choices[0].message.content == "third time lucky"
    assert [request.billed for request in provider.requests] == [False, False, True]


def test_reset_is_a_connection_error(provider: LoopbackProvider) -> None:
    provider.script(Reset())
    with pytest.raises(openai.APIConnectionError):
        provider.openai().chat.completions.create(**ASK)
    (request,) = provider.requests
    assert (request.done, request.completed, request.disconnected, request.status) == (True, False, False, None)


def test_a_cut_stream_delivers_its_pieces_then_fails(provider: LoopbackProvider) -> None:
    provider.script(Answer(generate=100, chunks=10, cut_after=3))
    stream = provider.openai().chat.completions.create(**ASK, stream=True)
    chunks = [next(stream) for _ in range(4)]
    assert sum(len(chunk.choices[0].delta.content or "") for chunk in chunks) == 120
    with pytest.raises(Exception, match=r"(?i)connection"):  # the SDK's own error or, in older ones, httpx's
        next(stream)
    provider.wait_for_sync(lambda: provider.requests[0].done)
    (request,) = provider.requests
    assert (request.output_tokens, request.completed, request.disconnected) == (30, False, False)


def test_a_cut_plain_answer_fails(provider: LoopbackProvider) -> None:
    provider.script(Answer(text="never whole", cut_after=0))
    with pytest.raises((openai.APIConnectionError, openai.APIResponseValidationError)):
        provider.openai().chat.completions.create(**ASK)
    assert provider.billed.calls == 1


def test_a_client_tires_of_a_hanging_provider(provider: LoopbackProvider) -> None:
    provider.script(Hang())
    with pytest.raises(openai.APITimeoutError):
        provider.openai(timeout=0.05).chat.completions.create(**ASK)


def test_a_gate_holds_until_it_is_opened(provider: LoopbackProvider) -> None:
    gate, client = Gate(), provider.openai()
    provider.script(Answer(text="late", gate=gate), Answer(text="later", gate=gate))
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(lambda: client.chat.completions.create(**ASK)) for _ in range(2)]
        provider.wait_for_sync(lambda: gate.held == 2)
        assert not any(call.done() for call in calls)
        gate.open()
        texts = sorted(str(call.result().choices[0].message.content) for call in calls)
    assert texts == ["late", "later"]
    provider.script(Answer(text="open", gate=gate))
    assert client.chat.completions.create(**ASK).choices[0].message.content == "open"


def test_waiting_in_vain_is_a_timeout(provider: LoopbackProvider) -> None:
    with pytest.raises(TimeoutError, match="requests so far"):
        provider.wait_for_sync(lambda: provider.requests, timeout=0.01)


async def test_waiting_can_be_cancelled(aprovider: LoopbackProvider) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await aprovider.wait_for(lambda: False, timeout=60)


def test_it_serves_trio() -> None:
    async def main() -> None:
        async with LoopbackProvider() as provider, provider.async_openai() as client:
            provider.script(Answer(text="from trio", chunks=3))
            # A chat stream ends at [DONE], where the SDK drops its generators half read, and trio warns of that.
            stream = await client.responses.create(model="gpt-4o", input="hi", stream=True)
            pieces = [event.delta async for event in stream if event.type == "response.output_text.delta"]
            assert pieces == ["from", " tri", "o"]
            async with provider.async_anthropic() as claude:
                message = await claude.messages.create(**ASK_CLAUDE)
                assert message.usage.output_tokens == 6
            await provider.wait_for(lambda: all(request.done for request in provider.requests))
            provider.script(Hang())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(client.chat.completions.create, **ASK))
                await provider.wait_for(lambda: len(provider.requests) == 3)
                nursery.cancel_scope.cancel()
            await provider.wait_for(lambda: provider.requests[-1].disconnected)

    trio.run(main)


async def test_many_streams_at_once_are_counted_apart(aprovider: LoopbackProvider) -> None:
    aprovider.script(lambda request: Answer(generate=request.output_limit or 0, chunks=4))
    async with aprovider.async_openai() as client:

        async def read(limit: int) -> int:
            stream = await client.chat.completions.create(**ASK, max_completion_tokens=limit, stream=True)
            return sum([len(chunk.choices[0].delta.content or "") async for chunk in stream]) // 4

        limits = list(range(10, 60))
        assert await asyncio.gather(*map(read, limits)) == limits
    assert sorted(request.output_tokens for request in aprovider.requests) == limits
    assert aprovider.billed.calls == 50


def test_stopping_lets_go_of_everything() -> None:
    before = threading.active_count()
    with LoopbackProvider() as provider:
        client = provider.openai()
        client.chat.completions.create(**ASK)
        provider.script(Hang(), Answer(gate=Gate()))
        with ThreadPoolExecutor(2) as pool:
            calls = [pool.submit(lambda: client.chat.completions.create(**ASK)) for _ in range(2)]
            provider.wait_for_sync(lambda: len(provider.requests) == 3)
            provider.__exit__(None, None, None)
            for call in calls:
                with pytest.raises(openai.APIConnectionError):
                    call.result()
    assert threading.active_count() == before
    assert not any(request.disconnected for request in provider.requests)
    gc.collect()  # an unclosed socket would warn here, and warnings are errors


async def test_a_cancelled_start_leaves_nothing_behind() -> None:
    provider = LoopbackProvider()
    starting = asyncio.create_task(provider.__aenter__())
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting])
    assert starting.cancelled()
    assert "actguard-loopback" not in [thread.name for thread in threading.enumerate()]
    async with provider:
        assert provider.openai_url


def test_it_can_be_used_again_but_not_twice_at_once() -> None:
    provider = LoopbackProvider()
    with pytest.raises(RuntimeError, match="not running"):
        _ = provider.openai_url
    for _ in range(2):
        with provider:
            provider.openai().chat.completions.create(**ASK)
            with pytest.raises(RuntimeError, match="running already"):
                provider.__enter__()
    assert len(provider.requests) == 2


def test_the_clients_given_settings_win(provider: LoopbackProvider) -> None:
    assert provider.openai().max_retries == 0
    assert provider.openai(max_retries=3, api_key="mine").max_retries == 3
    assert provider.anthropic(api_key="mine").api_key == "mine"


def test_a_client_that_leaves_is_no_error_of_the_server(
    provider: LoopbackProvider, caplog: pytest.LogCaptureFixture
) -> None:
    client = provider.openai()
    for _ in range(50):
        stream = client.chat.completions.create(**ASK, stream=True)
        next(iter(stream))
        stream.close()
    provider.wait_for_sync(lambda: all(request.done for request in provider.requests))
    assert len(provider.requests) == 50
    assert not caplog.records


@pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
@pytest.mark.parametrize("named", [None, "example.com"])
async def test_a_proxy_of_the_environment_is_passed_by(monkeypatch: pytest.MonkeyPatch, named: str | None) -> None:
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
    if named is not None:
        monkeypatch.setenv("NO_PROXY", named)
    before = dict(os.environ)
    async with LoopbackProvider() as provider, LoopbackProvider() as other:
        for each in (provider, other):
            openai.OpenAI(base_url=each.openai_url, api_key="mine", max_retries=0).chat.completions.create(**ASK)
            each.anthropic().messages.create(**ASK_CLAUDE)
            google = each.google()
            google.models.generate_content(model="gemini-2.5-flash", contents="Hi")
            await google.aio.models.generate_content(model="gemini-2.5-flash", contents="Hi")
            await each.async_openai().chat.completions.create(**ASK)
        assert provider.billed.calls == other.billed.calls == 5
        assert os.environ["no_proxy"] == ("127.0.0.1" if named is None else f"{named},127.0.0.1")
    assert dict(os.environ) == before


def test_without_a_proxy_the_environment_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(variable)
    before = dict(os.environ)
    with LoopbackProvider():
        assert dict(os.environ) == before


def test_a_no_proxy_that_was_changed_meanwhile_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "example.com")
    with LoopbackProvider():
        monkeypatch.setenv("no_proxy", "example.org")
    assert os.environ["no_proxy"] == "example.org"
