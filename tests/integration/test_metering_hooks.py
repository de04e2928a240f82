"""The one path of every call: admit, call, charge. What goes wrong in an integration never reaches the caller."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from openai_calls import MODEL, assert_charged_as_billed, chat, chat_chunks
from spending import spending

from actguard import context, monitoring
from actguard.client import Client
from actguard.exceptions import ActGuardMonitoringWarning, BudgetExceededError, MonitoringDegradedError
from actguard.integrations import degraded
from actguard.integrations.metering import (
    FREE,
    Bill,
    Exchange,
    Outcome,
    Request,
    Settlement,
    Unknown,
    async_hook,
    sync_hook,
)
from actguard.integrations.streams import MeteredAsyncIterator, MeteredIterator, StreamMeter, StreamReader
from actguard.money.usage import Usage
from actguard.monitoring import Reports
from actguard.testing import LoopbackProvider

ON = SimpleNamespace(applied=True)
COST = Usage(uncached_input_tokens=70, output_tokens=30)
ESTIMATE = Usage(uncached_input_tokens=50)


@pytest.fixture(autouse=True)
def reported(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the integrations report; a test that expects nothing finds it empty."""
    monkeypatch.setattr(degraded, "reports", Reports())
    operations: list[str] = []

    def note(error: MonitoringDegradedError, **_: object) -> None:
        if error.subsystem == "integrations":
            operations.append(error.operation)

    monkeypatch.setattr(monitoring, "warn", note)
    return operations


class Plain(Exchange):
    """A call that costs `COST`, or whatever its parts are replaced with."""

    provider = "openai"

    def request(self) -> Request:
        return Request(model=MODEL, api="test", estimate=ESTIMATE)

    def failure(self, error: BaseException) -> Outcome:
        return FREE

    def answer(self, result: Any, settlement: Settlement) -> Any:
        settlement.charge(Bill(COST))
        return result


def broken(*_: Any, **__: Any) -> Any:
    raise LookupError("the SDK looks different today")


def hooked(exchange: type[Exchange] | None, function: Callable[..., Any] = lambda client: "answer") -> Any:
    """A method of an SDK under a hook."""
    opener: Any = (lambda *_: None) if exchange is None else exchange
    return sync_hook(function, opener, switch=ON)


def only_row(budget: Any) -> Any:
    [row] = budget.breakdown()
    return row


# --- reading never breaks a call


def test_a_call_is_charged(reported: list[str]) -> None:
    with spending() as budget:
        assert hooked(Plain)(None) == "answer"
    assert (budget.calls, budget.tokens_used, budget.estimated_usd) == (1, 100, 0)
    assert reported == []


def test_a_free_call_is_not_charged(reported: list[str]) -> None:
    with spending() as budget:
        assert hooked(None)(None) == "answer"
    assert budget.calls == 0


def test_a_request_that_cannot_be_routed_goes_out_uncounted(reported: list[str]) -> None:
    with spending() as budget:
        assert sync_hook(lambda client: "answer", broken, switch=ON)(None) == "answer"
    assert budget.calls == 0
    assert reported == ["route a request"]


def test_a_request_that_cannot_be_read_is_charged_by_its_answer(reported: list[str]) -> None:
    exchange = type("Unreadable", (Plain,), {"request": broken})
    with spending() as budget:
        assert hooked(exchange)(None) == "answer"
    assert budget.tokens_used == 100
    assert reported == ["read a request"]


def test_an_answer_that_cannot_be_read_is_delivered_and_estimated(reported: list[str]) -> None:
    exchange = type("Unreadable", (Plain,), {"answer": broken})
    with spending() as budget:
        for _ in range(3):
            assert hooked(exchange)(None) == "answer"
    assert only_row(budget).calls == 3
    assert only_row(budget).estimated
    assert reported == ["read an answer"]  # once, however often


def test_an_error_that_cannot_be_read_is_raised_and_estimated(reported: list[str]) -> None:
    exchange = type("Unreadable", (Plain,), {"failure": broken})

    def fail(client: Any) -> Any:
        raise ConnectionError("gone")

    with spending() as budget, pytest.raises(ConnectionError, match="gone"):
        hooked(exchange, fail)(None)
    assert only_row(budget).estimated
    assert reported == ["read the error of a call"]


async def test_an_async_call_is_guarded_alike(reported: list[str]) -> None:
    async def answer(client: Any) -> str:
        return "answer"

    exchange = type("Unreadable", (Plain,), {"answer": broken})
    with spending() as budget:
        assert await async_hook(answer, Plain, switch=ON)(None) == "answer"
        assert await async_hook(answer, exchange, switch=ON)(None) == "answer"
    assert budget.calls == 2
    assert reported == ["read an answer"]


def test_where_warnings_are_errors_a_report_does_not_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(degraded, "reports", Reports())
    degraded.report("read an answer", "openai", LookupError())  # they are, in these tests


def test_a_report_names_what_could_not_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(degraded, "reports", Reports())
    with pytest.warns(ActGuardMonitoringWarning, match="read an answer.*LookupError"):
        degraded.report("read an answer", "openai", LookupError("secret"))


def test_a_call_that_wants_to_be_sent_again_is_admitted_once() -> None:
    attempts: list[int] = []

    class Stubborn(Plain):
        def resend(self, error: BaseException) -> bool:
            return len(attempts) < 3

    def third_time(client: Any) -> str:
        attempts.append(1)
        if len(attempts) < 3:
            raise ConnectionError
        return "answer"

    with spending() as budget:
        assert hooked(Stubborn, third_time)(None) == "answer"
    assert budget.calls == 1


def test_a_switched_off_hook_only_passes_on() -> None:
    off = SimpleNamespace(applied=False)
    with spending() as budget:
        assert sync_hook(lambda client: "answer", Plain, switch=off)(None) == "answer"
    assert budget.calls == 0


# --- streams, whatever their reader does


class Reader(StreamReader):
    """Counts a token for each chunk."""

    def feed(self, item: Any) -> bool:
        self.output_seen += 1
        return True

    def bill(self, complete: bool) -> Outcome:
        return Bill(Usage(uncached_input_tokens=10, output_tokens=self.output_seen), estimated=not complete)

    @property
    def text(self) -> str:
        return "x" * self.output_seen


class Streamed(Plain):
    reader: type[StreamReader] = Reader

    def answer(self, result: Any, settlement: Settlement) -> Any:
        meter = StreamMeter(self.reader(), settlement, failure=self.failure)
        if hasattr(result, "__anext__"):
            return MeteredAsyncIterator(result, meter, result.aclose)
        return MeteredIterator(result, meter, result.close)


def three_chunks(client: Any) -> Iterator[int]:
    yield from range(3)


async def three_chunks_async(client: Any) -> AsyncIterator[int]:
    for chunk in range(3):
        yield chunk


async def test_a_generator_function_is_metered_like_a_stream() -> None:
    with spending() as budget:
        assert list(hooked(Streamed, three_chunks)(None)) == [0, 1, 2]
        assert [chunk async for chunk in hooked(Streamed, three_chunks_async)(None)] == [0, 1, 2]
    assert (budget.calls, budget.tokens_used, budget.estimated_usd) == (2, 26, 0)


@pytest.mark.parametrize("part", ["feed", "bill", "so_far"])
def test_a_reader_that_raises_does_not_disturb_the_stream(reported: list[str], part: str) -> None:
    exchange = type("Unreadable", (Streamed,), {"reader": type("Reader", (Reader,), {part: broken})})
    with spending() as budget:
        assert list(hooked(exchange, three_chunks)(None)) == [0, 1, 2]
    assert budget.calls == 1
    assert reported == ["read a stream"]


def test_an_error_before_the_first_chunk_is_judged_like_a_failed_call() -> None:
    def fail(client: Any) -> Iterator[int]:
        raise ConnectionRefusedError
        yield

    with spending() as budget, pytest.raises(ConnectionRefusedError):
        list(hooked(Streamed, fail)(None))
    assert budget.calls == 0


def test_an_error_after_the_first_chunk_is_charged_as_far_as_it_came() -> None:
    def fail(client: Any) -> Iterator[int]:
        yield 1
        raise ConnectionResetError

    with spending() as budget, pytest.raises(ConnectionResetError):
        list(hooked(Streamed, fail)(None))
    assert only_row(budget).estimated
    assert only_row(budget).output_tokens == 1


def test_a_stream_that_fails_to_close_at_a_limit_still_ends(reported: list[str]) -> None:
    class Unclosable(Streamed):
        def answer(self, result: Any, settlement: Settlement) -> Any:
            return MeteredIterator(result, StreamMeter(Reader(), settlement), broken)

    with spending(token_limit=11), pytest.raises(BudgetExceededError) as crossing:
        list(hooked(Unclosable, three_chunks)(None))
    assert crossing.value.partial == "xxx"
    assert reported == ["close a stream"]


# --- whose call it is


def test_a_call_in_a_thread_without_context_is_reported_once(
    provider: LoopbackProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    client = provider.openai()
    with spending() as budget, ThreadPoolExecutor(1) as pool:
        listing = pool.submit(client.models.list).result()  # free: nothing to report
        assert listing.data
        with pytest.warns(ActGuardMonitoringWarning, match=r"actguard\.carry"):
            pool.submit(asyncio.run, chat(client)).result()
        pool.submit(asyncio.run, chat(client)).result()
    assert budget.calls == 0


def test_a_carried_call_is_counted(provider: LoopbackProvider) -> None:
    client = provider.openai()
    with spending() as budget, ThreadPoolExecutor(4) as pool:
        ask = context.carry(lambda: asyncio.run(chat(client)))
        for job in [pool.submit(ask) for _ in range(20)]:
            job.result()
    assert_charged_as_billed(budget, provider)


def test_a_run_that_adopts_threads_counts_their_calls(provider: LoopbackProvider) -> None:
    client = provider.openai()
    with Client() as guard, guard.run(adopt_threads=True), guard.budget_guard(usd_limit=10) as budget:
        thread = threading.Thread(target=lambda: asyncio.run(chat(client)))
        thread.start()
        thread.join()
    assert_charged_as_billed(budget, provider)


async def test_calls_and_streams_of_many_tasks_are_all_counted(provider: LoopbackProvider) -> None:
    async with provider.async_openai() as client:
        with spending() as budget:
            await asyncio.gather(*(call(client) for _ in range(50) for call in (chat, chat_chunks)))
    assert budget.calls == 100
    assert_charged_as_billed(budget, provider)


async def test_a_nested_scope_charges_those_around_it(provider: LoopbackProvider) -> None:
    async with provider.async_openai() as client:
        with Client() as guard, guard.run(), guard.budget_guard(usd_limit=10) as outer:
            await chat(client)
            with guard.budget_guard(name="inner", usd_limit=10) as inner:
                await chat(client)
    assert (outer.calls, inner.calls) == (2, 1)
    assert_charged_as_billed(outer, provider)


@pytest.fixture
def provider() -> Iterator[LoopbackProvider]:
    with LoopbackProvider() as provider:
        yield provider


def test_unknown_attempts_multiply_the_estimate() -> None:
    class Lost(Plain):
        def failure(self, error: BaseException) -> Outcome:
            return Unknown(attempts=3)

    def fail(client: Any) -> Any:
        raise TimeoutError

    with spending() as budget, pytest.raises(TimeoutError):
        hooked(Lost, fail)(None)
    assert only_row(budget).input_tokens == 3 * ESTIMATE.input_tokens
