"""A client with a spool: what could not be delivered is delivered later, by this process or the next, also when a
process is killed where it stands.
"""

from __future__ import annotations

import functools
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import until
from gateway_tools import HASTY, PATIENT, client_of, recorded

import actguard
from actguard.events import CustomEvent
from actguard.testing.gateway import Fault, LoopbackGateway

KILLS = 100
WATCHDOG_S = 300
TESTS = Path(__file__).parent.parent


@pytest.fixture
def spool(tmp_path: Path) -> str:
    return str(tmp_path / "spool.db")


@pytest.fixture
def gateway() -> Iterator[LoopbackGateway]:
    with LoopbackGateway() as gateway:
        yield gateway


def one_run(client: actguard.Client) -> None:
    with client.run(), client.budget_guard(usd_limit=1):
        actguard.add_cost("step", usd="0.002")


def rows(spool: str) -> list[tuple[str, str]]:
    """(kind, key) of everything in the file."""
    with closing(sqlite3.connect(spool)) as file:
        return file.execute("SELECT kind, key FROM letters ORDER BY seq").fetchall()


def holds(spool: str, letters: int) -> bool:
    try:
        return len(rows(spool)) >= letters
    except sqlite3.OperationalError:  # it is being made
        return False


def test_what_was_delivered_leaves_nothing_behind(gateway: LoopbackGateway, spool: str) -> None:
    with client_of(gateway, spool=spool) as client:
        one_run(client)
    assert rows(spool) == []
    assert len(gateway.events) == 2
    assert len(gateway.reservations[0].settlements) == 1
    assert [name for name in os.listdir(os.path.dirname(spool)) if name.endswith(".alive")] == []


def test_what_one_client_could_not_deliver_the_next_one_does(gateway: LoopbackGateway, spool: str) -> None:
    gateway.fail("settle", Fault(status=503))
    gateway.fail("events", Fault(status=503))
    with recorded() as warned, client_of(gateway, spool=spool, budget_timeout_s=1.0, event_timeout_s=1.0) as client:
        one_run(client)
    assert "close" not in {each.operation for each in warned}  # nothing is lost
    assert sorted(kind for kind, _ in rows(spool)) == ["event", "event", "settlement"]
    before = {request.key for request in gateway.received("settle")}
    gateway.heal()
    client_of(gateway, spool=spool).close()
    assert rows(spool) == []
    assert [f"{event['category']}.{event['name']}" for event in gateway.events] == ["run.start", "run.end"]
    (settlement,) = gateway.reservations[0].settlements
    assert settlement["usage_breakdown"][0]["cost_cu"] == 2
    assert {request.key for request in gateway.received("settle")} == before


def test_closing_does_not_wait_for_a_gateway_that_is_away_when_nothing_can_be_lost(
    gateway: LoopbackGateway, spool: str
) -> None:
    with recorded():
        client = client_of(gateway, spool=spool, event_timeout_s=60.0, budget_timeout_s=60.0)
        gateway.__exit__(None, None, None)
        client.bus.publish(CustomEvent(category="test", name="note"))
        started = time.monotonic()
        client.close()
    assert time.monotonic() - started < 30
    assert [kind for kind, _ in rows(spool)] == ["event"]


def test_accounts_that_share_a_file_do_not_deliver_each_others_letters(gateway: LoopbackGateway, spool: str) -> None:
    gateway.fail("settle", Fault(status=503))
    gateway.fail("events", Fault(status=503))
    with recorded(), client_of(gateway, spool=spool) as client:
        one_run(client)
    left = rows(spool)
    assert {kind for kind, _ in left} == {"settlement", "event"}
    gateway.heal()
    with client_of(gateway, spool=spool, api_key="another-key") as other:
        assert other.flush()
        assert not any(request.authorized is False for request in gateway.requests)
    assert rows(spool) == left
    client_of(gateway, spool=spool).close()
    assert rows(spool) == []
    assert [len(each.settlements) for each in gateway.reservations] == [1]
    assert b"loopback-key" not in Path(spool).read_bytes()


def test_a_batch_is_not_dropped_after_its_last_retry(gateway: LoopbackGateway, spool: str) -> None:
    gateway.fail("events", Fault(status=500), times=10)
    with recorded() as warned, client_of(gateway, spool=spool, event_max_retries=1) as client:
        client.bus.publish(CustomEvent(category="test", name="note"))
        assert client.flush()
    assert len(gateway.events) == 1
    assert [(each.operation, each.status_code) for each in warned] == [("export", 500)]
    assert "spool" in warned[0].summary


def test_a_long_outage_needs_no_memory(gateway: LoopbackGateway, spool: str) -> None:
    gateway.fail("events", Fault(status=503))
    with recorded(), client_of(gateway, spool=spool, max_queue_events=100) as client:
        for number in range(1000):
            client.bus.publish(CustomEvent(category="test", name="note", payload={"number": number}))
            if number % 50 == 0:  # the queue in front of the file is not what is tested
                until(functools.partial(holds, spool, number + 1))
        assert client.stats()["events_dropped"] == 0
        gateway.heal()
        assert client.flush()
    assert [event["payload"]["number"] for event in gateway.events] == list(range(1000))


@pytest.mark.parametrize("fault", ["corrupt", "full", "folder"])
def test_a_spool_that_cannot_be_used_is_one_warning_and_no_loss(
    fault: str, gateway: LoopbackGateway, spool: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"spool": spool, "event_max_retries": 8}
    if fault == "corrupt":
        Path(spool).write_bytes(b"no database" * 1000)
    elif fault == "full":
        settings["spool_max_bytes"] = 65_536
    else:
        settings["spool"] = str(tmp_path / "nowhere" / "spool.db")
    gateway.fail("events", Fault(status=503), times=3)
    with recorded() as warned, client_of(gateway, **settings) as client:
        for number in range(50):
            payload = {"number": number, "text": "x" * 4000}
            client.bus.publish(CustomEvent(category="test", name="note", payload=payload))
        one_run(client)
        assert client.flush()
    notes = [event["payload"]["number"] for event in gateway.events if event["category"] == "test"]
    assert notes == list(range(50))
    assert len(gateway.reservations[0].settlements) == 1
    kinds = [each.failure_kind for each in warned if each.subsystem == "spool"]
    assert kinds == [{"folder": "io"}.get(fault, fault)]


def test_what_is_said_to_be_lost_is_what_is_not_in_the_file(gateway: LoopbackGateway, spool: str) -> None:
    gateway.fail("events", Fault(status=503))
    settings = {**HASTY, "event_max_retries": 1000, "spool": spool, "spool_max_bytes": 65_536}
    with recorded() as warned, client_of(gateway, **settings) as client:
        for number, size in enumerate((10, 100_000, 10)):
            payload = {"number": number, "text": "x" * size}
            client.bus.publish(CustomEvent(category="test", name="note", payload=payload))
            if number == 0:
                until(functools.partial(holds, spool, 1))
    assert [each.summary.partition(" could")[0] for each in warned if each.operation == "close"] == ["2 event(s)"]
    assert holds(spool, 1)


def test_several_processes_share_a_file(gateway: LoopbackGateway, spool: str) -> None:
    script = (
        "import actguard\n"
        f"settings = {PATIENT | {'gateway_url': gateway.url, 'api_key': gateway.api_key, 'spool': spool}!r}\n"
        "client = actguard.Client(**settings)\n"
        "for _ in range(10):\n"
        "    with client.run(), client.budget_guard(usd_limit=1): actguard.add_cost('step', usd='0.001')\n"
    )
    gateway.fail("settle", Fault(reset=True), times=7)
    gateway.fail("events", Fault(status=503), times=7)
    processes = [subprocess.Popen([sys.executable, "-W", "ignore", "-c", script]) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    client_of(gateway, spool=spool).close()
    assert [len(each.settlements) for each in gateway.reservations] == [1] * 30
    assert len(gateway.events) == 60
    assert rows(spool) == []


class Nursery:
    """Brings up one client at a time, in a process of its own, and kills it."""

    def __init__(self, url: str, key: str, spool: str) -> None:
        command = [sys.executable, str(TESTS / "gateway_nursery.py"), url, key, spool]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._watchdog = threading.Timer(WATCHDOG_S, self._process.kill)
        self._watchdog.start()
        self.left: list[str] = []
        """The runs whose budget a client had reserved and left, and so settled as far as it knew."""
        assert self._read() == "ready"

    def kill_one(self, runs: int, moment_s: float) -> None:
        """Kill a new client ``moment_s`` seconds after it has left the budgets of so many runs."""
        assert self._process.stdin is not None
        print(file=self._process.stdin, flush=True)
        child = int(self._read())
        for _ in range(runs):
            self._note(self._read())
        time.sleep(moment_s)  # nothing is waited for: at which point of a run it dies is left to chance
        os.kill(child, signal.SIGKILL)
        while (line := self._read()) != "dead":
            self._note(line)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()
        self._watchdog.cancel()

    def _note(self, line: str) -> None:
        run_id, how = line.split()
        if how == "reserved":
            self.left.append(run_id)

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the nursery does nothing any more"
        return line


def test_a_hundred_kills_lose_nothing_and_settle_nothing_twice(
    gateway: LoopbackGateway, spool: str, tmp_path: Path
) -> None:
    chance = random.Random(4)
    trouble = [
        Fault(),
        Fault(status=503),
        Fault(reset=True, effect=True),
        Fault(cut_after=3),
        Fault(hang=True),
    ]
    for operation in ("settle", "events"):
        for fault in chance.choices(trouble, [30, 10, 10, 10, 1], k=2000):
            gateway.fail(operation, fault, times=1)  # type: ignore[arg-type]
    accepted: set[str] = set()
    waiting_settlements = 0
    nursery = Nursery(gateway.url, gateway.api_key, spool)
    for _ in range(KILLS):
        nursery.kill_one(chance.randrange(3), chance.uniform(0.0, 0.03))
        if os.path.exists(spool):
            left = rows(spool)
            accepted.update(key for kind, key in left if kind == "event")
            waiting_settlements += sum(kind == "settlement" for kind, _ in left)
    nursery.close()
    gateway.heal()
    with recorded(), client_of(gateway, spool=spool) as client:
        assert client.flush(60)
    assert rows(spool) == []
    settlements = {each.body["run_id"]: len(each.settlements) for each in gateway.reservations}
    assert nursery.left  # the clients did get something done: how much, a busy machine decides
    assert waiting_settlements > 0  # and were killed when it mattered
    assert len(accepted) > 0
    assert [settlements[run_id] for run_id in nursery.left] == [1] * len(nursery.left)
    assert set(settlements.values()) <= {0, 1}
    assert accepted <= {event["id"] for event in gateway.events}
    assert [name for name in os.listdir(tmp_path) if name.endswith(".alive")] == []
