"""Events on their way to the gateway: batches, order, back-pressure, flush, close, and the end of the process."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from gateway_tools import PATIENT, Caller, client_of, recorded

import actguard
from actguard.events import BudgetReserved, CustomEvent, Event, RunStart, ToolFailure, ToolInvoke
from actguard.scope import step
from actguard.testing.gateway import Fault, LoopbackGateway

BATCHED = {"flush_interval_ms": 60_000}
"""Batches go out when they are full, or when somebody flushes."""


@pytest.fixture
def gateway() -> Iterator[LoopbackGateway]:
    with LoopbackGateway() as gateway:
        yield gateway


@pytest.fixture
def make(gateway: LoopbackGateway) -> Iterator[Callable[..., actguard.Client]]:
    clients: list[actguard.Client] = []

    def client(**settings: Any) -> actguard.Client:
        clients.append(client_of(gateway, **settings))
        return clients[-1]

    yield client
    with recorded():  # what is left over was to be expected
        gateway.__exit__(None, None, None)  # nobody waits for answers that will not come
        for each in clients:
            each.close()


Make = Callable[..., actguard.Client]


def note(number: int, size: int = 0) -> CustomEvent:
    return CustomEvent(category="test", name="note", payload={"number": number, "text": "x" * size})


def numbers(gateway: LoopbackGateway) -> list[int]:
    return [event["payload"]["number"] for event in gateway.events if event["category"] == "test"]


def kinds(gateway: LoopbackGateway) -> list[str]:
    return [f"{event['category']}.{event['name']}" for event in gateway.events]


# --- batches ----------------------------------------------------------------------------------------------------------


def test_a_batch_goes_out_when_it_has_its_number(gateway: LoopbackGateway, make: Make) -> None:
    client = make(**BATCHED, max_batch_events=10)
    for number in range(25):
        client.bus.publish(note(number))
    gateway.wait_for(lambda: len(gateway.events) == 20)
    assert [len(request.body["events"]) for request in gateway.requests] == [10, 10]
    assert client.flush()
    assert numbers(gateway) == list(range(25))


def test_a_batch_goes_out_when_it_has_its_size(gateway: LoopbackGateway, make: Make) -> None:
    client = make(**BATCHED, max_batch_bytes=5_000)
    for number in range(20):
        client.bus.publish(note(number, size=500))
    assert client.flush()
    assert numbers(gateway) == list(range(20))
    sizes = [int(request.headers["content-length"]) for request in gateway.requests]
    assert max(sizes) <= 5_000
    assert max(sizes) > 4_000  # and no smaller than it has to be
    assert all(request.headers["content-length"] == str(len(json.dumps(request.body, separators=(",", ":"))))
               for request in gateway.requests)  # fmt: skip


@pytest.mark.parametrize("slack", range(4))
def test_the_bound_is_that_of_the_whole_body(slack: int, gateway: LoopbackGateway, make: Make) -> None:
    with client_of(gateway, **BATCHED) as other:
        other.bus.publish(note(1))
        other.bus.publish(note(1))
    (probe,) = gateway.requests
    client = make(**BATCHED, max_batch_bytes=int(probe.headers["content-length"]) - slack)
    client.bus.publish(note(1))
    client.bus.publish(note(1))
    assert client.flush()
    assert len(gateway.requests) == 1 + (1 if slack == 0 else 2)


def test_a_batch_goes_out_when_its_time_has_come(gateway: LoopbackGateway, make: Make) -> None:
    client = make(flush_interval_ms=20)
    client.bus.publish(note(1))
    gateway.wait_for(lambda: gateway.events)


def test_an_event_that_is_too_large_by_itself_is_dropped_and_said(gateway: LoopbackGateway, make: Make) -> None:
    client = make(max_batch_bytes=2_000)
    with recorded() as warned:
        for number, size in ((1, 0), (2, 5_000), (3, 0)):
            client.bus.publish(note(number, size))
        assert client.flush()
    assert numbers(gateway) == [1, 3]
    assert client.stats()["events_dropped"] == 1
    assert [(each.operation, each.failure_kind) for each in warned] == [("export", "too_large")]


def test_order_is_kept_over_failures_and_threads(gateway: LoopbackGateway, make: Make) -> None:
    gateway.fail("events", Fault(status=503), times=2)
    gateway.fail("events", Fault(reset=True), times=1)
    client = make(max_batch_events=7, event_max_retries=8)
    threads = [
        threading.Thread(target=lambda base=base: [client.bus.publish(note(base + n)) for n in range(100)])
        for base in (0, 1000, 2000)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.flush()
    for base in (0, 1000, 2000):
        assert [each for each in numbers(gateway) if base <= each < base + 1000] == list(range(base, base + 100))


def test_a_batch_that_was_accepted_before_its_answer_was_lost_counts_once(gateway: LoopbackGateway, make: Make) -> None:
    gateway.fail("events", Fault(reset=True, effect=True), times=2)
    client = make(**BATCHED)
    for number in range(5):
        client.bus.publish(note(number))
    assert client.flush()
    assert len(gateway.requests) == 3
    assert len({request.key for request in gateway.requests}) == 1
    assert numbers(gateway) == list(range(5))


def test_retry_after_is_honoured(gateway: LoopbackGateway, make: Make) -> None:
    gateway.fail("events", Fault(status=429, headers={"Retry-After": "0.2"}), times=1)
    client = make(flush_interval_ms=1)
    client.bus.publish(note(1))
    gateway.wait_for(lambda: len(gateway.requests) == 2)
    assert gateway.requests[1].at - gateway.requests[0].at >= 0.2


def test_after_a_batch_was_dropped_the_next_one_goes_out(gateway: LoopbackGateway, make: Make) -> None:
    gateway.fail("events", Fault(status=422), times=1)
    client = make(max_batch_events=2)
    with recorded() as warned:
        for number in range(4):
            client.bus.publish(note(number))
        assert client.flush()
    assert numbers(gateway) == [2, 3]
    assert (client.stats()["events_dropped"], client.stats()["events_exported"]) == (2, 2)
    assert [(each.failure_kind, each.status_code) for each in warned] == [("rejected", 422)]


# --- which events -----------------------------------------------------------------------------------------------------


def publish_some(client: actguard.Client) -> None:
    with client.run(run_id="r"):
        client.bus.publish(note(1))
        client.bus.publish(ToolFailure(error_type="E"))
        client.bus.publish(BudgetReserved(reserve_id="r"))
    assert client.flush()


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("off", []),
        ("significant", ["run.start", "tool.failure", "run.end"]),
        ("verbose", ["run.start", "test.note", "tool.failure", "run.end"]),
    ],
)
def test_the_mode_says_what_is_exported(mode: str, expected: list[str], gateway: LoopbackGateway, make: Make) -> None:
    publish_some(make(event_mode=mode))
    assert kinds(gateway) == expected


def test_without_a_gateway_nothing_is_exported_and_no_thread_started() -> None:
    for half in ({}, {"gateway_url": "http://127.0.0.1:1"}, {"api_key": "k"}):
        with recorded() as warned, actguard.Client(**half) as client:
            publish_some(client)
            with client.run(), client.budget_guard(usd_limit=1):
                pass
            assert not any(thread.name.startswith("actguard-hub") for thread in threading.enumerate())
            assert client.stats()["events_waiting"] == 0
        assert warned == []


def test_the_gate_of_tool_runs_is_read_at_the_time_of_the_event(
    gateway: LoopbackGateway, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make(**BATCHED)
    for value in ("1", "0", "yes", "off"):
        monkeypatch.setenv("ACTGUARD_EMIT_ALL_TOOL_RUNS", value)
        client.bus.publish(ToolInvoke(tool_name=f"m:{value}"))
    monkeypatch.delenv("ACTGUARD_EMIT_ALL_TOOL_RUNS")
    assert client.flush()
    assert [event["tool_name"] for event in gateway.events] == ["m:1", "m:yes"]


def test_an_event_that_cannot_be_put_into_an_envelope_costs_only_itself(gateway: LoopbackGateway, make: Make) -> None:
    class Hostile(dict[str, Any]):
        def items(self) -> Any:
            raise RuntimeError("no")

    client = make()
    with recorded() as warned:
        client.bus.publish(CustomEvent.model_construct(category="test", name="note", payload=Hostile(number=1)))
        client.bus.publish(CustomEvent(category="test", name="note", payload={"number": 2, "inner": {"a": {1, 2}}}))
        assert client.flush()
    assert 2 in numbers(gateway)
    assert len(warned) <= 1


def test_answers_in_pieces_that_nobody_needs_do_not_cost_their_connection(gateway: LoopbackGateway, make: Make) -> None:
    gateway.fail("events", Fault(drip_s=0.001))
    client = make(max_batch_events=10)
    for number in range(50):
        client.bus.publish(note(number))
    assert client.flush()
    assert len(gateway.requests) >= 5
    assert gateway.connections == 1


# --- back-pressure ----------------------------------------------------------------------------------------------------


def test_a_gateway_that_does_not_keep_up_loses_the_newest_events_and_they_are_counted(
    gateway: LoopbackGateway, make: Make
) -> None:
    gateway.fail("events", Fault(hang=True), times=1)
    client = make(max_queue_events=20, max_batch_events=5, event_timeout_s=30.0)
    with recorded() as warned:
        for number in range(5):
            client.bus.publish(note(number))
        gateway.wait_for(lambda: gateway.requests)  # the first batch is on its way, and stays there
        for number in range(5, 200):
            client.bus.publish(note(number))
            assert step(client.bus.aflush(20))  # each event is taken before the next comes
        assert client.stats()["events_waiting"] == 20
        assert client.stats()["events_dropped"] == 180
    assert [each.failure_kind for each in warned] == ["queue_full"]


def test_publishing_never_waits_for_the_gateway(gateway: LoopbackGateway, make: Make) -> None:
    gateway.fail("events", Fault(hang=True))
    client = make(max_queue_events=100, event_timeout_s=30.0)
    done = threading.Event()

    def publish() -> None:
        for number in range(20_000):
            client.bus.publish(note(number))
        done.set()

    with recorded():
        threading.Thread(target=publish, daemon=True).start()
        assert done.wait(25)  # the gateway would have taken longer to time out
    assert len(gateway.requests) <= 1


# --- flush and close --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["sync", "async", "trio"])
def test_flush_waits_for_what_was_published_and_says_so(mode: str, gateway: LoopbackGateway, make: Make) -> None:
    caller, client = Caller(mode), make(**BATCHED)
    client.bus.publish(note(1))
    assert caller.flush(client)
    assert numbers(gateway) == [1]
    gateway.fail("events", Fault(hang=True), times=1)
    client.bus.publish(note(2))
    assert not caller.flush(client, 0.05)
    assert client.stats()["events_waiting"] == 1


def test_flush_cuts_the_pause_of_a_retry_short(gateway: LoopbackGateway, make: Make) -> None:
    gateway.fail("events", Fault(status=503), times=1)
    client = make(backoff_base_ms=60_000, backoff_max_ms=60_000, flush_interval_ms=1)
    client.bus.publish(note(1))
    gateway.wait_for(lambda: gateway.requests)
    assert client.flush(20)
    assert numbers(gateway) == [1]


def test_close_delivers_what_is_queued_run_end_included(gateway: LoopbackGateway, make: Make) -> None:
    client = make(**BATCHED)
    with client.run():
        client.bus.publish(note(1))
    client.close()
    assert kinds(gateway) == ["run.start", "test.note", "run.end"]
    client.close()
    assert client.stats()["events_exported"] == 3


async def test_aclose_delivers_too_and_does_not_block_the_loop(gateway: LoopbackGateway, make: Make) -> None:
    gateway.delay_s = 0.1
    client = make(**BATCHED)
    async with client.run():
        pass
    closing = asyncio.create_task(client.aclose())
    ticks = 0
    while not closing.done():
        await asyncio.sleep(0.005)
        ticks += 1
    assert ticks > 5
    assert kinds(gateway) == ["run.start", "run.end"]


@pytest.mark.parametrize("fault", [Fault(hang=True), Fault(status=503), Fault(drip_s=0.05, status=500), "refused"])
def test_close_ends_in_time_and_says_what_is_lost(fault: Any, gateway: LoopbackGateway, make: Make) -> None:
    client = make(**BATCHED, event_timeout_s=0.3, budget_timeout_s=0.2, event_max_retries=1000)
    with recorded() as warned, client.run(), client.budget_guard(usd_limit=1):
        if fault == "refused":
            gateway.__exit__(None, None, None)
        else:
            gateway.fail("events", fault)
            gateway.fail("settle", fault)
    started = time.monotonic()
    with recorded() as warned:
        client.close()
    assert time.monotonic() - started < 0.5 + 2  # with a watchdog's slack for a busy machine
    (lost,) = [each for each in warned if each.operation == "close"]
    assert "2 event(s) and 1 settlement(s)" in lost.summary
    assert "spool" in lost.summary


def test_close_by_a_handler_on_the_hub_does_not_hang(gateway: LoopbackGateway, make: Make) -> None:
    client, closed = make(), threading.Event()

    async def close(_: Event) -> None:
        client.close()
        closed.set()

    client.bus.add_handler(close, RunStart)
    with recorded(), client.run():
        assert closed.wait(10)


def test_a_handler_that_hangs_does_not_keep_events_from_the_gateway(gateway: LoopbackGateway, make: Make) -> None:
    never = threading.Event()
    client = make(**BATCHED, event_timeout_s=0.4, budget_timeout_s=0.4)
    client.bus.add_handler(lambda _: never.wait(20), RunStart)
    with client.run():
        pass
    client.close()
    never.set()
    assert kinds(gateway) == ["run.start", "run.end"]


def test_a_client_that_was_dropped_still_delivers(gateway: LoopbackGateway) -> None:
    client = client_of(gateway, **BATCHED)
    with client.run():
        pass
    del client
    gc.collect()
    gateway.wait_for(lambda: len(gateway.events) == 2)


# --- the end of the process -------------------------------------------------------------------------------------------


def run_script(gateway: LoopbackGateway, body: str, *options: str) -> subprocess.CompletedProcess[str]:
    """A program of its own, that may turn warnings into errors."""
    script = textwrap.dedent(
        f"""
        import sys
        import actguard
        settings = {PATIENT | BATCHED!r}
        def make(**more):
            return actguard.Client(gateway_url={gateway.url!r}, api_key={gateway.api_key!r}, **(settings | more))
        """
    ) + textwrap.dedent(body)
    command = [sys.executable, *options, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


ENDINGS = {
    "kept": "client = make()\nwith client.run(): pass\n",
    "dropped": "def main():\n    client = make()\n    with client.run(): pass\nmain()\n",
    "exit in the run": "client = make()\nwith client.run(): sys.exit(0)\n",
    "closed": "client = make()\nwith client, client.run(), client.budget_guard(): pass\n",
    "on a loop": (
        "import asyncio\nclient = make()\n"
        "async def main():\n    async with client.run(), client.budget_guard(): pass\nasyncio.run(main())\n"
    ),
    "many": "clients = [make() for _ in range(5)]\nfor client in clients[:1]:\n    with client.run(): pass\n",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_end_of_the_interpreter_delivers_and_is_clean(ending: str, gateway: LoopbackGateway) -> None:
    done = run_script(gateway, ENDINGS[ending], "-W", "error")
    assert (done.returncode, done.stderr) == (0, "")
    assert kinds(gateway) == ["run.start", "run.end"]
    assert all(len(each.settlements) == 1 for each in gateway.reservations)


def test_the_end_of_the_interpreter_is_not_held_up_by_a_gateway_that_hangs(gateway: LoopbackGateway) -> None:
    gateway.fail("events", Fault(hang=True))
    body = """
        import atexit, time
        atexit.register(lambda: print("took", time.monotonic() - began))  # runs after the client's own
        client = make(event_timeout_s=0.4, budget_timeout_s=0.3)
        with client.run(): pass
        began = time.monotonic()
        """
    done = run_script(gateway, body)
    assert done.returncode == 0
    assert float(done.stdout.split()[1]) < 0.7 + 2  # with a watchdog's slack for a busy machine
    assert "2 event(s) could not be delivered" in done.stderr


def test_a_name_look_up_that_hangs_does_not_hold_up_the_end(gateway: LoopbackGateway) -> None:
    body = """
        import socket, threading
        socket.getaddrinfo = lambda *_, **__: threading.Event().wait()
        client = make(gateway_url="http://gateway.test:1", allow_insecure_gateway=True,
                      event_timeout_s=0.2, budget_timeout_s=0.2)
        with client.run(), client.budget_guard(): pass
        """
    body = body.replace("make(gateway_url=", "actguard.Client(api_key='k', gateway_url=")
    done = run_script(gateway, body)
    assert done.returncode == 0
    assert "could not be delivered" in done.stderr


def test_aiohttp_is_loaded_for_a_gateway_only(gateway: LoopbackGateway) -> None:
    body = """
        with actguard.Client() as client, client.run(), client.budget_guard(): pass
        assert "aiohttp" not in sys.modules
        with make() as client, client.run(), client.budget_guard(): pass
        assert "aiohttp" in sys.modules
        """
    done = run_script(gateway, body)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_forked_child_has_a_life_of_its_own(gateway: LoopbackGateway) -> None:
    body = """
        import os, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking a process that has threads
        client = make()
        client.bus.publish(actguard.events.CustomEvent(category="test", name="note", payload={"number": 1}))
        child = os.fork()
        if child == 0:
            with client.run(run_id="child"), client.budget_guard(usd_limit=1): pass
            client.close()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with client.run(run_id="parent"), client.budget_guard(usd_limit=1): pass
        client.close()
        """
    done = run_script(gateway, body)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(event["run_id"] or "" for event in gateway.events) == ["", "child", "child", "parent", "parent"]
    ids = [event["id"] for request in gateway.received("events") for event in request.body["events"]]
    assert len(ids) == len(set(ids)) == 5  # what the parent had queued was not sent by the child
    assert [len(each.settlements) for each in gateway.reservations] == [1, 1]


def test_a_forked_child_does_not_settle_what_its_parent_reserved(gateway: LoopbackGateway) -> None:
    body = """
        import os, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking a process that has threads
        warnings.showwarning = lambda message, *_: print(message.error.failure_kind)
        client = make()
        with client.run(), client.budget_guard(usd_limit=1):
            child = os.fork()
            actguard.add_cost("search", usd="0.02" if child else "0.01")
            if child:
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with client.run(), client.budget_guard(usd_limit=1): pass
        client.close()
        """
    done = run_script(gateway, body)
    assert (done.returncode, done.stdout, done.stderr) == (0, "forked\n", "")
    first, *others = gateway.reservations
    assert [[each["cost_cu"] for each in settled["usage_breakdown"]] for settled in first.settlements] == [[20]]
    assert [len(each.settlements) for each in others] == [1, 1]
