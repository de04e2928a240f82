"""Calls of the OpenAI SDK that answer at once: what is measured is the hook, and neither the SDK nor the network.

The method that is hooked, the client's ``request``, is replaced before it is patched by one that returns an answer made
before. ActGuard 1.0.2 hooks the same method.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import openai
from openai._base_client import AsyncAPIClient, SyncAPIClient
from openai._models import FinalRequestOptions
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from timed import LOOP, Block, sync_block

import actguard

MESSAGES: Any = [{"role": "user", "content": "What is the weather like in Paris today? " * 10}]
USAGE = {"prompt_tokens": 120, "completion_tokens": 80, "total_tokens": 200}
ANSWER = ChatCompletion.model_validate(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o-2024-08-06",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Fine."}}],
        "usage": {**USAGE, "prompt_tokens_details": {"cached_tokens": 20}},
    }
)
CHUNKS = 1000


def _chunk(text: str | None, usage: Any = None) -> ChatCompletionChunk:
    choices = [] if text is None else [{"index": 0, "delta": {"content": text}}]
    return ChatCompletionChunk.model_validate(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "gpt-4o-2024-08-06",
            "choices": choices,
            "usage": usage,
        }
    )


ALL_CHUNKS = [*[_chunk(" word") for _ in range(CHUNKS - 1)], _chunk(None, USAGE)]


class InstantStream(openai.Stream[Any]):
    """A stream whose chunks are there already."""

    def __stream__(self) -> Iterator[Any]:
        yield from ALL_CHUNKS


def _answer_at_once(self: Any, cast_to: Any, options: Any, *, stream: bool = False, stream_cls: Any = None) -> Any:
    if not stream:
        return ANSWER
    response = httpx2.Response(200, content=b"", request=httpx2.Request("POST", "https://api.openai.com/v1"))
    return InstantStream(cast_to=cast_to, response=response, client=self)


async def _answer_in_turn(self: Any, cast_to: Any, options: Any, **_: Any) -> Any:
    await asyncio.sleep(0)
    return ANSWER


AsyncAPIClient.request = _answer_in_turn  # type: ignore[assignment,method-assign]
SyncAPIClient.request = _answer_at_once  # type: ignore[assignment,method-assign]
OPENAI = openai.OpenAI(api_key="none")
ASYNC_OPENAI = openai.AsyncOpenAI(api_key="none")
CLIENT = actguard.Client()
EARLIER = actguard.__version__ == "1.0.2"


def _options(**body: Any) -> Any:
    body = {"model": "gpt-4o", "messages": MESSAGES, **body}
    return FinalRequestOptions.construct(method="post", url="/chat/completions", json_data=body)


OPTIONS = _options(max_tokens=200)
STREAM_OPTIONS = _options(stream=True, stream_options={"include_usage": True})


def _call() -> Any:
    return OPENAI.request(ChatCompletion, OPTIONS)


def _read() -> None:
    stream: Any = OPENAI.request(ChatCompletionChunk, STREAM_OPTIONS, stream=True, stream_cls=InstantStream)
    for _ in stream:
        pass


@contextlib.contextmanager
def _budget(depth: int = 1) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(CLIENT.run())
        for level in range(depth):
            limits: Any = {} if EARLIER else {"usd_limit": 10**9}
            stack.enter_context(CLIENT.budget_guard(name=f"level {level}", **limits))
        yield


def _within(depth: int) -> Callable[[Block], Block]:
    def around(block: Block) -> Block:
        def inside(count: int) -> float:
            with _budget(depth):
                _call()
                return block(count)

        return inside

    return around


def plain_call(depth: int = 0) -> Block:
    """A non-streaming call, inside so many budget scopes."""
    return sync_block(_call, around=_within(depth) if depth else None)


def concurrent_calls(tasks: int) -> Block:
    """So many tasks of one budget scope make calls in turns, each of them held while the others run; CPU time."""

    async def calls(count: int) -> None:
        for _ in range(count):
            await ASYNC_OPENAI.request(ChatCompletion, OPTIONS)

    async def block(count: int) -> float:
        async with CLIENT.run(), CLIENT.budget_guard(usd_limit=10**9):
            await calls(1)
            each = max(1, count // tasks)
            many = [asyncio.create_task(calls(each)) for _ in range(tasks)]
            started = time.process_time()
            await asyncio.gather(*many)
            took = time.process_time() - started
        return took * count / (each * tasks)

    def collected(count: int) -> float:
        gc.collect()
        return LOOP.run_until_complete(block(count))

    return collected


def read_stream(depth: int = 0) -> Block:
    """Reading a stream of 1,000 chunks, inside so many budget scopes."""
    return sync_block(_read, around=_within(depth) if depth else None)


def bare_method(patched: bool) -> Block:
    """``SyncAPIClient.request`` itself, outside of any scope."""
    if patched:
        with _budget():
            pass
    method = SyncAPIClient.request if patched else _answer_at_once
    options: Any = object()
    return sync_block(lambda: method(OPENAI, ChatCompletion, options))
