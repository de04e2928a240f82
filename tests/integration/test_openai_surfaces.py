"""What of the OpenAI API cannot be counted: refused where that matters, else told once by name. Free is free."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from canned import Canned, serving
from either import MODES, done
from spending import spending

from actguard.client import Client
from actguard.exceptions import ActGuardMonitoringWarning, BudgetExceededError, GuardError
from actguard.integrations.openai_surfaces import uncounted_surface

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # assistants and videos are going away
UNCOUNTED: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "fine-tuning jobs": (
        "/fine_tuning/jobs",
        lambda client: client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file="file-1"),
    ),
    "graders": (
        "/fine_tuning/alpha/graders/run",
        lambda client: client.fine_tuning.alpha.graders.run(grader={}, model_sample="x"),
    ),
    "videos": ("/videos", lambda client: client.videos.create(prompt="A cat", model="sora-2")),
    "containers": ("/containers", lambda client: client.containers.create(name="c")),
    "files in vector stores": (
        "/vector_stores/vs_1/files",
        lambda client: client.vector_stores.files.create("vs_1", file_id="file-1"),
    ),
    "vector store searches": (
        "/vector_stores/vs_1/search",
        lambda client: client.vector_stores.search("vs_1", query="cats"),
    ),
    "eval runs": (
        "/evals/eval_1/runs",
        lambda client: client.evals.runs.create("eval_1", data_source={"type": "jsonl", "source": {}}),
    ),
    "ChatKit sessions": (
        "/chatkit/sessions",
        lambda client: client.beta.chatkit.sessions.create(user="u", workflow={"id": "w"}),
    ),
    "realtime sessions held elsewhere": (
        "/realtime/client_secrets",
        lambda client: client.realtime.client_secrets.create(),
    ),
    "live sessions held elsewhere": ("/live/sessions", lambda client: client.post("/live/sessions", cast_to=object)),
    "managed agents": ("/agents/sessions", lambda client: client.post("/agents/sessions", cast_to=object)),
}
"""By what they are called: the path, and a call of the SDK that reaches it."""
FREE: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("POST", "/vector_stores"): lambda client: client.vector_stores.create(name="empty"),
    ("POST", "/threads"): lambda client: client.beta.threads.create(),
    ("POST", "/assistants"): lambda client: client.beta.assistants.create(model="gpt-4o"),
    ("POST", "/conversations"): lambda client: client.conversations.create(),
    ("POST", "/evals"): lambda client: client.evals.create(data_source_config={}, testing_criteria=[]),
    ("POST", "/moderations"): lambda client: client.moderations.create(input="Hi"),
    ("POST", "/uploads"): lambda client: client.uploads.create(
        bytes=1, filename="f", mime_type="text/plain", purpose="batch"
    ),
    ("POST", "/fine_tuning/jobs/ftjob-1/cancel"): lambda client: client.fine_tuning.jobs.cancel("ftjob-1"),
    ("GET", "/fine_tuning/jobs/ftjob-1"): lambda client: client.fine_tuning.jobs.retrieve("ftjob-1"),
    ("GET", "/videos/video_1"): lambda client: client.videos.retrieve("video_1"),
    ("GET", "/models"): lambda client: client.models.list(),
}
CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 0,
    "model": "gpt-4o-mini",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi"}}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
}


def answer(value: str) -> Canned:
    return Canned("application/json", value.encode())


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    answers = {("POST", f"/v1{path}"): answer('{"id": "x"}') for path, _ in UNCOUNTED.values()}
    answers |= {(method, f"/v1{path}"): answer('{"id": "x", "data": []}') for method, path in FREE}
    answers["POST", "/v1/chat/completions"] = answer(json.dumps(CHAT))
    with serving(answers) as base_url:
        yield f"{base_url}/v1"


@pytest.fixture(params=MODES)
def client(request: pytest.FixtureRequest, url: str) -> Any:
    kind: Any = openai.OpenAI if request.param == "sync" else openai.AsyncOpenAI
    return kind(api_key="k", base_url=url, max_retries=0)


async def called(call: Callable[[Any], Any], client: Any) -> Any:
    """The call's answer; skipped where this SDK does not have it."""
    try:
        return await done(call(client))
    except (AttributeError, TypeError) as missing:
        pytest.skip(f"this SDK does not have it: {missing}")


@pytest.mark.parametrize("what", UNCOUNTED)
async def test_what_cannot_be_counted_is_told_once_by_name(client: Any, what: str) -> None:
    call = UNCOUNTED[what][1]
    with spending() as budget:
        with pytest.warns(ActGuardMonitoringWarning, match=what) as told:
            assert await called(call, client)
        assert [each.category for each in told if each.category is not DeprecationWarning] == [
            ActGuardMonitoringWarning
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("error", ActGuardMonitoringWarning)
            await done(call(client))
    assert (budget.calls, budget.account.held.tokens) == (0, 0)


@pytest.mark.parametrize("what", UNCOUNTED)
@pytest.mark.parametrize("setting", ["hard", "raise"])
async def test_what_cannot_be_counted_is_refused_where_that_matters(client: Any, what: str, setting: str) -> None:
    limits: Any = {"token_limit": 1_000, "enforcement": "hard" if setting == "hard" else "soft"}
    with (
        Client(on_unpriced="raise" if setting == "raise" else "warn") as guard,
        guard.run(),
        guard.budget_guard(**limits),
        pytest.raises(GuardError, match=what) as refusal,
    ):
        await called(UNCOUNTED[what][1], client)
    assert refusal.value.code == "UNPRICED_CALL"
    assert refusal.value.details == {"provider": "openai", "what": what}


async def test_a_hard_scope_that_allows_unbounded_calls_warns(client: Any) -> None:
    with (
        spending(usd_limit=1, enforcement="hard", allow_unbounded=True),
        pytest.warns(ActGuardMonitoringWarning, match="videos"),
    ):
        assert await called(UNCOUNTED["videos"][1], client)


async def test_outside_a_scope_nothing_is_said(client: Any) -> None:
    for _, call in UNCOUNTED.values():
        try:
            await done(call(client))
        except (AttributeError, TypeError):
            continue  # this SDK does not have it


@pytest.mark.filterwarnings("ignore::actguard.exceptions.ActGuardMonitoringWarning")
async def test_what_spends_is_refused_over_budget_and_what_is_free_is_not(client: Any) -> None:
    with spending(token_limit=10) as budget:
        with pytest.raises(BudgetExceededError):
            await done(client.chat.completions.create(model="gpt-4o-mini", messages=[]))
        with pytest.raises(BudgetExceededError):
            await called(UNCOUNTED["fine-tuning jobs"][1], client)
        for call in FREE.values():
            try:
                await done(call(client))
            except (AttributeError, TypeError):
                continue  # this SDK does not have it
    assert budget.calls == 1


@pytest.mark.parametrize("free", FREE, ids=["-".join(free) for free in FREE])
async def test_what_is_free_works_in_hard_scopes(client: Any, free: tuple[str, str]) -> None:
    with (
        Client(on_unpriced="raise") as guard,
        guard.run(),
        guard.budget_guard(token_limit=10, enforcement="hard") as budget,
    ):
        await called(FREE[free], client)
    assert budget.calls == 0


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("fine_tuning/jobs/ftjob-1/resume", "fine-tuning jobs"),
        ("fine_tuning/jobs/ftjob-1/pause", None),
        ("videos/video_1/remix", "videos"),
        ("videos/characters", None),
        ("vector_stores/vs_1/file_batches", "files in vector stores"),
        ("realtime/calls/call_1/accept", "realtime sessions held elsewhere"),
        ("realtime/calls/call_1/hangup", None),
        ("realtime/translations/client_secrets", "realtime sessions held elsewhere"),
        ("agents/sessions/s_1/events", "managed agents"),
        ("agents", None),
        ("evals/eval_1/runs/run_1/cancel", None),
        ("containers/c_1/files", None),
    ],
)
def test_paths(path: str, what: str | None) -> None:
    assert uncounted_surface(path) == what


def test_a_vector_store_costs_something_when_it_is_made_of_files() -> None:
    assert uncounted_surface("vector_stores", {"name": "empty"}) is None
    assert uncounted_surface("vector_stores", {"file_ids": ["file-1"]}) == "files in vector stores"
