"""Subscriptions on asyncio, trio and in threads: typed, bounded, and no trouble to anybody when they go."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest
from conftest import Runner, until

from actguard.client import Client
from actguard.events import (
    ApprovalRequested,
    BudgetBlocked,
    BudgetLimitExceeded,
    CustomEvent,
    Event,
    LlmUsage,
    Request,
    RunEnd,
    RunStart,
    ScopedEvent,
)
from actguard.exceptions import ActGuardMonitoringWarning, ActGuardUsageError
from actguard.subscription import Subscription


def note(text: str) -> CustomEvent:
    return CustomEvent(category="test", name=text)


def names(events: list[Any]) -> list[str]:
    return [event.name for event in events]


def publish_many(client: Client, prefix: str, count: int) -> None:
    for number in range(count):
        client.bus.publish(note(f"{prefix}{number}"))


def elsewhere(work: Callable[[], Any]) -> None:
    """Do ``work`` in a thread of its own, to its end."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def call(work: Callable[[], Any]) -> None:
    work()


# --- what arrives ---------------------------------------------------------------------------------------------------


def test_in_a_script_events_arrive_in_order(client: Client) -> None:
    with client.bus.subscribe() as events:
        publish_many(client, "", 5)
        assert names(events.pending()) == ["0", "1", "2", "3", "4"]
        assert events.pending() == []


def test_iterating_in_a_thread_ends_when_the_subscription_is_left(client: Client) -> None:
    with client.bus.subscribe() as events:
        publish_many(client, "", 3)
    publish_many(client, "too late ", 1)
    assert names(list(events)) == ["0", "1", "2"]
    assert list(events) == []
    assert events.pending() == []


def test_iterating_blocks_until_something_arrives(client: Client) -> None:
    seen: list[str] = []
    with client.bus.subscribe() as events:
        reader = threading.Thread(target=lambda: seen.extend(event.name for event in events))
        reader.start()
        publish_many(client, "", 2)
        until(lambda: seen == ["0", "1"])
    reader.join(10)
    assert not reader.is_alive()


def test_several_threads_may_read_one_subscription_and_all_of_them_end(client: Client) -> None:
    seen: list[str] = []
    with client.bus.subscribe() as events:
        readers = [threading.Thread(target=lambda: seen.extend(e.name for e in events), daemon=True) for _ in range(4)]
        for reader in readers:
            reader.start()
        publish_many(client, "", 100)
    for reader in readers:
        reader.join(5)
    assert not any(reader.is_alive() for reader in readers)
    assert sorted(seen, key=int) == [str(number) for number in range(100)]


def test_on_a_loop_events_arrive_from_everywhere_in_each_publishers_order(client: Client, on_loop: Runner) -> None:
    async def main() -> None:
        async with client.bus.subscribe(CustomEvent) as events:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.to_thread.run_sync, publish_many, client, "thread ", 200)
                tasks.start_soon(anyio.to_thread.run_sync, run_loop_that_publishes)
                for number in range(200):
                    client.bus.publish(note(f"here {number}"))
                    if number % 7 == 0:
                        await anyio.lowlevel.checkpoint()
            seen = [event.name async for event in first(events, 600)]
        for publisher in ("thread", "here", "loop"):
            assert [name for name in seen if name.startswith(publisher)] == [f"{publisher} {n}" for n in range(200)]

    def run_loop_that_publishes() -> None:
        async def publish() -> None:
            publish_many(client, "loop ", 200)

        asyncio.run(publish())

    on_loop(main)


async def first(events: Subscription[Any], count: int) -> Any:
    async for event in events:
        yield event
        count -= 1
        if count == 0:
            return


def test_one_publisher_that_changes_threads_keeps_its_order(client: Client, on_loop: Runner) -> None:
    async def main() -> None:
        async with client.bus.subscribe(CustomEvent) as events:
            for number in range(50):
                client.bus.publish(note(f"{2 * number}"))
                await anyio.to_thread.run_sync(client.bus.publish, note(f"{2 * number + 1}"))
            await anyio.wait_all_tasks_blocked()
            assert names(events.pending()) == [str(number) for number in range(100)]

    on_loop(main)


def test_iterating_on_a_loop_ends_when_the_client_is_closed(on_loop: Runner) -> None:
    client = Client()
    seen: list[str] = []

    async def main() -> None:
        async with anyio.create_task_group() as tasks, client.bus.subscribe() as events:
            tasks.start_soon(read, events)
            publish_many(client, "", 2)
            await anyio.wait_all_tasks_blocked()
            await anyio.to_thread.run_sync(client.close)

    async def read(events: Subscription[Event]) -> None:
        async for event in events:
            seen.append(event.name)
        seen.append("end")

    on_loop(main)
    assert seen == ["0", "1", "end"]


def test_what_has_arrived_can_be_read_after_leaving(client: Client, on_loop: Runner) -> None:
    async def main() -> None:
        async with client.bus.subscribe() as events:
            publish_many(client, "", 2)
            await anyio.to_thread.run_sync(publish_many, client, "thread ", 1)
        publish_many(client, "too late ", 1)
        assert names([event async for event in events]) == ["0", "1", "thread 0"]

    on_loop(main)


@pytest.mark.filterwarnings("error")
def test_breaking_out_of_the_iteration_loses_nothing_and_warns_about_nothing(client: Client, on_loop: Runner) -> None:
    async def main() -> None:
        async with client.bus.subscribe() as events:
            publish_many(client, "", 3)
            async for event in events:
                assert event.name == "0"
                break
            gc.collect()
            await anyio.lowlevel.checkpoint()
            async for event in events:
                assert event.name == "1"
                break
            gc.collect()
            await anyio.lowlevel.checkpoint()
        assert names(events.pending()) == ["2"]

    on_loop(main)


def test_a_cancelled_reader_loses_nothing(client: Client, on_loop: Runner) -> None:
    async def main() -> None:
        async with client.bus.subscribe() as events:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anext, aiter(events))
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
            publish_many(client, "", 1)
            assert names(events.pending()) == ["0"]

    on_loop(main)


# --- which types ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ((), ["start", "usage", "blocked", "limit_exceeded", "x", "end"]),
        ((Event,), ["start", "usage", "blocked", "limit_exceeded", "x", "end"]),
        ((RunStart, RunEnd), ["start", "end"]),
        ((BudgetBlocked,), ["blocked", "limit_exceeded"]),
        ((BudgetLimitExceeded,), ["limit_exceeded"]),
        ((ScopedEvent,), ["usage", "blocked", "limit_exceeded", "x"]),
        ((Request,), ["approval_requested"]),
        ((ApprovalRequested, RunEnd), ["approval_requested", "end"]),
    ],
)
def test_a_subscription_takes_the_named_classes_and_their_subclasses(
    wanted: tuple[type[Event], ...], expected: list[str], client: Client
) -> None:
    with client.bus.subscribe(*wanted) as events:
        for event in (
            RunStart(),
            LlmUsage(provider="p", model="m"),
            BudgetBlocked(),
            BudgetLimitExceeded(),
            ApprovalRequested(tool_name="t"),
            note("x"),
            RunEnd(),
        ):
            assert client.bus.wants(type(event)) == (event.name in expected)
            client.bus.publish(event)
        assert names(events.pending()) == expected


def test_wants_follows_those_who_come_and_go(client: Client) -> None:
    assert not client.bus.wants(RunStart)
    with client.bus.subscribe(RunStart):
        assert client.bus.wants(RunStart)
        assert not client.bus.wants(RunEnd)
        with client.bus.subscribe():
            assert client.bus.wants(RunEnd)
        assert not client.bus.wants(RunEnd)
    assert not client.bus.wants(RunStart)


# --- wrong use ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [1, "RunStart", RunStart(), int, None, [RunStart]])
def test_something_that_is_no_event_class_is_refused(kind: Any, client: Client) -> None:
    with pytest.raises(ActGuardUsageError) as caught:
        client.bus.subscribe(kind)
    assert caught.value.field == "kinds"


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "9", float("inf")])
def test_a_queue_size_that_is_no_count_is_refused(size: Any, client: Client) -> None:
    for use in (
        lambda: client.bus.subscribe(queue_size=size),
        lambda: client.bus.add_handler(print, queue_size=size),
    ):
        with pytest.raises(ActGuardUsageError) as caught:
            use()
        assert caught.value.field == "queue_size"


def test_reading_it_the_other_way_is_a_clear_error(client: Client, on_loop: Runner) -> None:
    with client.bus.subscribe() as events, pytest.raises(TypeError, match="async with"):
        aiter(events)
    with pytest.raises(TypeError, match="`with`"):
        iter(client.bus.subscribe())

    async def main() -> None:
        async with client.bus.subscribe() as events:
            with pytest.raises(TypeError, match="`with`"):
                iter(events)

    on_loop(main)


def test_a_subscription_is_entered_once(client: Client) -> None:
    events = client.bus.subscribe()
    with events, pytest.raises(RuntimeError, match="once"), events:
        pass


def test_a_closed_client_takes_no_subscribers() -> None:
    client = Client()
    client.close()
    with pytest.raises(ActGuardUsageError, match="closed"), client.bus.subscribe():
        pass


# --- overflow -------------------------------------------------------------------------------------------------------


def test_a_full_queue_drops_the_newest_counts_them_and_warns_once(client: Client) -> None:
    with client.bus.subscribe(queue_size=3) as events:
        with pytest.warns(ActGuardMonitoringWarning, match="queue of 3 events is full") as caught:
            publish_many(client, "", 10)
        assert len(caught) == 1
        assert names(events.pending()) == ["0", "1", "2"]
        assert (events.dropped, client.stats()["events_dropped"]) == (7, 7)
        publish_many(client, "later ", 1)
        assert names(events.pending()) == ["later 0"]
    assert client.stats()["events_dropped"] == 7


@pytest.mark.parametrize("where", ["here", "in a thread"])
def test_a_slow_reader_on_a_loop_is_counted_too(where: str, client: Client, on_loop: Runner) -> None:
    async def main() -> None:
        async with client.bus.subscribe(queue_size=3) as events:
            start = elsewhere if where == "in a thread" else call
            with pytest.warns(ActGuardMonitoringWarning, match="is full"):
                start(lambda: publish_many(client, "", 10))
            assert names(events.pending()) == ["0", "1", "2"]
            assert client.stats()["events_dropped"] == 7

    on_loop(main)


def test_publishers_here_and_elsewhere_share_one_bound(client: Client, on_loop: Runner) -> None:
    async def main() -> None:
        async with client.bus.subscribe(queue_size=3) as events:
            publish_many(client, "here ", 2)
            with pytest.warns(ActGuardMonitoringWarning, match="is full"):
                elsewhere(lambda: publish_many(client, "thread ", 3))
            publish_many(client, "here again ", 1)
            assert names(events.pending()) == ["here 0", "here 1", "thread 0"]
            assert client.stats()["events_dropped"] == 3

    on_loop(main)


def test_one_full_subscription_costs_the_others_nothing(client: Client) -> None:
    with client.bus.subscribe(queue_size=1), client.bus.subscribe() as events:
        with pytest.warns(ActGuardMonitoringWarning):
            publish_many(client, "", 5)
        assert len(events.pending()) == 5


@pytest.mark.filterwarnings("error")
def test_warnings_that_are_errors_do_not_reach_the_publisher(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with client.bus.subscribe(queue_size=1):
        publish_many(client, "", 3)
    assert "is full" in caplog.text


# --- those who vanish -----------------------------------------------------------------------------------------------


def vanished(client: Client, size: int) -> Subscription[Event]:
    """A subscription whose loop was closed without leaving it."""
    events = client.bus.subscribe(queue_size=size)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(events.__aenter__())
    loop.close()
    return events


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("place", ["same thread", "other thread"])
def test_one_who_vanished_is_forgotten_without_a_word(
    place: str, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    events = vanished(client, size=3)
    assert client.stats()["subscriptions"] == 1
    if place == "same thread":
        publish_many(client, "", 10)
    else:
        elsewhere(lambda: publish_many(client, "", 10))
    assert client.stats()["subscriptions"] == 0
    assert not client.bus.wants(RunStart)
    assert client.stats()["events_dropped"] == 0
    assert caplog.text == ""
    events.close()


def test_one_who_vanished_while_waiting_disturbs_nobody(client: Client) -> None:
    events = client.bus.subscribe()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(events.__aenter__())
    task = loop.create_task(anext(aiter(events)))  # type: ignore[arg-type]
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    publish_many(client, "", 2)
    assert client.stats()["subscriptions"] == 0
    task._log_destroy_pending = False  # type: ignore[attr-defined]  it can never end


@pytest.mark.filterwarnings("error")
def test_a_trio_run_that_ended_without_leaving_is_forgotten(client: Client) -> None:
    events = client.bus.subscribe(queue_size=2)
    anyio.run(events.__aenter__, backend="trio")
    elsewhere(lambda: publish_many(client, "", 5))
    assert client.stats()["subscriptions"] == 0


@pytest.mark.filterwarnings("error")
def test_a_client_can_be_closed_after_a_subscriber_vanished() -> None:
    client = Client()
    vanished(client, size=3)
    publish_many(client, "", 1)
    client.close()
    gc.collect()


@pytest.mark.filterwarnings("error")
def test_a_subscription_that_was_left_is_freed_at_once_and_without_a_warning(client: Client, on_loop: Runner) -> None:
    async def main() -> None:
        for _ in range(20):
            async with client.bus.subscribe() as events:
                publish_many(client, "", 1)
            freed = weakref.ref(events)
            del events
            assert freed() is None
        gc.collect()

    on_loop(main)


# --- concurrency ----------------------------------------------------------------------------------------------------


def test_nothing_is_lost_between_many_threads_and_one_loop(client: Client, on_loop: Runner) -> None:
    async def main() -> None:
        async with client.bus.subscribe(queue_size=100_000) as events:
            async with anyio.create_task_group() as tasks:
                for thread in range(8):
                    tasks.start_soon(anyio.to_thread.run_sync, publish_many, client, f"{thread} ", 500)
            await anyio.wait_all_tasks_blocked()
            seen = names(events.pending())
        for thread in range(8):
            mine = [name for name in seen if name.startswith(f"{thread} ")]
            assert mine == [f"{thread} {number}" for number in range(500)]

    on_loop(main)


def test_subscribing_and_leaving_while_others_publish(client: Client) -> None:
    stop = threading.Event()

    def publish() -> None:
        while not stop.is_set():
            client.bus.publish(note("x"))

    publishers = [threading.Thread(target=publish) for _ in range(3)]
    for publisher in publishers:
        publisher.start()
    for _ in range(200):
        with client.bus.subscribe(CustomEvent, queue_size=1_000_000) as events:
            client.bus.publish(note("mine"))
        assert names(events.pending()).count("mine") == 1
    stop.set()
    for publisher in publishers:
        publisher.join()
    assert client.stats()["subscriptions"] == 0
