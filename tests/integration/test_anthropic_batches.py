"""Batches: submitting and fetching costs nothing at the hook, and the results come through as the SDK decodes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from canned import Canned, serving
from either import MODES, done, items
from spending import spending

from actguard.exceptions import BudgetExceededError

MODEL = "claude-sonnet-4-6"
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": MODEL,
    "content": [{"type": "text", "text": "Hi"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 10, "output_tokens": 5},
}
BATCH = {
    "id": "batch_1",
    "type": "message_batch",
    "processing_status": "ended",
    "request_counts": {"processing": 0, "succeeded": 2, "errored": 0, "canceled": 0, "expired": 0},
    "ended_at": "2026-11-23T00:00:00Z",
    "created_at": "2026-11-23T00:00:00Z",
    "expires_at": "2026-11-24T00:00:00Z",
    "archived_at": None,
    "cancel_initiated_at": None,
    "results_url": "/v1/messages/batches/batch_1/results",
}
RESULTS = [{"custom_id": name, "result": {"type": "succeeded", "message": MESSAGE}} for name in ("a", "b")]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    lines = "".join(json.dumps(result) + "\n" for result in RESULTS)
    answers = {
        ("POST", "/v1/messages"): Canned("application/json", json.dumps(MESSAGE).encode()),
        ("POST", "/v1/messages/batches"): Canned("application/json", json.dumps(BATCH).encode()),
        ("GET", "/v1/messages/batches/batch_1"): Canned("application/json", json.dumps(BATCH).encode()),
        ("GET", "/v1/messages/batches/batch_1/results"): Canned("application/x-jsonl", lines.encode()),
    }
    with serving(answers) as base_url:
        yield base_url


@pytest.mark.parametrize("mode", MODES)
async def test_batches_work_over_budget_and_results_keep_their_decoder(url: str, mode: str) -> None:
    kind: Any = anthropic.Anthropic if mode == "sync" else anthropic.AsyncAnthropic
    client = kind(api_key="k", base_url=url, max_retries=0)
    request: Any = {"model": MODEL, "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}
    with spending(token_limit=15) as budget:
        with pytest.raises(BudgetExceededError):
            await done(client.messages.create(**request))
        batch = await done(client.messages.batches.create(requests=[{"custom_id": "a", "params": request}]))
        results = await done(client.messages.batches.results(batch.id))
        assert type(results).__name__ in ("JSONLDecoder", "AsyncJSONLDecoder")
        assert [result.custom_id for result in await items(results)] == ["a", "b"]
        assert (budget.calls, budget.tokens_used) == (1, 15)
    await done(client.close())
