"""The client as a whole: its life, its thread, and what it costs to have one."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from typing import Any

import pytest
from calls import charged
from conftest import Runner, until
from scripts import output_of
from settling import Books

from actguard import context
from actguard.client import Client
from actguard.events import CustomEvent, Event, RunEnd, RunStart
from actguard.exceptions import ActGuardUsageError
from actguard.money.own_prices import Price

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def hub_threads() -> int:
    return sum(thread.name == "actguard-hub" for thread in threading.enumerate())


def note(text: str) -> CustomEvent:
    return CustomEvent(category="test", name=text)


# --- opening and closing --------------------------------------------------------------------------------------------


def test_both_forms_close_it(on_loop: Runner) -> None:
    with Client() as client:
        assert "closed" not in repr(client)
    assert "closed" in repr(client)

    async def main() -> Client:
        async with Client() as client:
            client.bus.add_handler(print, RunStart)
        return client

    client = on_loop(main)
    assert "closed" in repr(client)
    assert not client.stats()["hub_running"]


def test_closing_twice_and_from_many_threads_is_closing_once() -> None:
    client = Client()
    client.bus.add_handler(print, RunStart)
    threads = [threading.Thread(target=client.close) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    client.close()
    asyncio.run(client.aclose())
    assert not client.stats()["hub_running"]


@pytest.mark.parametrize("use", ["run", "budget_guard", "__enter__"])
def test_a_closed_client_opens_nothing(use: str) -> None:
    client = Client()
    client.close()
    with pytest.raises(ActGuardUsageError, match="closed") as caught:
        getattr(client, use)()
    assert caught.value.field == "client"
    with pytest.raises(ActGuardUsageError, match="closed"):
        asyncio.run(client.__aenter__())


def test_the_body_s_exception_goes_through() -> None:
    with pytest.raises(LookupError), Client():
        raise LookupError


def test_a_run_can_be_left_after_the_client_is_closed(client: Client) -> None:
    other = Client(prices={"*": Price(input_per_mtok=1, output_per_mtok=1)})
    with other.run(), other.budget_guard(usd_limit=1) as budget:
        other.close()
        charged(budget, 5)
    assert budget.tokens_used == 5
    assert (context.active_run(), context.active_budget()) == (None, None)


def test_closing_delivers_what_is_queued() -> None:
    seen: list[str] = []
    client = Client()
    client.bus.add_handler(lambda event: seen.append(event.name), CustomEvent)
    for number in range(1000):
        client.bus.publish(note(str(number)))
    client.close()
    assert seen == [str(number) for number in range(1000)]


def test_closing_from_a_handler_ends_it(on_loop: Runner) -> None:
    for close in ("close", "aclose"):
        client = Client(event_timeout_s=0.05, budget_timeout_s=0.05)

        async def handle(_: Event, client: Client = client, close: str = close) -> None:
            result: Any = getattr(client, close)()
            if result is not None:
                await result

        client.bus.add_handler(handle, CustomEvent)
        client.bus.publish(note("x"))
        until(lambda client=client: not client.stats()["hub_running"])
        client.close()


# --- flush ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan"), "1", True, float("inf"), [1], 10**400])
def test_a_wrong_timeout_of_flush_is_named(timeout: Any, client: Client, on_loop: Runner) -> None:
    for flush in (lambda: client.flush(timeout), lambda: on_loop(lambda: client.aflush(timeout))):
        with pytest.raises(ActGuardUsageError) as caught:
            flush()
        assert caught.value.field == "timeout"


@pytest.mark.parametrize("timeout", [0, 0.5, 3, 1e300, None])
def test_any_time_to_flush_is_taken(timeout: float | None, client: Client, on_loop: Runner) -> None:
    client.bus.add_handler(print, RunStart)
    assert client.flush()
    assert client.flush(timeout) or timeout == 0
    assert on_loop(lambda: client.aflush(timeout)) or timeout == 0


# --- clients that are dropped ---------------------------------------------------------------------------------------


def test_a_local_client_has_no_thread_and_starts_none(client: Client) -> None:
    before = threading.active_count(), hub_threads()
    with client.bus.subscribe(RunEnd) as events:
        with client.run(), client.budget_guard(usd_limit=1) as budget:
            charged(budget, 5)
        assert client.flush()
    assert len(events.pending()) == 1
    started = {thread.name for thread in threading.enumerate()} - {"actguard-prices"}
    assert "actguard-hub" not in started or before[1]
    assert hub_threads() == before[1]
    assert not client.stats()["hub_running"]


def test_a_client_that_is_dropped_delivers_and_ends_its_thread() -> None:
    before = hub_threads()
    seen: list[str] = []
    client = Client()
    client.bus.add_handler(lambda event: seen.append(event.name), CustomEvent)
    for number in range(100):
        client.bus.publish(note(str(number)))
    assert hub_threads() == before + 1
    del client
    gc.collect()
    until(lambda: hub_threads() == before)
    assert len(seen) == 100


def test_a_dropped_client_without_a_thread_is_just_gone() -> None:
    import weakref

    gone = weakref.ref(Client())
    gc.collect()
    assert gone() is None


def test_a_run_keeps_its_client_alive(on_loop: Runner) -> None:
    """``async with Client(…).run()``: nobody else holds the client."""
    books: list[Books] = []

    def make() -> Client:
        client = Client(prices={"*": Price(input_per_mtok=1, output_per_mtok=1)})
        books.append(Books(client))
        return client

    async def main() -> None:
        client = make()
        guard = client.budget_guard(usd_limit=1)
        async with client.run():
            del client
            gc.collect()
            async with guard:
                charged(guard, 5)
                gc.collect()

    on_loop(main)
    assert (len(books[0].reserved), books[0].open) == (1, set())


# --- processes ------------------------------------------------------------------------------------------------------


@needs_fork
def test_a_forked_child_has_a_hub_of_its_own() -> None:
    lines = output_of(
        """
        import os, sys
        from actguard.client import Client
        from actguard.events import CustomEvent
        client = Client()
        client.bus.add_handler(lambda event: print(f"{event.name} {os.getpid() == parent}", flush=True), CustomEvent)
        parent = os.getpid()
        client.bus.publish(CustomEvent(category="t", name="before"))
        assert client.flush()
        child = os.fork()
        name = "parent" if child else "child"
        client.bus.publish(CustomEvent(category="t", name=name))
        assert client.flush()
        if child:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            client.bus.publish(CustomEvent(category="t", name="after"))
        """,
        "-Wignore::DeprecationWarning",
    )
    assert lines[0] == "before True"
    assert sorted(lines[1:3]) == ["child False", "parent True"]
    assert lines[3:] == ["after True"]


@needs_fork
def test_a_forked_child_asks_in_its_own_process() -> None:
    lines = output_of(
        """
        import os
        from actguard.client import Client
        from actguard.events import ReserveRequested, Reserved, SettleRequested
        def answer(request):
            print(request.name, os.getpid() == parent, flush=True)
            return Reserved(reserve_id="r")
        parent = os.getpid()
        client = Client()
        client.bus.add_answerer(answer, ReserveRequested, SettleRequested)
        with client.run(), client.budget_guard():
            pass
        child = os.fork()
        if child == 0:
            with client.run(), client.budget_guard():
                pass
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        """,
        "-Wignore::DeprecationWarning",
    )
    assert lines == [f"{name} {here}" for here in (True, False) for name in ("reserve_requested", "settle_requested")]


@needs_fork
def test_subscriptions_of_other_threads_stay_with_the_parent() -> None:
    lines = output_of(
        """
        import asyncio, os, threading
        from actguard.client import Client
        from actguard.events import CustomEvent
        client = Client()
        ready, over = threading.Event(), threading.Event()
        async def read():
            async with client.bus.subscribe(CustomEvent, queue_size=3) as events:
                ready.set()
                async for event in events:
                    print("parent read", event.name, flush=True)
                    return
        thread = threading.Thread(target=lambda: asyncio.run(read()))
        thread.start()
        ready.wait()
        child = os.fork()
        if child == 0:
            for number in range(100):
                client.bus.publish(CustomEvent(category="t", name=str(number)))
            print("child", client.stats()["subscriptions"], client.stats()["events_dropped"], flush=True)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        client.bus.publish(CustomEvent(category="t", name="mine"))
        thread.join()
        """,
        "-Wignore::DeprecationWarning",
    )
    assert lines == ["child 0 0", "parent read mine"]


def test_what_is_queued_is_delivered_at_exit() -> None:
    lines = output_of(
        """
        from actguard.client import Client
        from actguard.events import CustomEvent, RunEnd
        client = Client()
        client.bus.add_handler(lambda event: print("plain", event.name, flush=True), RunEnd)
        async def handle(event):
            print("coroutine", event.name, flush=True)
        client.bus.add_handler(handle, RunEnd)
        with client.run():
            pass
        """
    )
    assert sorted(lines) == ["coroutine end", "plain end"]


def test_a_plain_handler_is_called_for_the_first_time_at_exit() -> None:
    """No thread can be started at the exit of newer interpreters."""
    lines = output_of(
        """
        import atexit
        from actguard.client import Client
        from actguard.events import CustomEvent
        client = Client()
        client.bus.add_handler(lambda event: print("handled", event.name, flush=True), CustomEvent)
        atexit.register(lambda: client.bus.publish(CustomEvent(category="t", name="late")))
        """
    )
    assert lines == ["handled late"]


@pytest.mark.parametrize("form", ["plain", "coroutine", "blocking coroutine"])
def test_a_handler_that_hangs_does_not_hold_up_the_exit(form: str) -> None:
    lines = output_of(
        f"""
        import asyncio, threading
        from actguard.client import Client
        from actguard.events import CustomEvent
        client = Client(event_timeout_s=0.1, budget_timeout_s=0.1)
        begun = threading.Event()
        def plain(event):
            begun.set()
            threading.Event().wait()
        async def coroutine(event):
            begun.set()
            await asyncio.Event().wait()
        async def blocking_coroutine(event):
            plain(event)
        client.bus.add_handler({form.replace(" ", "_")}, CustomEvent)
        client.bus.publish(CustomEvent(category="t", name="x"))
        begun.wait()
        print("end of the script", flush=True)
        """
    )
    assert lines == ["end of the script"]


def test_a_script_may_end_inside_its_scopes() -> None:
    """A generator or an exit stack that is still open when the interpreter goes down."""
    output_of(
        """
        from actguard.client import Client
        from actguard.events import RunEnd
        client = Client()
        client.bus.add_handler(lambda event: None, RunEnd)
        run = client.run()
        run.__enter__()
        budget = client.budget_guard(usd_limit=1)
        budget.__enter__()
        """
    )


# --- what it costs --------------------------------------------------------------------------------------------------

SDKS = ("openai", "anthropic", "google.genai")
HEAVY = (*SDKS, "aiohttp", "pydantic", "genai_prices", "sqlite3", "anyio", "asyncio", "trio")


def test_importing_actguard_imports_nothing_heavy() -> None:
    lines = output_of(
        f"""
        import sys
        import actguard
        print([name for name in {HEAVY!r} if name in sys.modules])
        actguard.ActGuardError, actguard.GuardError
        print([name for name in {HEAVY!r} if name in sys.modules])
        """
    )
    assert lines == ["[]", "[]"]


def test_a_local_client_imports_no_sdk_and_a_scope_starts_only_the_price_loader() -> None:
    lines = output_of(
        f"""
        import sys, threading
        import actguard
        client = actguard.Client()
        unwanted = (*{SDKS!r}, "aiohttp", "sqlite3")
        print([name for name in unwanted if name in sys.modules], "genai_prices" in sys.modules)
        print(sorted(thread.name for thread in threading.enumerate()))
        started = []
        start = threading.Thread.start
        threading.Thread.start = lambda self: (started.append(self.name), start(self))
        with client.run(), client.budget_guard(usd_limit=1) as budget:
            actguard.add_cost("x", 1e-6)
            with client.budget_guard():
                pass
        print([name for name in unwanted if name in sys.modules])
        print(started)
        """
    )
    assert lines == ["[] False", "['MainThread']", "[]", "['actguard-prices']"]


def test_building_no_event_that_nobody_wants(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    init = Event.__init__

    def counting(self: Event, **facts: Any) -> None:
        built.append(type(self).__name__)
        init(self, **facts)

    monkeypatch.setattr(Event, "__init__", counting)
    with client.run(), client.budget_guard(token_limit=5) as budget, pytest.raises(Exception, match="used up"):
        charged(budget, 5)
    assert built == []
    with client.bus.subscribe(RunStart), client.run():
        pass
    assert built == ["RunStart"]
