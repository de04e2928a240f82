"""What Google offers beside generating text: counted where it can be, else told of by name or refused."""

from __future__ import annotations

import json
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest
from canned import Canned, serving
from either import MODES, done, items
from google.genai import types
from google_clients import QUIET, google_at, offered
from spending import spending, spent

from actguard.client import Client
from actguard.exceptions import ActGuardMonitoringWarning, BudgetExceededError, GuardError
from actguard.money.own_prices import Price

pytestmark = [
    pytest.mark.filterwarnings(QUIET),
    pytest.mark.filterwarnings("ignore:.*is (experimental|deprecated)"),
]
Use = Callable[[Any], Awaitable[None]]
USAGE = {"promptTokenCount": 1000, "candidatesTokenCount": 50, "totalTokenCount": 1050}
TEXT = {"role": "model", "parts": [{"text": "Hi"}]}
VERTEX = "/v1beta1/projects/p/locations/us-central1"
JOBS = VERTEX.removeprefix("/v1beta1/")
IMAGE = "iVBORw0KGgo="


def grounded(model: str, queries: list[str]) -> dict[str, Any]:
    about = {"webSearchQueries": queries, "searchEntryPoint": {"renderedContent": "x"}}
    candidate = {"content": TEXT, "finishReason": "STOP", "groundingMetadata": about}
    return {"candidates": [candidate], "usageMetadata": USAGE, "modelVersion": model}


def answer(value: object) -> Canned:
    return Canned("application/json", json.dumps(value).encode())


def events(*values: object) -> Canned:
    return Canned("text/event-stream", "".join(f"data: {json.dumps(value)}\r\n\r\n" for value in values).encode())


OLD, NEW = "gemini-2.5-flash", "gemini-3.1-pro-preview"
PREDICTED = answer({"predictions": [{"bytesBase64Encoded": IMAGE, "mimeType": "image/png"}]})
ANSWERS = {
    ("POST", f"/v1beta/models/{OLD}:generateContent"): answer(grounded(OLD, ["a", "b"])),
    ("POST", f"/v1beta/models/{NEW}:generateContent"): answer(grounded(NEW, ["a", "b"])),
    ("POST", f"/v1beta/models/{NEW}:streamGenerateContent"): events(
        {"candidates": [{"content": TEXT}], "usageMetadata": USAGE, "modelVersion": NEW}, grounded(NEW, ["a", "b"])
    ),
    ("POST", f"/v1beta/models/{NEW}:countTokens"): answer({"totalTokens": 3}),
    ("POST", "/v1beta/cachedContents"): answer(
        {"name": "cachedContents/c", "usageMetadata": {"totalTokenCount": 5000}}
    ),
    ("POST", "/v1beta/auth_tokens"): answer({"name": "auth_tokens/t"}),
    ("POST", "/v1beta/fileSearchStores"): answer({"name": "fileSearchStores/s"}),
    ("POST", "/v1beta/fileSearchStores/s:importFile"): answer({"name": "fileSearchStores/s/operations/o"}),
    ("GET", "/v1beta/cachedContents"): answer({"cachedContents": []}),
    ("POST", f"{VERTEX}/tuningJobs"): answer(
        {"name": "projects/p/locations/us-central1/tuningJobs/1", "state": "JOB_STATE_PENDING"}
    ),
    ("POST", f"{VERTEX}/batchPredictionJobs"): answer(
        {"name": "projects/p/locations/us-central1/batchPredictionJobs/1", "state": "JOB_STATE_PENDING"}
    ),
    ("POST", f"{VERTEX}/publishers/google/models/imagen-4.0-generate-001:predict"): PREDICTED,
    ("POST", f"{VERTEX}/publishers/google/models/imagen-3.0-capability-001:predict"): PREDICTED,
    ("POST", f"{VERTEX}/publishers/google/models/imagen-4.0-upscale-preview:predict"): PREDICTED,
    ("POST", f"{VERTEX}/publishers/google/models/veo-3.0-generate-001:predictLongRunning"): answer(
        {"name": "projects/p/locations/us-central1/publishers/google/models/veo-3.0-generate-001/operations/1"}
    ),
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(ANSWERS) as base_url:
        yield base_url


@pytest.fixture(params=MODES)
async def client(request: pytest.FixtureRequest, url: str) -> AsyncIterator[Any]:
    async with google_at(url, request.param) as client:
        yield client


@pytest.fixture(params=MODES)
async def vertex(request: pytest.FixtureRequest, url: str) -> AsyncIterator[Any]:
    async with google_at(url, request.param, vertex=True) as client:
        yield client


@pytest.fixture(params=MODES)
async def either(request: pytest.FixtureRequest, url: str) -> AsyncIterator[Callable[[Use], Any]]:
    """The client for what a test is about."""
    async with google_at(url, request.param) as client, google_at(url, request.param, vertex=True) as vertex:
        yield lambda use: vertex if use in (tuning, batching) else client


@contextmanager
def refusing_what_has_no_price() -> Iterator[None]:
    with Client(on_unpriced="raise") as guard, guard.run(), guard.budget_guard(usd_limit=1):
        yield


SEARCH: Any = {"tools": [{"google_search": {}}]}


# --- grounding --------------------------------------------------------------------------------------------------------


async def test_grounding_is_billed_by_prompt_or_by_search_as_the_model_says(client: Any) -> None:
    with spending() as budget:
        await done(client.models.generate_content(model=OLD, contents="Hi", config=SEARCH))
        by_prompt = budget.usd_used_exact
        await done(client.models.generate_content(model=NEW, contents="Hi", config=SEARCH))
        by_search = budget.usd_used_exact - by_prompt
    assert by_prompt == (1000 * Decimal("0.3") + 50 * Decimal("2.5")) / 1_000_000 + Decimal("0.035")
    assert by_search == (1000 * Decimal(2) + 50 * Decimal(12)) / 1_000_000 + 2 * Decimal("0.014")


async def test_grounding_of_a_stream_is_billed_once(client: Any) -> None:
    with spending() as budget:
        await items(await done(client.models.generate_content_stream(model=NEW, contents="Hi", config=SEARCH)))
        assert budget.usd_used_exact == (1000 * Decimal(2) + 50 * Decimal(12)) / 1_000_000 + 2 * Decimal("0.014")
        assert budget.estimated_usd == 0


@pytest.mark.skipif("google_maps" not in types.Tool.model_fields, reason="this SDK has no grounding with Google Maps")
async def test_grounding_without_a_known_fee_is_told_of_by_name(client: Any) -> None:
    maps: Any = {"tools": [{"google_maps": {}}]}
    with spending() as budget:
        with pytest.warns(ActGuardMonitoringWarning, match="grounding with Google Maps"):
            await done(client.models.generate_content(model=NEW, contents="Hi", config=maps))
        assert budget.calls == 1


# --- what cannot be counted -------------------------------------------------------------------------------------------


async def caching(client: Any) -> None:
    await done(client.caches.create(model=NEW, config={"contents": "long" * 1000}))


async def importing(client: Any) -> None:
    import_file = offered(client, "file_search_stores.import_file")
    await done(import_file(file_search_store_name="fileSearchStores/s", file_name="files/f"))


async def tuning(vertex: Any) -> None:
    data = types.TuningDataset(gcs_uri="gs://b/d.jsonl")
    await done(vertex.tunings.tune(base_model="gemini-2.5-flash", training_dataset=data))


async def batching(vertex: Any) -> None:
    await done(vertex.batches.create(model="gemini-2.5-flash", src="gs://b/r.jsonl", config={"dest": "gs://b/out"}))


async def holding_elsewhere(client: Any) -> None:
    await done(offered(client, "auth_tokens.create")(config={"uses": 1}))


UNCOUNTED = [
    (holding_elsewhere, "live sessions held elsewhere"),
    (caching, "storage of cached contents"),
    (importing, "files in file search stores"),
    (tuning, "tuning jobs"),
    (batching, "batches on Vertex AI"),
]
EACH = pytest.mark.parametrize(("use", "name"), UNCOUNTED, ids=[name for _, name in UNCOUNTED])


@EACH
async def test_what_cannot_be_counted_is_told_of_once_by_name(either: Any, use: Use, name: str) -> None:
    client = either(use)
    with spending() as budget:
        with pytest.warns(ActGuardMonitoringWarning, match=name):
            await use(client)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            await use(client)
        assert (budget.calls, budget.account.held.tokens) == (0, 0)


@EACH
async def test_what_cannot_be_counted_is_refused_where_limits_must_hold(either: Any, use: Use, name: str) -> None:
    client = either(use)
    with spending(usd_limit=1, enforcement="hard"), pytest.raises(GuardError, match=name):
        await use(client)
    with refusing_what_has_no_price(), pytest.raises(GuardError, match=name):
        await use(client)


@EACH
async def test_outside_a_scope_nothing_is_said(either: Any, use: Use, name: str) -> None:
    with spending():
        pass
    await use(either(use))


async def test_over_budget_what_is_free_still_works(client: Any) -> None:
    with spending(token_limit=1050) as budget:
        with pytest.raises(BudgetExceededError):
            await done(client.models.generate_content(model=NEW, contents="Hi"))
        assert (await done(client.models.count_tokens(model=NEW, contents="Hi"))).total_tokens == 3
        if hasattr(client, "file_search_stores"):
            await done(client.file_search_stores.create())
        await done(client.caches.list())
        with pytest.raises(BudgetExceededError):
            await caching(client)
        assert budget.calls == 1


# --- pictures and videos ----------------------------------------------------------------------------------------------


def picture() -> types.Image:
    return types.Image(image_bytes=b"\x89PNG", mime_type="image/png")


async def generate_images(vertex: Any) -> None:
    assert (await done(vertex.models.generate_images(model="imagen-4.0-generate-001", prompt="A cat"))).generated_images


async def edit_image(vertex: Any) -> None:
    reference = types.RawReferenceImage(reference_id=1, reference_image=picture())
    await done(
        vertex.models.edit_image(model="imagen-3.0-capability-001", prompt="A cat", reference_images=[reference])
    )


async def upscale_image(vertex: Any) -> None:
    await done(vertex.models.upscale_image(model="imagen-4.0-upscale-preview", image=picture(), upscale_factor="x2"))


async def generate_videos(vertex: Any) -> None:
    generate = offered(vertex, "models.generate_videos")
    assert (await done(generate(model="veo-3.0-generate-001", source={"prompt": "A cat"}))).name


PREDICTIONS = pytest.mark.parametrize("use", [generate_images, edit_image, upscale_image, generate_videos])


@PREDICTIONS
async def test_pictures_and_videos_without_a_price_are_told_of_by_model(vertex: Any, use: Use) -> None:
    with spending() as budget:
        with pytest.warns(ActGuardMonitoringWarning, match=r"imagen|veo"):
            await use(vertex)
        assert (budget.usd_used, budget.account.held.tokens) == (0, 0)


@PREDICTIONS
async def test_pictures_and_videos_without_a_price_are_refused_where_limits_must_hold(vertex: Any, use: Use) -> None:
    with spending(usd_limit=1, enforcement="hard"), pytest.raises(GuardError, match=r"imagen|veo"):
        await use(vertex)
    with refusing_what_has_no_price(), pytest.raises(GuardError, match=r"imagen|veo"):
        await use(vertex)


@PREDICTIONS
async def test_pictures_and_videos_with_a_price_of_ones_own_are_charged_by_the_call(vertex: Any, use: Use) -> None:
    prices = {"*": Price(input_per_mtok=0, output_per_mtok=0, per_request="0.04")}
    with Client(prices=prices) as guard, guard.run(), guard.budget_guard(usd_limit=1) as budget:
        await use(vertex)
        assert (budget.usd_used_exact, budget.calls) == (Decimal("0.04"), 1)


@pytest.mark.parametrize("mode", MODES)
async def test_a_cached_prompt_costs_what_reading_the_cache_costs(mode: str) -> None:
    cached = {**USAGE, "cachedContentTokenCount": 800}
    response = {"candidates": [{"content": TEXT, "finishReason": "STOP"}], "usageMetadata": cached, "modelVersion": OLD}
    with serving({("POST", f"/v1beta/models/{OLD}:generateContent"): answer(response)}) as other, spending() as budget:
        async with google_at(other, mode) as client:
            config: Any = {"cached_content": "cachedContents/c"}
            await done(client.models.generate_content(model=OLD, contents="Hi", config=config))
            assert spent(budget) == (1, 1000, 800, 0, 50)
            expected = 200 * Decimal("0.3") + 800 * Decimal("0.03") + 50 * Decimal("2.5")
            assert budget.usd_used_exact == expected / 1_000_000
