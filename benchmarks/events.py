"""Events: what publishing one costs the caller, and how many a second reach a gateway."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

from benchmarks.compare import Worker, added, alternately, workers
from benchmarks.figures import Figure

TARGETS = {"nobody": 0.2, "loop": 5.0, "hub": 8.0}
NAMES = {
    "nobody": "publishing an event that nobody wants",
    "loop": "publishing to one subscriber on the same loop",
    "hub": "publishing to one handler on the hub",
}


def main(quick: bool) -> Iterator[Figure]:
    rounds = 9 if quick else 41
    with workers("now") as (now,):
        cases = [now.case("bus_calls:empty_guard")]
        cases += [now.case("bus_calls:publishing", where=where) for where in TARGETS]
        floor, *taken = alternately(cases, rounds)
        for (where, target), series in zip(TARGETS.items(), taken, strict=True):
            yield added(f"{NAMES[where]}: the caller's side", series, floor, target)
    yield _export(count=5_000 if quick else 20_000, rounds=3 if quick else 7)


# --- export -----------------------------------------------------------------------------------------------------------

OURS, THEIRS = ("bench", "counted"), ("guard", "blocked")
"""What the exported events are called."""


def _export(count: int, rounds: int) -> Figure:
    """Events a second, from the first that is emitted to the last that the gateway has counted."""
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=count_events, args=(there,), daemon=True)
    server.start()
    url = here.recv()
    try:
        with workers("now", "earlier") as both:
            rates: list[list[float]] = [[], []]
            for turn in range(rounds + 1):
                for worker, names, taken in zip(both, (OURS, THEIRS), rates, strict=True):
                    rate = _one_export(worker, url, here, count, names)
                    if turn:  # the first is for warming up
                        taken.append(rate)
    finally:
        here.send(None)
        server.join(5)
    ours, theirs = rates
    each = [one / other for one, other in zip(ours, theirs, strict=True)]
    return Figure(
        "events exported a second / actguard 1.0.2, none lost",
        median(ours) / median(theirs),
        low=min(each),
        high=max(each),
        target=3.0,
        at_least=True,
        note=f"{median(ours):,.0f} against {median(theirs):,.0f} a second, wall clock",
    )


def _one_export(worker: Worker, url: str, gateway: Connection, count: int, names: tuple[str, str]) -> float:
    case = worker.case("event_export:export", url=url, category=names[0], name=names[1])
    gateway.send(count)
    case.run(count)
    seconds, arrived = gateway.recv()
    case.drop()
    if arrived != count:
        raise RuntimeError(f"{count} events were emitted and {arrived} arrived")
    return count / float(seconds)


def count_events(pipe: Connection) -> None:
    """A gateway that counts. It is sent a number of events to expect and answers with (seconds, how many came)."""
    counter = _Counter()

    class Gateway(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            counter.add(body.count(b'"ingested_at"'))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, address: Any) -> None:
            """A client that has closed its connection is no error here."""

    server = Server(("127.0.0.1", 0), Gateway)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pipe.send(f"http://127.0.0.1:{server.server_port}")
    while (expected := pipe.recv()) is not None:
        pipe.send(counter.wait_for(expected))


class _Counter:
    """Counts events, and says when the expected number is there."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0

    def add(self, count: int) -> None:
        with self._changed:
            self._count += count
            self._changed.notify_all()

    def wait_for(self, expected: int) -> tuple[float, int]:
        """Seconds until so many events came, 60 at most; and how many came. Counts from zero again."""
        started = time.perf_counter()
        with self._changed:
            self._changed.wait_for(lambda: self._count >= expected, timeout=60)
            took = time.perf_counter() - started
            came, self._count = self._count, 0
        return took, came
