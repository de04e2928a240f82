"""The loopback provider itself: scripts, honest billing, lost connections, waiting, closing."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import anthropic
import openai
import pytest
import trio

from actguard.testing import Answer, Failure, Gate, Hang, LoopbackProvider, ReceivedRequest, Reset, ToolCall

ASK: Any = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello there"}]}
ASK_CLAUDE: Any = {"model": "claude-haiku-4-5", "max_tokens": 100, "messages": ASK["messages"]}


@pytest.fixture
def provider() -> Iterator[LoopbackProvider]:
    with LoopbackProvider() as provider:
        yield provider


@pytest.fixture
async def aprovider() -> AsyncIterator[LoopbackProvider]:
    async with LoopbackProvider() as provider:
        yield provider


async def leave(provider: LoopbackProvider, when: Callable[[], bool]) -> None:
    """Call and give up as soon as ``when()`` is true, then wait until the provider has noticed."""
    async with provider.async_openai() as client:
        call = asyncio.create_task(client.chat.completions.create(**ASK))
        await provider.wait_for(when)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await provider.wait_for(lambda: provider.requests[0].done)


# ---------------------------------------------------------------- scripts


def test_an_unscripted_answer_is_the_same_every_time(provider: LoopbackProvider) -> None:
    client = provider.openai()
    answers = [client.chat.completions.create(**ASK) for _ in range(2)]
    assert [each.choices[0].message.content for each in answers] == ["You said: Hello there"] * 2
    usage = answers[0].usage
    assert usage is not None
    # "user" and "Hello there" are 15 bytes, the answer is 21.
    assert (usage.prompt_tokens, usage.completion_tokens) == (4, 6)
    assert provider.billed.total_tokens == 20


def test_replies_are_used_once_in_order(provider: LoopbackProvider) -> None:
    client = provider.openai()
    provider.script("one", Answer(text="two"))
    assert provider.pending == 2
    texts = [client.chat.completions.create(**ASK).choices[0].message.content for _ in range(3)]
    assert texts == ["one", "two", "You said: Hello there"]
    assert provider.pending == 0


def test_a_reply_waits_for_the_request_that_it_is_meant_for(provider: LoopbackProvider) -> None:
    client, claude = provider.openai(), provider.anthropic()
    provider.script("for Claude", provider="anthropic")
    provider.script("for the big one", model="gpt-4o")
    provider.script("for responses", api="responses")
    provider.script("long", when=lambda request: request.output_limit == 7)
    plain = client.chat.completions.create(**ASK)
    assert plain.choices[0].message.content == "You said: Hello there"
    assert client.chat.completions.create(**ASK, max_tokens=7).choices[0].message.content == "long"
    assert client.responses.create(model="gpt-4o-mini", input="x").output_text == "for responses"
    assert client.chat.completions.create(**{**ASK, "model": "gpt-4o"}).choices[0].message.content == "for the big one"
    block = claude.messages.create(**ASK_CLAUDE).content[0]
    assert block.type == "text"
    assert block.text == "for Claude"
    assert provider.pending == 0


def test_a_function_programs_an_agent_and_may_pass(provider: LoopbackProvider) -> None:
    client = provider.openai()

    def loop(request: ReceivedRequest) -> Answer | None:
        return None if request.model == "gpt-4o" else Answer(tool_calls=[ToolCall("again", {"n": request.number})])

    provider.script(loop, "the end")
    for number in (1, 2, 3):
        calls = client.chat.completions.create(**ASK).choices[0].message.tool_calls
        assert calls is not None
        assert calls[0].type == "function"
        assert calls[0].function.arguments == f'{{"n": {number}}}'
    assert client.chat.completions.create(**{**ASK, "model": "gpt-4o"}).choices[0].message.content == "the end"


def test_a_function_that_raises_is_an_error_answer(provider: LoopbackProvider) -> None:
    def broken(request: ReceivedRequest) -> Answer:
        raise LookupError("no such scene")

    provider.script(broken)
    with pytest.raises(openai.InternalServerError, match="no such scene"):
        provider.openai().chat.completions.create(**ASK)


def test_free_calls_use_no_replies_unless_named(provider: LoopbackProvider) -> None:
    client = provider.openai()
    provider.script("kept")
    assert len(list(client.models.list())) > 0
    assert provider.pending == 1
    provider.script(Failure(403, "Not yours"), api="models")
    with pytest.raises(openai.PermissionDeniedError, match="Not yours"):
        client.models.list()
    assert provider.billed.calls == 0


def test_the_default_answers_what_no_script_does() -> None:
    with LoopbackProvider(default=Answer(generate=3)) as provider:
        client = provider.openai()
        provider.script("first")
        texts = [client.chat.completions.create(**ASK).choices[0].message.content for _ in range(3)]
        assert texts == ["first", "the cat sat ", "the cat sat "]


def test_reset_forgets(provider: LoopbackProvider) -> None:
    client = provider.openai()
    provider.script("one", "two")
    client.chat.completions.create(**ASK)
    provider.reset()
    assert (provider.pending, provider.requests, provider.billed.calls) == (0, [], 0)
    assert client.chat.completions.create(**ASK).choices[0].message.content == "You said: Hello there"


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Answer(output_tokens=-1), "output_tokens"),
        (lambda: Answer(delay=-0.1), "delay"),
        (lambda: Answer(finish="tired"), "finish"),  # type: ignore[arg-type]
        (lambda: Failure(200), "status"),
    ],
)
def test_a_wrong_reply_names_the_field(make: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make()


# ---------------------------------------------------------------- what was received


def test_records_hold_no_secrets(provider: LoopbackProvider) -> None:
    provider.openai(api_key="sk-secret").chat.completions.create(**ASK)
    provider.azure(api_key="azure-secret").chat.completions.create(**ASK)
    provider.anthropic(api_key="ant-secret").messages.create(**ASK_CLAUDE)
    provider.google(api_key="google-secret").models.generate_content(model="gemini-2.5-flash", contents="hi")
    with socket.create_connection(("127.0.0.1", int(provider.openai_url.split(":")[2].split("/")[0]))) as raw:
        raw.sendall(b"GET /google/v1beta/models?key=query-secret HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        while raw.recv(65_536):
            pass
    seen = [(request.headers, request.query, repr(request)) for request in provider.requests]
    assert len(seen) == 5
    assert "secret" not in str(seen)
    assert seen[0][0]["authorization"] == "[redacted]"
    assert seen[4][1] == {"key": "[redacted]"}


def test_a_record_says_what_was_asked_and_answered(provider: LoopbackProvider) -> None:
    provider.script(Answer(text="Hi", input_tokens=100, cached_input_tokens=60, output_tokens=9))
    provider.openai().chat.completions.create(**ASK, max_completion_tokens=50, extra_query={"page": "2"})
    (request,) = provider.requests
    assert (request.provider, request.platform, request.api) == ("openai", "openai", "chat.completions")
    assert (request.method, request.path, request.query) == ("POST", "/v1/chat/completions", {"page": "2"})
    assert request.body["messages"] == ASK["messages"]
    assert (request.model, request.stream, request.output_limit, request.status) == ("gpt-4o-mini", False, 50, 200)
    assert (request.input_tokens, request.cached_input_tokens, request.output_tokens) == (100, 60, 9)
    assert request.completed
    assert request.done
    assert not request.disconnected


def test_unknown_paths_answer_404_in_the_providers_shape(provider: LoopbackProvider) -> None:
    with pytest.raises(openai.NotFoundError, match="Unknown request URL"):
        provider.openai().post("/nothing", cast_to=object)
    with pytest.raises(anthropic.NotFoundError, match="not_found_error"):
        provider.anthropic().post("/v1/nothing", cast_to=object)
    assert [request.api for request in provider.requests] == ["unknown", "unknown"]


def test_a_body_that_is_not_json_is_refused(provider: LoopbackProvider) -> None:
    for body in (b"{broken", b"[]"):
        with pytest.raises(urllib.error.HTTPError, match="400") as refused:
            urllib.request.urlopen(f"{provider.openai_url}/chat/completions", data=body)
        assert b"invalid_request_error" in refused.value.read()
        refused.value.close()
    assert provider.billed.calls == 0


def test_prompts_may_be_long(provider: LoopbackProvider) -> None:
    ask = {**ASK, "messages": [{"role": "user", "content": "x" * 3_000_000}]}
    usage = provider.openai().chat.completions.create(**ask).usage
    assert usage is not None
    assert usage.prompt_tokens == 750_001


# ---------------------------------------------------------------- generation and billing


@pytest.mark.parametrize(("limit", "tokens", "finish"), [(40, 40, "length"), (1_000, 300, "stop"), (None, 300, "stop")])
def test_a_generation_keeps_to_the_requests_limit(
    provider: LoopbackProvider, limit: int | None, tokens: int, finish: str
) -> None:
    provider.script(Answer(generate=300))
    limits: Any = {} if limit is None else {"max_completion_tokens": limit}
    answer = provider.openai().chat.completions.create(**ASK, **limits)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == tokens
    assert len(answer.choices[0].message.content or "") == 4 * tokens
    assert answer.choices[0].finish_reason == finish


def test_reasoning_takes_its_part_of_the_limit(provider: LoopbackProvider) -> None:
    provider.script(Answer(generate=300, reasoning_tokens=30))
    answer = provider.openai().chat.completions.create(**ASK, max_completion_tokens=40)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 40
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == 30
    assert answer.choices[0].message.content == "the cat sat and saw one big red fox run "


def test_each_choice_is_generated_and_billed(provider: LoopbackProvider) -> None:
    provider.script(Answer(generate=300))
    answer = provider.openai().chat.completions.create(**ASK, max_completion_tokens=10, n=3)
    assert [len(choice.message.content or "") for choice in answer.choices] == [40, 40, 40]
    assert provider.billed.output_tokens == 30


async def test_a_stream_is_billed_up_to_where_its_client_left(aprovider: LoopbackProvider) -> None:
    gate = Gate()
    aprovider.script(Answer(generate=1_000, chunks=100, gate=gate, gate_after=7))
    async with aprovider.async_openai() as client:
        stream = await client.chat.completions.create(**ASK, stream=True)
        text = ""
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            if len(text) == 280:
                break
        assert await aprovider.wait_for(lambda: gate.held) == 1
        assert not aprovider.requests[0].done
        await stream.close()
        await aprovider.wait_for(lambda: aprovider.requests[0].done)
    (request,) = aprovider.requests
    assert (request.disconnected, request.completed, request.output_tokens) == (True, False, 70)
    assert gate.held == 0


async def test_a_plain_answer_is_billed_although_its_client_left(aprovider: LoopbackProvider) -> None:
    gate = Gate()
    aprovider.script(Answer(text="too late", input_tokens=11, output_tokens=22, gate=gate))
    await leave(aprovider, lambda: gate.held == 1)
    (request,) = aprovider.requests
    assert (request.disconnected, request.status) == (True, None)
    assert (aprovider.billed.input_tokens, aprovider.billed.output_tokens) == (11, 22)


def test_pieces_join_to_the_text_and_keep_tokens_whole(provider: LoopbackProvider) -> None:
    client = provider.openai()
    for text, chunks, expected in (("x" * 40, 5, [8] * 5), ("héllo wörld", 3, None), ("abc", 10, [1, 1, 1])):
        provider.script(Answer(text=text, chunks=chunks))
        stream = client.chat.completions.create(**ASK, stream=True)
        pieces = [piece for chunk in stream if (piece := chunk.choices[0].delta.content)]
        assert "".join(pieces) == text
        assert len(pieces) <= chunks
        if expected is not None:
            assert [len(piece) for piece in pieces] == expected


# ---------------------------------------------------------------- errors and lost connections


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


async def test_hang_never_answers(aprovider: LoopbackProvider) -> None:
    aprovider.script(Hang())
    await leave(aprovider, lambda: bool(aprovider.requests))
    assert aprovider.requests[0].disconnected
    assert aprovider.billed.calls == 0


def test_a_client_tires_of_a_hanging_provider(provider: LoopbackProvider) -> None:
    provider.script(Hang())
    with pytest.raises(openai.APITimeoutError):
        provider.openai(timeout=0.05).chat.completions.create(**ASK)


# ---------------------------------------------------------------- gates and waiting


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


# ---------------------------------------------------------------- surroundings


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
