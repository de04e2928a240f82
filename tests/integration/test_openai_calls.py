"""The real OpenAI clients inside a budget scope: every form of a call is charged what the provider billed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import openai
import pydantic
import pytest
from either import MODES, done, items, within
from genai_prices import Usage as PricedUsage
from genai_prices import calc_price
from openai_calls import ASK, ASK_RESPONSES, MODEL, assert_charged_as_billed, helpers, streams_images
from spending import spending

from actguard.exceptions import BudgetExceededError
from actguard.testing import Answer, LoopbackProvider

AUDIO = ("speech.mp3", b"\0" * 64_000, "audio/mpeg")


class City(pydantic.BaseModel):
    name: str


CITY = Answer(text='{"name": "Oslo"}', input_tokens=500, output_tokens=20)


@pytest.fixture(params=MODES)
def client(request: pytest.FixtureRequest, provider: LoopbackProvider) -> Any:
    return provider.openai() if request.param == "sync" else provider.async_openai()


# --- every form of a call ---------------------------------------------------------------------------------------------


async def chat(client: Any) -> None:
    answer = await done(client.chat.completions.create(**ASK))
    assert answer.choices[0].message.content


async def chat_parse(client: Any) -> None:
    answer = await done(helpers(client).parse(**ASK, response_format=City))
    assert answer.choices[0].message.parsed == City(name="Oslo")


async def chat_stream(client: Any) -> None:
    chunks = await items(await done(client.chat.completions.create(**ASK, stream=True)))
    assert all(chunk.choices for chunk in chunks)


async def chat_stream_helper(client: Any) -> None:
    async with within(helpers(client).stream(**ASK)) as stream:
        events = await items(stream)
    assert events[-1].type == "content.done"


async def chat_stream_helper_parsed(client: Any) -> None:
    async with within(helpers(client).stream(**ASK, response_format=City)) as stream:
        await items(stream)
        completion = await done(stream.get_final_completion())
    assert completion.choices[0].message.parsed == City(name="Oslo")


async def chat_raw(client: Any) -> None:
    response = await done(client.chat.completions.with_raw_response.create(**ASK))
    assert response.parse().choices


async def chat_raw_stream(client: Any) -> None:
    asked = {**ASK, "stream": True, "stream_options": {"include_usage": True}}
    response = await done(client.chat.completions.with_raw_response.create(**asked))
    chunks = await items(response.parse())
    assert chunks[-1].usage is not None


async def chat_unread(client: Any) -> None:
    async with within(client.chat.completions.with_streaming_response.create(**ASK)) as response:
        assert (await done(response.parse())).choices


async def chat_unread_lines(client: Any) -> None:
    asked = {**ASK, "stream": True, "stream_options": {"include_usage": True}}
    async with within(client.chat.completions.with_streaming_response.create(**asked)) as response:
        lines = await items(response.iter_lines())
    assert "data: [DONE]" in lines


async def chat_unread_stream(client: Any) -> None:
    asked = {**ASK, "stream": True, "stream_options": {"include_usage": True}}
    async with within(client.chat.completions.with_streaming_response.create(**asked)) as response:
        assert await items(await done(response.parse()))


async def post_for_a_dict(client: Any) -> None:
    answer = await done(client.post("/chat/completions", body=ASK, cast_to=object))
    assert answer["usage"]


async def post_for_a_response(client: Any) -> None:
    kind: Any = type(client._client.build_request("GET", "http://127.0.0.1")).__module__.partition(".")[0]
    response_class = __import__(kind).Response
    response = await done(client.post("/chat/completions", body=ASK, cast_to=response_class))
    assert response.json()["usage"]


async def responses(client: Any) -> None:
    assert (await done(client.responses.create(**ASK_RESPONSES))).output_text


async def responses_parse(client: Any) -> None:
    answer = await done(client.responses.parse(**ASK_RESPONSES, text_format=City))
    assert answer.output_parsed == City(name="Oslo")


async def responses_stream(client: Any) -> None:
    events = await items(await done(client.responses.create(**ASK_RESPONSES, stream=True)))
    assert events[-1].type == "response.completed"


async def responses_stream_helper(client: Any) -> None:
    async with within(client.responses.stream(**ASK_RESPONSES)) as stream:
        assert (await done(stream.get_final_response())).output_text


async def responses_raw(client: Any) -> None:
    response = await done(client.responses.with_raw_response.create(**ASK_RESPONSES))
    assert response.parse().output_text


async def responses_unread_stream(client: Any) -> None:
    asked = {**ASK_RESPONSES, "stream": True}
    async with within(client.responses.with_streaming_response.create(**asked)) as response:
        assert await items(await done(response.parse()))


async def embeddings(client: Any) -> None:
    answer = await done(client.embeddings.create(model="text-embedding-3-small", input=["Hello", "there"]))
    assert len(answer.data) == 2


async def embeddings_raw(client: Any) -> None:
    response = await done(client.embeddings.with_raw_response.create(model="text-embedding-3-small", input=[[1, 2, 3]]))
    assert response.parse().data


async def completions(client: Any) -> None:
    assert (await done(client.completions.create(model="gpt-3.5-turbo-instruct", prompt="Hello"))).choices


async def completions_stream(client: Any) -> None:
    stream = await done(client.completions.create(model="gpt-3.5-turbo-instruct", prompt="Hello", stream=True))
    assert all(chunk.choices for chunk in await items(stream))


async def images(client: Any) -> None:
    assert (await done(client.images.generate(model="gpt-image-1", prompt="A fjord"))).data


async def images_stream(client: Any) -> None:
    events = await items(await done(client.images.generate(model="gpt-image-1", prompt="A fjord", stream=True)))
    assert events[-1].type == "image_generation.completed"


async def transcription(client: Any) -> None:
    assert (await done(client.audio.transcriptions.create(model="gpt-4o-transcribe", file=AUDIO))).text


async def transcription_stream(client: Any) -> None:
    events = await items(
        await done(client.audio.transcriptions.create(model="gpt-4o-transcribe", file=AUDIO, stream=True))
    )
    assert events[-1].type == "transcript.text.done"


FORMS = (
    chat,
    chat_raw,
    chat_raw_stream,
    chat_stream,
    chat_stream_helper,
    chat_unread,
    chat_unread_lines,
    chat_unread_stream,
    post_for_a_dict,
    post_for_a_response,
    responses,
    responses_raw,
    responses_stream,
    responses_stream_helper,
    responses_unread_stream,
    embeddings,
    embeddings_raw,
    completions,
    completions_stream,
    images,
    pytest.param(images_stream, marks=streams_images, id="images_stream"),
    transcription,
    transcription_stream,
)


def name_of(form: Any) -> str | None:
    return getattr(form, "__name__", None)


PARSED_FORMS = (chat_parse, chat_stream_helper_parsed, responses_parse)


@pytest.mark.parametrize("form", FORMS, ids=name_of)
async def test_every_form_is_charged_once_and_as_billed(
    provider: LoopbackProvider, client: Any, form: Callable[[Any], Awaitable[None]]
) -> None:
    with spending() as budget:
        await form(client)
    assert_charged_as_billed(budget, provider)


@pytest.mark.parametrize("form", PARSED_FORMS, ids=name_of)
async def test_every_parsing_form_is_charged_once_and_as_billed(
    provider: LoopbackProvider, client: Any, form: Callable[[Any], Awaitable[None]]
) -> None:
    provider.script(CITY)
    with spending() as budget:
        await form(client)
    assert_charged_as_billed(budget, provider)


@pytest.mark.parametrize("form", FORMS, ids=name_of)
async def test_every_form_is_refused_before_it_is_sent_when_the_budget_is_full(
    provider: LoopbackProvider, client: Any, form: Callable[[Any], Awaitable[None]]
) -> None:
    with spending(token_limit=1) as budget:
        with pytest.raises(BudgetExceededError):
            await chat(client)
        sent = len(provider.requests)
        with pytest.raises(BudgetExceededError) as refusal:
            await form(client)
        assert refusal.value.response is None
    assert len(provider.requests) == sent
    assert budget.calls == 1


# --- what a call costs ------------------------------------------------------------------------------------------------


async def test_cached_tokens_are_charged_once_at_their_own_price(provider: LoopbackProvider, client: Any) -> None:
    provider.script(Answer(text="Hi", input_tokens=1_000, cached_input_tokens=800, output_tokens=30))
    with spending() as budget:
        await chat(client)

    [row] = budget.breakdown()
    assert (row.input_tokens, row.cached_input_tokens, row.output_tokens) == (1_000, 800, 30)
    usage = PricedUsage(input_tokens=1_000, cache_read_tokens=800, output_tokens=30)
    assert row.usd == calc_price(usage, MODEL, provider_id="openai").total_price


@pytest.mark.parametrize("tier", ["flex", "priority"])
async def test_the_service_tier_of_the_answer_sets_the_price(
    provider: LoopbackProvider, client: Any, tier: str
) -> None:
    provider.script(Answer(text="Hi", model="gpt-5", input_tokens=1_000, output_tokens=30, service_tier=tier))
    with spending() as budget:
        await done(client.chat.completions.create(**{**ASK, "model": "gpt-5"}))

    usage = PricedUsage(input_tokens=1_000, output_tokens=30)
    price = calc_price(usage, "gpt-5", provider_id="openai", price_context={"service_tier": tier}).total_price
    assert budget.usd_used_exact == price
    assert price != calc_price(usage, "gpt-5", provider_id="openai").total_price


async def test_the_model_that_answered_is_charged(provider: LoopbackProvider, client: Any) -> None:
    provider.script(Answer(text="Hi", model="gpt-4o-2024-08-06"))
    with spending() as budget:
        await chat(client)
    assert [row.model for row in budget.breakdown()] == ["gpt-4o-2024-08-06"]


async def test_the_extra_body_decides_what_is_asked(provider: LoopbackProvider, client: Any) -> None:
    with spending() as budget:
        await done(client.chat.completions.create(**ASK, extra_body={"model": "gpt-4.1-nano"}))
    assert [row.model for row in budget.breakdown()] == ["gpt-4.1-nano"]


@pytest.mark.parametrize("kind", MODES)
async def test_azure_is_charged_for_the_model_behind_the_deployment(kind: str) -> None:
    async with LoopbackProvider(azure_deployments={"my-deployment": "gpt-4o-mini"}) as provider:
        client: Any = provider.azure() if kind == "sync" else provider.async_azure()
        with spending() as budget:
            await done(client.chat.completions.create(**{**ASK, "model": "my-deployment"}))
            await items(await done(client.chat.completions.create(**{**ASK, "model": "my-deployment"}, stream=True)))
        assert_charged_as_billed(budget, provider)
        assert {(row.provider, row.model) for row in budget.breakdown()} == {("azure", "gpt-4o-mini")}
        assert budget.usd_used > 0


async def test_web_searches_are_charged_by_the_piece(provider: LoopbackProvider, client: Any) -> None:
    provider.script(
        Answer(text="Hi", model="gpt-5", input_tokens=100, output_tokens=10, web_searches=3),
        Answer(text="Hi", model="gpt-5", input_tokens=100, output_tokens=10),
    )
    with spending() as with_searches:
        await done(client.responses.create(**{**ASK_RESPONSES, "model": "gpt-5"}))
    with spending() as without:
        await done(client.responses.create(**{**ASK_RESPONSES, "model": "gpt-5"}))

    assert with_searches.usd_used_exact - without.usd_used_exact == Decimal("0.03")


async def test_speech_is_charged_by_input_character(provider: LoopbackProvider, client: Any) -> None:
    with spending() as budget:
        speech = await done(client.audio.speech.create(model="tts-1", voice="alloy", input="Hello " * 100))
    assert speech.content
    assert budget.usd_used_exact == Decimal("0.009")
    assert budget.estimated_usd == 0


async def test_streamed_speech_is_charged_by_input_character_and_not_buffered(
    provider: LoopbackProvider, client: Any
) -> None:
    provider.script(Answer(data=b"\1" * 200_000))
    with spending() as budget:
        spoken = client.audio.speech.with_streaming_response.create(model="tts-1", voice="alloy", input="Hello " * 100)
        async with within(spoken) as response:
            assert not hasattr(response.http_response, "_content")
            sound = b"".join(await items(response.iter_bytes()))
    assert len(sound) == 200_000
    assert budget.usd_used_exact == Decimal("0.009")


async def test_a_transcription_as_plain_text_is_estimated(provider: LoopbackProvider, client: Any) -> None:
    with spending() as budget:
        text = await done(client.audio.transcriptions.create(model="whisper-1", file=AUDIO, response_format="text"))
    assert isinstance(text, str)
    [row] = budget.breakdown()
    assert row.estimated
    assert row.usd > 0


async def test_an_answer_without_usage_is_estimated_from_its_text(provider: LoopbackProvider, client: Any) -> None:
    provider.script(Answer(text="word " * 400, usage=False))
    with spending() as budget:
        await chat(client)
    [row] = budget.breakdown()
    assert row.estimated
    assert row.input_tokens > 0
    assert 400 <= row.output_tokens <= 700


# --- paid answers are never lost --------------------------------------------------------------------------------------


async def test_the_call_that_crosses_raises_with_its_answer(provider: LoopbackProvider, client: Any) -> None:
    provider.script(Answer(text="Forty-two", output_tokens=100))
    with spending(token_limit=50) as budget, pytest.raises(BudgetExceededError) as crossing:
        await chat(client)

    answer = crossing.value.response
    assert isinstance(answer, openai.types.chat.ChatCompletion)
    assert answer.choices[0].message.content == "Forty-two"
    assert_charged_as_billed(budget, provider)


async def test_a_crossing_raw_response_is_on_the_error(provider: LoopbackProvider, client: Any) -> None:
    provider.script(Answer(text="Forty-two", output_tokens=100))
    with spending(token_limit=50), pytest.raises(BudgetExceededError) as crossing:
        await chat_raw(client)
    assert crossing.value.response.parse().choices[0].message.content == "Forty-two"


async def test_a_crossing_unread_response_can_still_be_read(provider: LoopbackProvider, client: Any) -> None:
    provider.script(Answer(text="Forty-two", output_tokens=100))
    with spending(token_limit=50) as budget, pytest.raises(BudgetExceededError) as crossing:
        await chat_unread(client)

    assert crossing.value.partial is None  # a stream has parts; this is one answer
    assert "in .response" in str(crossing.value)
    answer = await done(crossing.value.response.parse())
    assert answer.choices[0].message.content == "Forty-two"
    assert_charged_as_billed(budget, provider)


async def test_a_crossing_parsed_answer_is_parsed(provider: LoopbackProvider, client: Any) -> None:
    provider.script(CITY)
    with spending(token_limit=50), pytest.raises(BudgetExceededError) as crossing:
        await chat_parse(client)
    assert crossing.value.response.choices[0].message.parsed == City(name="Oslo")


async def test_an_answer_that_the_parse_helper_rejects_is_charged(provider: LoopbackProvider, client: Any) -> None:
    provider.script(Answer(text='{"name": ', finish="length"))
    with spending() as budget, pytest.raises(openai.LengthFinishReasonError):
        await chat_parse(client)
    assert_charged_as_billed(budget, provider)


async def test_an_answer_that_does_not_fit_the_users_model_is_charged(provider: LoopbackProvider, client: Any) -> None:
    provider.script(Answer(text="not what was asked for"))
    with spending() as budget, pytest.raises(pydantic.ValidationError):
        await chat_parse(client)
    assert_charged_as_billed(budget, provider)


async def test_on_crossing_return_hands_the_answer_back_and_refuses_the_next_call(
    provider: LoopbackProvider, client: Any
) -> None:
    with spending(token_limit=1, on_crossing="return") as budget:
        await chat(client)
        with pytest.raises(BudgetExceededError):
            await chat(client)
    assert_charged_as_billed(budget, provider)
