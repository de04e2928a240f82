"""OpenAI's batches: held from their input file, charged with the batch discount when their results are known, once."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import pytest
import trio
from canned import Canned, serving
from either import MODES, done, within
from genai_prices import Usage as PricedUsage
from genai_prices import calc_price
from spending import spending, spent

from actguard.client import Client
from actguard.events import LlmUsage
from actguard.exceptions import ActGuardMonitoringWarning, BudgetExceededError, GuardError
from actguard.integrations import openai_batches
from actguard.monitoring import Reports
from actguard.testing import capture_events

MODEL = "gpt-4o-mini"
TIERED = "gpt-5.4"
"""Its price rises for calls with more than 272,000 input tokens."""
BATCH: dict[str, Any] = {
    "id": "batch_1",
    "object": "batch",
    "endpoint": "/v1/chat/completions",
    "input_file_id": "file-in",
    "completion_window": "24h",
    "created_at": 0,
    "status": "validating",
}
COMPLETED = {**BATCH, "status": "completed", "output_file_id": "file-out"}
USAGE = {"prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 1050}
WHOLE = {
    "input_tokens": 2000,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 100,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 2100,
}
HELD_OF_ONE = 100
"""Output tokens; the input comes on top."""


def price(model: str = MODEL, **usage: int) -> Decimal:
    """With the batch discount, by genai-prices itself."""
    counts = PricedUsage(**(usage or {"input_tokens": 1000, "output_tokens": 50}))
    return calc_price(counts, model, provider_id="openai", price_context={"processing": "batch"}).total_price


def input_file(*names: str, **changes: Any) -> bytes:
    body = {"model": MODEL, "max_tokens": HELD_OF_ONE, "messages": [{"role": "user", "content": "Hi" * 20}], **changes}
    lines = [{"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body} for name in names]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def output_file(*names: str, model: str = MODEL, usage: Any = None) -> bytes:
    body = {"object": "chat.completion", "model": model, "usage": usage or USAGE, "service_tier": "default"}
    lines = [
        {"id": f"batch_req_{name}", "custom_id": name, "response": {"status_code": 200, "body": body}, "error": None}
        for name in names
    ]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def answer(value: object) -> Canned:
    return Canned("application/json", json.dumps(value).encode())


Answers = dict[tuple[str, str], Canned]


@pytest.fixture
def answers() -> Answers:
    """What the server answers; tests change it as time goes on."""
    return {
        ("POST", "/v1/files"): answer({"id": "file-in", "object": "file", "purpose": "batch"}),
        ("POST", "/v1/batches"): answer(BATCH),
        ("GET", "/v1/batches"): answer({"object": "list", "data": [COMPLETED], "has_more": False}),
        ("GET", "/v1/batches/batch_1"): answer(COMPLETED),
        ("POST", "/v1/batches/batch_1/cancel"): answer({**BATCH, "status": "cancelling"}),
        ("GET", "/v1/files/file-out/content"): Canned("application/octet-stream", output_file("a", "b")),
        ("GET", "/v1/files/file-other/content"): Canned("application/octet-stream", b'{"just": "a file"}\n'),
    }


@pytest.fixture(params=MODES)
def client(request: pytest.FixtureRequest, answers: Answers) -> Iterator[Any]:
    kind: Any = openai.OpenAI if request.param == "sync" else openai.AsyncOpenAI
    with serving(answers) as url:
        yield kind(api_key="k", base_url=f"{url}/v1", max_retries=0)


async def submitted(client: Any, content: Any = None) -> Any:
    content = input_file("a", "b", "c") if content is None else content
    file = await done(client.files.create(file=("in.jsonl", content), purpose="batch"))
    return await done(
        client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    )


async def read_results(client: Any) -> bytes:
    ended = await done(client.batches.retrieve("batch_1"))
    content = await done(client.files.content(ended.output_file_id))
    return bytes(content.content)


async def test_each_line_of_the_output_is_charged_once_at_the_batch_price(client: Any) -> None:
    with (
        Client() as guard,
        guard.run(),
        guard.budget_guard(usd_limit=9) as budget,
        capture_events(guard, LlmUsage) as events,
    ):
        await submitted(client)
        assert budget.calls == 0
        for _ in range(2):
            assert await read_results(client) == output_file("a", "b")
        assert spent(budget) == (2, 2000, 0, 0, 100)
        assert budget.usd_used_exact == 2 * price() > 0
        assert budget.account.held.tokens == 0  # the third was not answered
        charges = [(event.usd, event.estimated, event.api, event.model) for event in events]
    assert charges == [(price(), False, "batches", MODEL)] * 2
    assert (budget.estimated_usd, budget.calls) == (0, 2)


@pytest.mark.parametrize("form", ["bytes", "stream", "path"])
async def test_what_a_batch_may_cost_is_held_from_its_input_file(client: Any, tmp_path: Path, form: str) -> None:
    content: Any = input_file("a", "b", "c")
    if form == "path":
        (tmp_path / "in.jsonl").write_bytes(content)
        content = tmp_path / "in.jsonl"
    with spending() as budget:
        file: Any = io.BytesIO(content) if form == "stream" else content if form == "path" else ("in.jsonl", content)
        await done(client.files.create(file=file, purpose="batch"))
        await done(client.batches.create(input_file_id="file-in", endpoint="/v1/x", completion_window="24h"))
        tokens, usd = budget.account.held.tokens, budget.account.held.usd
        assert tokens > 3 * HELD_OF_ONE
        assert usd == 3 * price(input_tokens=tokens // 3 - HELD_OF_ONE, output_tokens=HELD_OF_ONE)
    assert budget.calls == 3
    assert Decimal(str(budget.estimated_usd)) == usd


async def test_a_second_batch_is_refused_while_the_first_holds_the_budget(client: Any) -> None:
    with spending(token_limit=3 * HELD_OF_ONE) as budget:
        await submitted(client)
        with pytest.raises(BudgetExceededError):
            await submitted(client)
    assert budget.calls == 3


async def test_a_batch_that_reports_its_usage_is_charged_with_that_and_its_lines_are_not(
    client: Any, answers: Answers
) -> None:
    answers["GET", "/v1/batches/batch_1"] = answer({**COMPLETED, "model": MODEL, "usage": WHOLE})
    with spending() as budget:
        await submitted(client)
        for _ in range(2):
            await read_results(client)
        assert spent(budget) == (1, 2000, 0, 0, 100)
        assert budget.usd_used_exact == 2 * price()
        assert budget.account.held.tokens == 0


async def test_a_batch_of_somebody_else_is_charged_to_who_sees_its_usage(client: Any, answers: Answers) -> None:
    answers["GET", "/v1/batches/batch_1"] = answer({**COMPLETED, "model": MODEL, "usage": WHOLE})
    with spending() as budget:
        await read_results(client)
        await read_results(client)
    assert spent(budget) == (1, 2000, 0, 0, 100)


async def test_results_of_somebody_else_are_charged_to_who_reads_them(client: Any) -> None:
    with spending() as budget:
        await done(client.files.content("file-out"))
        await done(client.files.content("file-out"))
    assert spent(budget) == (2, 2000, 0, 0, 100)
    assert budget.usd_used_exact == 2 * price()


async def test_many_small_calls_are_not_priced_as_one_large_one(client: Any, answers: Answers) -> None:
    usage = {"prompt_tokens": 200_000, "completion_tokens": 50, "total_tokens": 200_050}
    whole = {**WHOLE, "input_tokens": 400_000, "total_tokens": 400_100}
    answers["GET", "/v1/batches/batch_1"] = answer({**COMPLETED, "model": TIERED, "usage": whole})
    content = output_file("a", "b", model=TIERED, usage=usage)
    answers["GET", "/v1/files/file-out/content"] = Canned("application/octet-stream", content)
    with spending() as budget:
        await submitted(client, input_file("a", "b", model=TIERED))
        await read_results(client)
    assert budget.usd_used_exact == 2 * price(TIERED, input_tokens=200_000, output_tokens=50)


@pytest.mark.parametrize("status", ["failed", "cancelled", "expired"])
async def test_a_batch_that_came_to_nothing_gives_everything_back(client: Any, answers: Answers, status: str) -> None:
    answers["GET", "/v1/batches/batch_1"] = answer({**BATCH, "status": status})
    with spending() as budget:
        await submitted(client)
        await done(client.batches.cancel("batch_1"))
        assert budget.account.held.tokens > 0  # not ended yet
        await done(client.batches.retrieve("batch_1"))
        assert budget.account.held.tokens == 0
    assert (budget.calls, budget.usd_used) == (0, 0)


async def test_what_an_expired_batch_has_answered_is_charged(client: Any, answers: Answers) -> None:
    answers["GET", "/v1/batches/batch_1"] = answer({**COMPLETED, "status": "expired"})
    with spending() as budget:
        await submitted(client)
        await read_results(client)
    assert spent(budget) == (2, 2000, 0, 0, 100)
    assert budget.estimated_usd == 0


async def test_a_list_of_batches_names_their_output_files(client: Any) -> None:
    with spending() as budget:
        await submitted(client)
        await done(client.batches.list())
        await done(client.files.content("file-out"))
    assert (spent(budget).calls, budget.estimated_usd) == (2, 0)


async def test_a_list_charges_no_batches_but_those_of_this_client(client: Any, answers: Answers) -> None:
    theirs = {**COMPLETED, "id": "batch_of_somebody", "model": MODEL, "usage": WHOLE}
    ours = {**COMPLETED, "model": MODEL, "usage": WHOLE}
    answers["GET", "/v1/batches"] = answer({"object": "list", "data": [theirs, ours], "has_more": False})
    with spending() as budget:
        await done(client.batches.list())
        assert budget.calls == 0
        await submitted(client)
        await done(client.batches.list())
    assert spent(budget) == (1, 2000, 0, 0, 100)


async def test_results_too_long_to_be_kept_are_told_of(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actguard.integrations.bodies.KEPT_BYTES", 100)
    monkeypatch.setattr("actguard.integrations.degraded.reports", Reports())
    with spending() as budget:
        async with within(client.files.with_streaming_response.content("file-out")) as response:
            with pytest.warns(ActGuardMonitoringWarning, match="results of a batch"):
                await done(response.read())
    assert budget.calls == 0


async def test_the_requests_of_many_files_are_not_remembered_without_end(
    client: Any, monkeypatch: pytest.MonkeyPatch, answers: Answers
) -> None:
    monkeypatch.setattr(openai_batches, "REMEMBERED", 5)
    monkeypatch.setattr(openai_batches, "_inputs", openai_batches._Files())
    with spending():
        for number in range(4):
            answers["POST", "/v1/files"] = answer({"id": f"file-{number}", "object": "file", "purpose": "batch"})
            await done(client.files.create(file=("in.jsonl", input_file("a", "b")), purpose="batch"))
    assert [key[1] for key in openai_batches._inputs._known] == ["file-2", "file-3"]


async def test_results_that_are_streamed_are_charged_at_their_end(client: Any) -> None:
    with spending() as budget:
        async with within(client.files.with_streaming_response.content("file-out")) as response:
            assert budget.calls == 0
            assert await done(response.read()) == output_file("a", "b")
        assert spent(budget) == (2, 2000, 0, 0, 100)


async def test_raw_responses_are_read_too(client: Any) -> None:
    with spending() as budget:
        file = await done(client.files.with_raw_response.create(file=("a", input_file("a", "b", "c")), purpose="batch"))
        raw = await done(
            client.batches.with_raw_response.create(
                input_file_id=file.parse().id, endpoint="/v1/chat/completions", completion_window="24h"
            )
        )
        assert raw.parse().id == "batch_1"
        assert budget.account.held.tokens > 3 * HELD_OF_ONE
        await done(client.batches.with_raw_response.retrieve("batch_1"))
        await done(client.files.with_raw_response.content("file-out"))
        assert spent(budget) == (2, 2000, 0, 0, 100)


async def test_other_files_cost_nothing_and_work_over_budget(client: Any) -> None:
    with spending(token_limit=1000) as budget:
        with pytest.raises(BudgetExceededError) as crossing:
            await done(client.files.content("file-out"))
        assert crossing.value.response.content == output_file("a", "b")
        await done(client.files.content("file-other"))
        await done(client.files.create(file=("in.jsonl", input_file("a")), purpose="batch"))
        with pytest.raises(BudgetExceededError):
            await done(client.batches.create(input_file_id="file-in", endpoint="/v1/x", completion_window="24h"))
    assert budget.calls == 2


async def test_a_hard_scope_holds_the_most_that_a_batch_can_cost(client: Any) -> None:
    with spending(usd_limit="0.001", enforcement="hard") as budget:
        await submitted(client)
        assert budget.usd_used == 0
        with pytest.raises(BudgetExceededError):
            await submitted(client, input_file(*map(str, range(20))))
        await read_results(client)
    assert budget.usd_used_exact == 2 * price()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (input_file("a", max_tokens=None), "names no output limit"),
        (input_file("a", web_search_options={}), "searches the web"),
    ],
)
async def test_a_hard_scope_refuses_a_batch_that_has_no_bound(client: Any, content: bytes, reason: str) -> None:
    with (
        spending(usd_limit=1, enforcement="hard"),
        pytest.raises(GuardError, match=reason) as refusal,
    ):
        await submitted(client, content)
    assert refusal.value.code == "UNBOUNDED_CALL"


async def test_a_hard_scope_refuses_a_batch_of_several_models(client: Any) -> None:
    content = input_file("a") + input_file("b", model="gpt-4o")
    with spending(usd_limit=1, enforcement="hard"), pytest.raises(GuardError, match="different models"):
        await submitted(client, content)


async def test_a_hard_scope_refuses_a_batch_whose_file_it_has_not_seen(client: Any) -> None:
    with (
        spending(token_limit=1_000, enforcement="hard"),
        pytest.raises(GuardError, match="was not uploaded in this budget scope"),
    ):
        await done(client.batches.create(input_file_id="file-unseen", endpoint="/v1/x", completion_window="24h"))


async def test_a_batch_that_was_refused_by_the_provider_costs_nothing(client: Any, answers: Answers) -> None:
    answers["POST", "/v1/batches"] = Canned("application/json", b'{"error": {"message": "no"}}', 400)
    with spending() as budget:
        with pytest.raises(openai.BadRequestError):
            await submitted(client)
        assert budget.account.held.tokens == 0
    assert budget.usd_used == 0


async def test_a_batch_is_charged_to_the_scope_that_submitted_it_while_its_root_is_open(client: Any) -> None:
    with Client() as guard, guard.run(), guard.budget_guard(usd_limit=9) as root:
        with guard.budget_guard(usd_limit=9, name="submits") as submits:
            await submitted(client)
        assert submits.calls == 3  # estimated, for now
        with guard.budget_guard(usd_limit=9, name="reads") as reads:
            await read_results(client)
        assert (submits.calls, reads.calls, root.calls) == (2, 0, 2)
        assert (submits.estimated_usd, root.tokens_used) == (0, 2100)


@pytest.mark.parametrize("reports_usage", [True, False])
async def test_a_batch_whose_root_is_closed_is_charged_where_it_is_read(
    client: Any, answers: Answers, reports_usage: bool
) -> None:
    if reports_usage:
        answers["GET", "/v1/batches/batch_1"] = answer({**COMPLETED, "model": MODEL, "usage": WHOLE})
    with Client() as guard:
        with guard.run(), guard.budget_guard(usd_limit=9) as first:
            await submitted(client)
        assert first.estimated_usd > 0
        with guard.run(), guard.budget_guard(usd_limit=9) as second:
            await read_results(client)
        assert second.usd_used_exact == 2 * price()
        assert (first.usd_used, second.estimated_usd) == (0, 0)


def test_batches_on_trio(answers: Answers) -> None:
    async def main(url: str) -> None:
        async with openai.AsyncOpenAI(api_key="k", base_url=f"{url}/v1", max_retries=0) as client:
            async with Client() as guard, guard.run(), guard.budget_guard(usd_limit=9) as budget:
                await submitted(client)
                await read_results(client)
            assert (spent(budget), budget.estimated_usd) == ((2, 2000, 0, 0, 100), 0)

    with serving(answers) as url:
        trio.run(main, url)
