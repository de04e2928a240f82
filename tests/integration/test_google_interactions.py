"""Google's interactions inside a budget scope: asked, streamed, run in the background and fetched."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from either import MODES, done, first, items
from google import genai
from spending import spending, spent

from actguard.exceptions import ActGuardMonitoringWarning, BudgetExceededError, GuardError

pytestmark = [
    pytest.mark.skipif(not hasattr(genai.Client, "interactions"), reason="this SDK has no interactions"),
    pytest.mark.filterwarnings("ignore"),  # the SDK calls them experimental
]

MODEL = "gemini-2.5-flash"
USAGE = {
    "total_input_tokens": 1000,
    "total_cached_tokens": 400,
    "total_tool_use_tokens": 50,
    "total_output_tokens": 10,
    "total_thought_tokens": 20,
    "total_tokens": 1080,
}
COUNTED = (1, 1050, 400, 0, 30)
DONE = {"id": "int_1", "object": "interaction", "model": MODEL, "status": "completed", "usage": USAGE}
RUNNING = {"id": "int_2", "object": "interaction", "model": MODEL, "status": "in_progress"}
FIRST_EVENTS = [
    {"event_type": "interaction.created", "interaction": {**RUNNING, "id": "int_1"}},
    {"event_type": "step.delta", "index": 0, "delta": {"type": "text", "text": "four" * 10}},
]
LAST_EVENT = {"event_type": "interaction.completed", "interaction": DONE}


class Interactions:
    """A server for the one API that the loopback provider does not speak."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {"POST": DONE, "GET": {**DONE, "id": "int_2"}}
        self.status = 200
        self.requests: list[str] = []
        self.go_on = threading.Event()

    @property
    def handler(self) -> type[BaseHTTPRequestHandler]:
        interactions = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"] or 0)) or b"{}")
                interactions.requests.append("POST")
                if body.get("stream"):
                    self.stream()
                else:
                    self.answer(interactions.answers["POST"])

            def do_GET(self) -> None:
                interactions.requests.append("GET")
                self.answer(interactions.answers["GET"])

            def answer(self, answer: Any) -> None:
                data = json.dumps(answer).encode()
                self.send_response(interactions.status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def stream(self) -> None:
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.end_headers()
                for event in FIRST_EVENTS:
                    self.send(json.dumps(event))
                interactions.go_on.wait(5)
                self.send(json.dumps(LAST_EVENT))
                self.send("[DONE]")

            def send(self, data: str) -> None:
                self.wfile.write(f"data: {data}\n\n".encode())
                self.wfile.flush()

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


class Server(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """A client that left is what some tests are about."""


@pytest.fixture
def server() -> Iterator[Any]:
    interactions = Interactions()
    with Server(("127.0.0.1", 0), interactions.handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        interactions.url = f"http://127.0.0.1:{http.server_port}"  # type: ignore[attr-defined]
        yield interactions
        interactions.go_on.set()
        http.shutdown()
        thread.join()


@pytest.fixture(params=MODES)
def client(request: pytest.FixtureRequest, server: Any) -> Any:
    client = genai.Client(api_key="k", vertexai=False, http_options={"base_url": server.url})
    return client if request.param == "sync" else client.aio


async def create(client: Any, **settings: Any) -> Any:
    return await done(client.interactions.create(model=MODEL, input="Hello there", **settings))


async def test_an_interaction_is_charged(client: Any) -> None:
    with spending() as budget:
        assert (await create(client)).id == "int_1"
        assert spent(budget) == COUNTED
        assert budget.estimated_usd == 0


async def test_a_streamed_interaction_is_charged_by_its_last_event(server: Any, client: Any) -> None:
    server.go_on.set()
    with spending() as budget:
        assert len(await items(await create(client, stream=True))) == 3
        assert spent(budget) == COUNTED
        assert budget.estimated_usd == 0


async def test_a_streamed_interaction_that_is_left_is_charged_for_what_arrived(client: Any) -> None:
    with spending() as budget:
        stream = await create(client, stream=True)
        await first(stream)
        await first(stream)
        await done(stream.close())
        assert spent(budget) == (1, -(-len("Hello there") // 4), 0, 0, 10)
        assert budget.estimated_usd == budget.usd_used > 0


async def test_what_runs_in_the_background_is_charged_once_when_it_is_fetched(server: Any, client: Any) -> None:
    server.answers["POST"] = RUNNING
    with spending() as budget:
        await create(client, background=True)
        assert budget.calls == 0
        for _ in range(3):
            await done(client.interactions.get("int_2"))
        assert spent(budget) == COUNTED


async def test_an_interaction_that_was_charged_may_be_fetched_for_free(server: Any, client: Any) -> None:
    server.answers["GET"] = DONE
    with spending() as budget:
        await create(client)
        await done(client.interactions.get("int_1"))
        assert spent(budget) == COUNTED


async def test_the_interaction_that_crosses_is_on_the_error_and_the_next_is_refused(server: Any, client: Any) -> None:
    server.answers["GET"] = DONE
    with spending(token_limit=100):
        with pytest.raises(BudgetExceededError) as crossed:
            await create(client)
        assert crossed.value.response.id == "int_1"
        with pytest.raises(BudgetExceededError) as refused:
            await create(client)
        assert refused.value.response is None
        assert (await done(client.interactions.get("int_1"))).status == "completed"
    assert server.requests == ["POST", "GET"]


async def test_an_error_answer_costs_nothing(server: Any, client: Any) -> None:
    server.status, server.answers["POST"] = 400, {"error": {"code": 400, "message": "no"}}
    with spending() as budget:
        with pytest.raises(Exception, match="no"):
            await create(client)
        assert budget.calls == 0


async def test_the_searches_of_an_interaction_are_charged(server: Any, client: Any) -> None:
    searched = [{"type": "google_search", "count": 2}, {"type": "retrieval", "count": 1}]
    server.answers["POST"] = {**DONE, "usage": {**USAGE, "grounding_tool_count": searched}}
    with spending() as budget:
        await create(client)
        with_searches = budget.usd_used_exact
        server.answers["POST"] = {**DONE, "id": "int_3"}
        await create(client)
        assert with_searches - (budget.usd_used_exact - with_searches) == Decimal("0.035")  # one grounded prompt


@pytest.mark.skipif(not hasattr(genai.Client, "triggers"), reason="this SDK has no triggers")
async def test_agents_that_a_trigger_runs_are_told_of_by_name(server: Any, client: Any) -> None:
    server.answers["POST"] = {"id": "exec_1", "trigger_id": "t", "status": "running"}
    with spending() as budget:
        with pytest.warns(ActGuardMonitoringWarning, match="agents that a trigger runs"):
            await done(client.triggers.run("trigger_1"))
        assert budget.calls == 0
    with spending(usd_limit=1, enforcement="hard"), pytest.raises(GuardError, match="agents that a trigger runs"):
        await done(client.triggers.run("trigger_1"))
