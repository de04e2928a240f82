"""What the loopback provider is told to answer, and what it notes down."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from typing import Any

import anthropic
import openai
import pytest

from actguard.testing import Answer, Failure, LoopbackProvider, ReceivedRequest, ToolCall

ASK: Any = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello there"}]}
ASK_CLAUDE: Any = {"model": "claude-haiku-4-5", "max_tokens": 100, "messages": ASK["messages"]}


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


def test_arguments_that_are_no_json_fail_where_they_are_scripted() -> None:
    with pytest.raises(TypeError, match="JSON"):
        ToolCall("pay", {"amount": object()})
    assert ToolCall("pay", '{"amount": ').json == '{"amount": '


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


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Answer(text=5), "text"),  # type: ignore[arg-type]
        (lambda: Answer(input_tokens="10"), "input_tokens"),  # type: ignore[arg-type]
        (lambda: Answer(output_tokens=True), "output_tokens"),
        (lambda: Answer(chunk_delay="1"), "chunk_delay"),  # type: ignore[arg-type]
        (lambda: Answer(tool_calls=["pay"]), "tool_calls"),  # type: ignore[list-item]
        (lambda: Answer(tool_calls=ToolCall("pay")), "tool_calls"),  # type: ignore[arg-type]
        (lambda: Answer(usage=None), "usage"),  # type: ignore[arg-type]
        (lambda: ToolCall(5), "name"),  # type: ignore[arg-type]
        (lambda: Failure("429"), "status"),  # type: ignore[arg-type]
        (lambda: LoopbackProvider(default=5), "default"),  # type: ignore[arg-type]
    ],
)
def test_a_reply_of_the_wrong_kind_names_the_field(make: Any, named: str) -> None:
    with pytest.raises(TypeError, match=named):
        make()


@pytest.mark.parametrize(
    ("replies", "named", "problem"),
    [
        ([5], {}, "an Answer.*not 5"),
        ([None], {}, "an Answer.*not None"),
        ([Answer], {}, r"write Answer\(\.\.\.\)"),
        (["x"], {"provider": "opnai"}, "provider='opnai'.*openai, anthropic, google"),
        (["x"], {"api": "chat_completions"}, "api='chat_completions'.*chat.completions"),
        (["x"], {"model": 5}, "model=5"),
        (["x"], {"when": "always"}, "when='always'"),
    ],
)
def test_a_script_that_nothing_could_match_is_refused(
    provider: LoopbackProvider, replies: list[Any], named: dict[str, Any], problem: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=problem):
        provider.script("fine", *replies, **named)
    assert provider.pending == 0


def test_a_function_that_returns_no_reply_is_an_error_answer(provider: LoopbackProvider) -> None:
    provider.script(lambda request: 5)  # type: ignore[arg-type, return-value]
    with pytest.raises(openai.InternalServerError, match="what it returns is an Answer"):
        provider.openai().chat.completions.create(**ASK)


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
