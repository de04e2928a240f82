"""The bus: publishing that never waits nor raises, handlers on the hub, and questions that get an answer."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest
from conftest import Runner, until

from actguard.bus import NOBODY
from actguard.client import Client
from actguard.events import (
    ApprovalRequested,
    CustomEvent,
    Event,
    Request,
    ReserveRequested,
    RunStart,
    SettleRequested,
)
from actguard.exceptions import (
    ActGuardMonitoringWarning,
    ActGuardUsageError,
    MonitoringDegradedError,
)
from actguard.scope import Reply, step
from actguard.subscription import Flush


def note(text: str) -> CustomEvent:
    return CustomEvent(category="test", name=text)


QUESTION = ApprovalRequested(tool_name="m:pay")


# --- handlers -------------------------------------------------------------------------------------------------------


class Collector:
    """A handler that notes what it is given, in one of the forms that a handler may have."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.threads: set[str] = set()

    def plain(self, event: Event) -> None:
        self.names.append(event.name)
        self.threads.add(threading.current_thread().name)

    async def coroutine(self, event: Event) -> None:
        await asyncio.sleep(0)
        self.plain(event)

    @property
    def partial(self) -> Callable[[Event], Any]:
        async def two(_: int, event: Event) -> None:
            self.plain(event)

        return functools.partial(two, 1)

    @property
    def object_with_call(self) -> Callable[[Event], Any]:
        collector = self

        class Callee:
            async def __call__(self, event: Event) -> None:
                collector.plain(event)

        return Callee()


FORMS = ["plain", "coroutine", "partial", "object_with_call"]


@pytest.mark.parametrize("form", FORMS)
def test_a_handler_is_given_each_event_in_order_off_the_callers_thread(form: str, client: Client) -> None:
    collector = Collector()
    client.bus.add_handler(getattr(collector, form), CustomEvent)
    client.bus.publish(RunStart())
    for number in range(50):
        client.bus.publish(note(str(number)))
    assert client.flush()
    assert collector.names == [str(number) for number in range(50)]
    assert threading.current_thread().name not in collector.threads


def test_a_handler_added_to_a_running_hub_misses_nothing(client: Client) -> None:
    client.bus.add_handler(print, RunStart)
    for _ in range(100):
        collector = Collector()
        handler = client.bus.add_handler(collector.plain, CustomEvent)
        client.bus.publish(note("first"))
        assert client.flush()
        assert collector.names == ["first"]
        handler.remove()


def test_a_handler_added_from_a_handler_misses_nothing(client: Client) -> None:
    collector = Collector()

    async def start_another(_: Event) -> None:
        client.bus.add_handler(collector.plain, CustomEvent)
        client.bus.publish(note("first"))

    client.bus.add_handler(start_another, RunStart)
    client.bus.publish(RunStart())
    assert client.flush()
    assert client.flush()
    assert collector.names == ["first"]


@pytest.mark.parametrize("form", ["plain", "coroutine"])
def test_a_handler_that_raises_goes_on_and_is_warned_about_once(
    form: str, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    def plain(event: Event) -> None:
        seen.append(event.name)
        raise LookupError("bug in a subscriber")

    async def coroutine(event: Event) -> None:
        plain(event)

    other = Collector()
    client.bus.add_handler({"plain": plain, "coroutine": coroutine}[form], CustomEvent)
    client.bus.add_handler(other.plain, CustomEvent)
    said = rf"run the handler .*\.{form} failed: LookupError\. It said: bug in a subscriber\."
    with caplog.at_level("DEBUG", "actguard"), pytest.warns(ActGuardMonitoringWarning, match=said) as caught:
        assert publish_and_flush(client, 5)
    assert len(caught) == 1
    assert caplog.text.count("Traceback") == 5
    assert seen == other.names == ["0", "1", "2", "3", "4"]


def publish_and_flush(client: Client, count: int) -> bool:
    for number in range(count):
        client.bus.publish(note(str(number)))
    return client.flush()


def test_a_slow_handler_holds_up_nobody_and_what_it_cannot_take_is_counted(client: Client) -> None:
    gate, other = threading.Event(), Collector()

    def slow(_: Event) -> None:
        gate.wait(10)

    client.bus.add_handler(slow, CustomEvent, queue_size=2)
    client.bus.add_handler(other.plain, CustomEvent)

    def publish_one_by_one() -> None:
        for number in range(20):
            client.bus.publish(note(str(number)))
            until(lambda number=number: len(other.names) == number + 1)

    with pytest.warns(ActGuardMonitoringWarning, match="slow does not keep up"):
        publish_one_by_one()
    assert client.stats()["events_dropped"] >= 15
    gate.set()


def test_removing_a_handler_lets_it_finish_what_has_arrived(client: Client) -> None:
    gate, collector = threading.Event(), Collector()

    def slow(event: Event) -> None:
        gate.wait(10)
        collector.plain(event)

    handler = client.bus.add_handler(slow, CustomEvent)
    for number in range(3):
        client.bus.publish(note(str(number)))
    handler.remove()
    handler.remove()
    client.bus.publish(note("too late"))
    assert not client.bus.wants(CustomEvent)
    assert client.stats()["handlers"] == 0
    gate.set()
    until(lambda: collector.names == ["0", "1", "2"])


@pytest.mark.parametrize("form", ["plain", "coroutine"])
def test_a_handler_may_take_together_what_has_arrived(form: str, client: Client) -> None:
    gate, begun, batches = threading.Event(), threading.Event(), list[list[str]]()

    def plain(events: list[Event]) -> None:
        begun.set()
        gate.wait(10)
        batches.append([event.name for event in events])

    async def coroutine(events: list[Event]) -> None:
        begun.set()
        await anyio.to_thread.run_sync(gate.wait, 10)
        batches.append([event.name for event in events])

    client.bus.add_handler({"plain": plain, "coroutine": coroutine}[form], CustomEvent, together=True)
    client.bus.publish(note("first"))
    assert begun.wait(10)
    for number in range(250):
        client.bus.publish(note(str(number)))
    gate.set()
    assert client.flush()
    assert [len(batch) for batch in batches] == [1, 100, 100, 50]
    assert [name for batch in batches[1:] for name in batch] == [str(number) for number in range(250)]


@pytest.mark.parametrize(
    ("arguments", "field", "said"),
    [
        ((None,), "function", "must be callable, not NoneType"),
        ((1,), "function", "must be callable, not int"),
        ((print, 1), "kinds", "1 is not an Event class"),
        ((print, int), "kinds", "<class 'int'> is not an Event class"),
    ],
)
def test_wrong_arguments_of_add_handler_are_named(
    arguments: tuple[Any, ...], field: str, said: str, client: Client
) -> None:
    with pytest.raises(ActGuardUsageError, match=said) as caught:
        client.bus.add_handler(*arguments)
    assert caught.value.field == field
    assert not client.stats()["hub_running"]


@pytest.mark.parametrize("on_flush", [1, "flush"])
def test_an_on_flush_that_cannot_be_called_is_refused(on_flush: Any, client: Client) -> None:
    with pytest.raises(ActGuardUsageError) as caught:
        client.bus.add_handler(print, on_flush=on_flush)
    assert caught.value.field == "on_flush"


def test_a_closed_client_takes_no_handlers() -> None:
    client = Client()
    client.close()
    with pytest.raises(ActGuardUsageError, match="closed"):
        client.bus.add_handler(print)
    assert not client.stats()["hub_running"]


# --- flush ----------------------------------------------------------------------------------------------------------


def test_flush_waits_for_what_was_published_before_in_all_handlers(client: Client, on_loop: Runner) -> None:
    gate, collectors, flushed = threading.Event(), [Collector(), Collector()], []

    def slow(event: Event) -> None:
        gate.wait(10)
        collectors[0].plain(event)

    async def on_flush() -> None:
        flushed.append(len(collectors[0].names))

    client.bus.add_handler(slow, CustomEvent, on_flush=on_flush)
    client.bus.add_handler(collectors[1].coroutine, CustomEvent)

    async def main() -> None:
        for number in range(10):
            client.bus.publish(note(str(number)))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(check)
            await anyio.wait_all_tasks_blocked()
            gate.set()

    async def check() -> None:
        assert await client.aflush()
        assert len(collectors[0].names) == len(collectors[1].names) == 10

    on_loop(main)
    assert flushed == [10]


def test_flush_without_handlers_has_nothing_to_wait_for(client: Client, on_loop: Runner) -> None:
    assert client.flush()
    assert on_loop(client.aflush)
    assert not client.stats()["hub_running"]


def test_flush_gives_up_after_its_timeout(client: Client) -> None:
    gates = [threading.Event(), threading.Event()]
    for gate in gates:
        client.bus.add_handler(lambda _, gate=gate: gate.wait(10), CustomEvent)
    client.bus.publish(note("x"))
    assert not client.flush(0)
    assert not client.flush(0.01)
    gates[0].set()
    assert not client.flush(0.01)
    gates[1].set()
    assert client.flush()


def test_flush_waits_once_for_all_handlers_and_not_for_each(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float | None] = []
    wait = Reply.wait

    def counted(self: Reply[Any], timeout: float | None = None) -> Any:
        waits.append(timeout)
        return wait(self, timeout)

    monkeypatch.setattr(Reply, "wait", counted)
    for _ in range(3):
        client.bus.add_handler(print, CustomEvent)
    assert step(client.bus.aflush(7))
    assert waits == [7]


def test_a_handler_that_is_removed_does_not_hold_up_a_flush(client: Client) -> None:
    gate, begun = threading.Event(), threading.Event()

    async def slow(_: Event) -> None:
        begun.set()
        await anyio.to_thread.run_sync(gate.wait, 10)

    handler = client.bus.add_handler(slow, CustomEvent, queue_size=1)
    client.bus.publish(note("being handled"))
    begun.wait(10)
    client.bus.publish(note("in the queue, which is full now"))
    flush = Flush([handler])
    done_on_hub(client)  # the marker waits for room
    handler.remove()
    gate.set()
    step(flush.reply.wait(10))


def test_a_failing_on_flush_does_not_hold_up_the_flush(client: Client) -> None:
    async def on_flush() -> None:
        raise LookupError("bug")

    client.bus.add_handler(print, RunStart, on_flush=on_flush)
    with pytest.warns(ActGuardMonitoringWarning, match="LookupError"):
        assert client.flush()


def test_flushing_on_the_hub_itself_is_a_clear_error_and_no_standstill(client: Client) -> None:
    errors: list[BaseException] = []

    async def handle(_: Event) -> None:
        try:
            client.flush()
        except RuntimeError as error:
            errors.append(error)

    client.bus.add_handler(handle, CustomEvent)
    client.bus.publish(note("x"))
    assert client.flush()
    assert "await client.aflush()" in str(errors[0])


# --- publishing -----------------------------------------------------------------------------------------------------


def test_publishing_with_nobody_there_does_nothing(client: Client) -> None:
    client.bus.publish(note("x"))
    assert not client.bus.wants(CustomEvent)
    nothing = {"events_dropped": 0, "subscriptions": 0, "handlers": 0, "hub_running": False}
    assert client.stats().items() >= nothing.items()


@pytest.mark.filterwarnings("error")
def test_publishing_never_raises_after_close() -> None:
    client = Client()
    client.bus.add_handler(print, CustomEvent)
    client.close()
    client.bus.publish(note("x"))
    assert not client.bus.wants(CustomEvent)


def test_a_warning_is_given_once_per_operation_kind_and_status(client: Client) -> None:
    def degraded(operation: str, kind: str, status: int | None) -> MonitoringDegradedError:
        return MonitoringDegradedError(subsystem="s", operation=operation, failure_kind=kind, status_code=status)

    kinds: list[Any] = [("a", "k", 500), ("a", "k", 503), ("a", "j", None), ("b", "k", 500)]
    with pytest.warns(ActGuardMonitoringWarning) as caught:
        deque((client.bus.degraded(degraded(*facts)) for facts in kinds * 3), maxlen=0)
    errors = [each.message.error for each in caught if isinstance(each.message, ActGuardMonitoringWarning)]
    assert [(error.operation, error.failure_kind, error.status_code) for error in errors] == kinds


# --- asking ---------------------------------------------------------------------------------------------------------


def ask_blocking(client: Client, timeout: float | None = 5) -> Any:
    return step(client.bus.ask(QUESTION, timeout))


def test_nobody_answers_at_once_and_nothing_is_started(client: Client, on_loop: Runner) -> None:
    assert ask_blocking(client) is NOBODY
    assert on_loop(lambda: client.bus.ask(QUESTION)) is NOBODY
    assert not NOBODY
    assert not client.stats()["hub_running"]


def answer_forms() -> dict[str, Callable[[Request], Any]]:
    def plain(request: Request) -> str:
        return f"{request.name} {threading.current_thread().name == 'actguard-hub'}"

    async def coroutine(request: Request) -> str:
        await asyncio.sleep(0)
        return f"{request.name} {threading.current_thread().name == 'actguard-hub'}"

    async def two(_: int, request: Request) -> str:
        return await coroutine(request)

    class Callee:
        async def __call__(self, request: Request) -> str:
            return await coroutine(request)

    return {"plain": plain, "coroutine": coroutine, "partial": functools.partial(two, 1), "object": Callee()}


@pytest.mark.parametrize("form", list(answer_forms()))
def test_an_answer_comes_from_any_form_of_answerer(form: str, client: Client, on_loop: Runner) -> None:
    client.bus.add_answerer(answer_forms()[form], ApprovalRequested)
    expected = f"approval_requested {form != 'plain'}"
    assert ask_blocking(client) == expected
    assert on_loop(lambda: client.bus.ask(QUESTION, 5)) == expected


@pytest.mark.parametrize("error", [LookupError("no"), SystemExit(3), KeyboardInterrupt()])
def test_an_error_of_the_answerer_is_raised_where_it_was_asked_and_the_hub_lives_on(
    error: BaseException, client: Client, on_loop: Runner
) -> None:
    async def failing(_: Request) -> None:
        raise error

    def failing_too(_: Request) -> None:
        raise error

    for answerer in (failing, failing_too):
        client.bus.add_answerer(answerer, ApprovalRequested)
        with pytest.raises(type(error)):
            ask_blocking(client)
        with pytest.raises(type(error)):
            on_loop(lambda: client.bus.ask(QUESTION, 5))
        client.bus.remove_answerer(ApprovalRequested)
    client.bus.add_answerer(lambda _: "alive", ApprovalRequested)
    assert ask_blocking(client) == "alive"


class Slow:
    """An answerer that begins, waits for the test, and notes how it ended."""

    def __init__(self) -> None:
        self.begun, self.gate, self.undone = threading.Event(), threading.Event(), threading.Event()
        self.log: list[Any] = []

    async def __call__(self, _: Request) -> str:
        self.begun.set()
        await anyio.to_thread.run_sync(self.gate.wait, 10)
        self.log.append("answered")
        return "granted"

    async def undo(self, request: Request, answer: Any) -> None:
        self.log.append(("undone", request.id, answer, threading.current_thread().name))
        self.undone.set()

    def undo_plainly(self, request: Request, answer: Any) -> None:
        self.log.append(("undone", request.id, answer, ""))
        self.undone.set()


@pytest.mark.parametrize("undo", ["undo", "undo_plainly"])
def test_an_answer_that_comes_after_the_timeout_is_undone(undo: str, client: Client, on_loop: Runner) -> None:
    for ask in (lambda: ask_blocking(client, 0.01), lambda: on_loop(lambda: client.bus.ask(QUESTION, 0.01))):
        slow = Slow()
        client.bus.add_answerer(slow, ApprovalRequested, undo=getattr(slow, undo))
        with pytest.raises(TimeoutError):
            ask()
        slow.gate.set()
        assert slow.undone.wait(10)
        assert slow.log[0] == "answered"
        assert slow.log[1][:3] == ("undone", QUESTION.id, "granted")
        client.bus.remove_answerer(ApprovalRequested)


def test_cancelling_the_one_who_asks_does_not_cancel_the_work_and_it_is_undone(client: Client, on_loop: Runner) -> None:
    slow = Slow()
    client.bus.add_answerer(slow, ApprovalRequested, undo=slow.undo)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.bus.ask, QUESTION, 5)
            await anyio.to_thread.run_sync(slow.begun.wait, 10)
            tasks.cancel_scope.cancel()
        slow.gate.set()
        await anyio.to_thread.run_sync(slow.undone.wait, 10)

    on_loop(main)
    assert slow.log[0] == "answered"
    assert slow.log[1][3] == "actguard-hub"


def test_an_answer_and_a_cancellation_at_the_same_time_undo_on_the_hub(client: Client) -> None:
    """The answer is there, and the one who asked is cancelled before it sees it."""
    slow = Slow()

    async def main() -> None:
        client.bus.add_answerer(slow, ApprovalRequested, undo=slow.undo)
        asking = asyncio.create_task(client.bus.ask(QUESTION, 5))
        await asyncio.sleep(0)  # it waits now
        slow.gate.set()
        until(lambda: slow.log == ["answered"])  # this loop stands still meanwhile
        done_on_hub(client)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(main())
    assert slow.undone.wait(10)
    assert slow.log[1] == ("undone", QUESTION.id, "granted", "actguard-hub")


def done_on_hub(client: Client) -> None:
    """Wait until the hub has come round once."""
    done = threading.Event()
    client._hub.call_soon(done.set)
    assert done.wait(10)


@pytest.mark.parametrize("form", ["plain", "coroutine"])
def test_a_failing_undo_is_warned_about_and_replaces_no_error(form: str, client: Client) -> None:
    slow = Slow()

    def plain(request: Request, answer: Any) -> None:
        slow.undone.set()
        raise LookupError("bug in undo")

    async def coroutine(request: Request, answer: Any) -> None:
        plain(request, answer)

    client.bus.add_answerer(slow, ApprovalRequested, undo={"plain": plain, "coroutine": coroutine}[form])
    with pytest.raises(TimeoutError):
        ask_blocking(client, 0.01)

    def wait_for_the_undo() -> None:
        slow.gate.set()
        slow.undone.wait(10)
        until(lambda: client.bus._reported)
        done_on_hub(client)

    with pytest.warns(ActGuardMonitoringWarning, match="LookupError"):
        wait_for_the_undo()


def test_a_watcher_of_requests_sees_them_and_answers_nothing(client: Client) -> None:
    with client.bus.subscribe(ApprovalRequested) as requests, client.bus.subscribe() as events:
        assert client.bus.concerns(ApprovalRequested)
        assert not client.bus.answers(ApprovalRequested)
        assert ask_blocking(client) is NOBODY
        assert [request.id for request in requests.pending()] == [QUESTION.id]
        assert events.pending() == []


def test_closing_the_client_answers_those_who_still_wait(on_loop: Runner) -> None:
    for blocking in (True, False):
        client, slow = Client(budget_timeout_s=0.01, event_timeout_s=0.01), Slow()
        client.bus.add_answerer(slow, ApprovalRequested)
        closing = threading.Thread(target=lambda client=client, slow=slow: (slow.begun.wait(10), client.close()))
        closing.start()
        with pytest.raises(TimeoutError, match="closed"):
            ask_blocking(client, 10) if blocking else on_loop(lambda client=client: client.bus.ask(QUESTION, 10))
        closing.join()
        slow.gate.set()
        assert ask_blocking(client) is NOBODY


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((1, ApprovalRequested), "function"),
        ((print,), "kinds"),
        ((print, RunStart), "kinds"),
        ((print, ApprovalRequested, int), "kinds"),
        ((print, SettleRequested, ReserveRequested), "kinds"),
    ],
)
def test_wrong_arguments_of_add_answerer_are_named_and_register_nothing(
    arguments: tuple[Any, ...], field: str, client: Client
) -> None:
    client.bus.add_answerer(print, ReserveRequested)
    with pytest.raises(ActGuardUsageError) as caught:
        client.bus.add_answerer(*arguments)
    assert caught.value.field == field
    assert not client.bus.answers(ApprovalRequested)
    assert not client.bus.answers(SettleRequested)


def test_an_undo_that_cannot_be_called_is_refused(client: Client) -> None:
    with pytest.raises(ActGuardUsageError) as caught:
        client.bus.add_answerer(print, ApprovalRequested, undo=1)  # type: ignore[arg-type]
    assert caught.value.field == "undo"


def test_waiting_for_the_hub_on_the_hub_with_a_plain_with_is_a_clear_error(client: Client) -> None:
    errors: list[BaseException] = []
    client.bus.add_answerer(lambda _: True, ApprovalRequested)

    async def handle(_: Event) -> None:
        assert await client.bus.ask(QUESTION, 5) is True
        try:
            ask_blocking(client)
        except RuntimeError as error:
            errors.append(error)

    client.bus.add_handler(handle, CustomEvent)
    client.bus.publish(note("x"))
    assert client.flush()
    assert "async with" in str(errors[0])


def test_many_ask_at_once_from_everywhere(client: Client, on_loop: Runner) -> None:
    async def echo(request: Any) -> str:
        await asyncio.sleep(0)
        return str(request.tool_name)

    client.bus.add_answerer(echo, ApprovalRequested)
    got: list[bool] = []

    async def ask(number: int) -> None:
        answer = await client.bus.ask(ApprovalRequested(tool_name=str(number)), 10)
        got.append(answer == str(number))

    def ask_in_thread(number: int) -> None:
        got.append(step(client.bus.ask(ApprovalRequested(tool_name=str(number)), 10)) == str(number))

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(ask, number)
                tasks.start_soon(anyio.to_thread.run_sync, ask_in_thread, number)

    on_loop(main)
    assert got == [True] * 200
