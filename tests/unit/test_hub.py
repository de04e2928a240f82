"""The hub: one thread with a loop, started when needed, restarted after a fork, stopped for good."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.to_thread
import pytest
from conftest import Runner, until

from actguard.hub import Hub
from actguard.locks import when_safe

color: ContextVar[str] = ContextVar("color", default="none")


class Lodger:
    """A resident that notes what happens to it."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def bind(self, hub: Hub) -> None:
        self.log.append("bind")

    async def live(self) -> None:
        self.log.append("live")
        try:
            await asyncio.Event().wait()
        finally:
            self.log.append("end")

    def unbind(self) -> None:
        self.log.append("unbind")


def done_on(hub: Hub, coroutine_function: Any) -> None:
    """Run a coroutine function on the hub to its end."""
    done = threading.Event()

    async def work() -> None:
        try:
            await coroutine_function()
        finally:
            done.set()

    hub.spawn(work)
    assert done.wait(10)


def hub_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "hub-under-test"]


@pytest.fixture
def hub() -> Any:
    hub = Hub("hub-under-test")
    yield hub
    hub.stop(10)
    assert hub_threads() == []


def test_nothing_runs_before_it_is_needed(hub: Hub) -> None:
    assert not hub.running
    assert not hub.is_here
    assert hub_threads() == []
    with pytest.raises(RuntimeError, match="not running"):
        hub.call_soon(lambda: None)


def test_a_resident_starts_it_and_lives_there_until_it_stops(hub: Hub) -> None:
    lodger = Lodger()
    hub.add(lodger)
    assert hub.running
    until(lambda: lodger.log == ["bind", "live"])
    hub.stop(10)
    assert lodger.log[:2] == ["bind", "live"]
    assert sorted(lodger.log[2:]) == ["end", "unbind"]
    assert not hub.running


def test_a_resident_is_bound_when_add_returns_also_on_a_busy_hub(hub: Hub) -> None:
    hub.add(Lodger())
    gate = threading.Event()
    hub.call_soon(gate.wait)  # the loop is blocked
    lodger = Lodger()
    hub.add(lodger)
    assert lodger.log == ["bind"]
    gate.set()
    until(lambda: lodger.log == ["bind", "live"])


def test_a_resident_can_be_added_from_the_hub_itself(hub: Hub) -> None:
    lodger = Lodger()

    async def add() -> None:
        assert hub.is_here
        hub.add(lodger)
        assert lodger.log == ["bind"]

    done_on(hub, add)
    until(lambda: lodger.log == ["bind", "live"])


def test_many_threads_start_one_thread(hub: Hub) -> None:
    lodgers = [Lodger() for _ in range(16)]
    barrier = threading.Barrier(16)

    def add(lodger: Lodger) -> None:
        barrier.wait()
        hub.add(lodger)
        hub.start()

    threads = [threading.Thread(target=add, args=(lodger,)) for lodger in lodgers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(hub_threads()) == 1
    until(lambda: all(lodger.log == ["bind", "live"] for lodger in lodgers))


def test_stopped_is_stopped(hub: Hub) -> None:
    hub.start()
    hub.stop(10)
    assert hub.closed
    for use in (hub.start, lambda: hub.spawn(asyncio.Event().wait), lambda: hub.add(Lodger())):
        with pytest.raises(RuntimeError, match="closed"):
            use()
    hub.stop(10)


def test_stopping_before_it_ever_ran_is_fine() -> None:
    hub = Hub()
    hub.stop(1)
    assert hub.closed


def test_stopping_from_the_hub_itself_does_not_wait_for_itself(hub: Hub) -> None:
    thread: list[threading.Thread] = []

    async def stop() -> None:
        thread.extend(hub_threads())
        hub.stop(10)

    hub.start()
    done_on(hub, stop)
    thread[0].join(10)
    assert not hub.running


def test_work_that_is_under_way_is_cancelled_and_cleans_up(hub: Hub) -> None:
    log: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.append("cancelled")
            await asyncio.sleep(0)
            log.append("cleaned up")
            raise

    hub.start()
    hub.spawn(work)
    hub.spawn(work)
    hub.stop(10)
    assert sorted(log) == ["cancelled", "cancelled", "cleaned up", "cleaned up"]


def test_stopping_waits_no_longer_than_it_is_told_for_a_blocked_loop(hub: Hub) -> None:
    gate = threading.Event()
    hub.start()
    hub.call_soon(gate.wait)
    hub.stop(0.01)
    assert hub_threads() != []
    gate.set()
    until(lambda: not hub_threads())


def test_a_thread_that_cannot_be_started_is_an_error_and_not_a_state(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            hub.start()
    assert not hub.running
    hub.start()
    assert hub.running


def test_stopping_after_a_thread_could_not_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    hub = Hub()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            hub.start()
    hub.stop(1)


def test_a_forgotten_resident_is_not_bound_again(hub: Hub) -> None:
    """Checked by a second start, which happens in a forked child."""
    lodger, other = Lodger(), Lodger()
    hub.add(lodger)
    hub.add(other)
    hub.remove(lodger)
    hub.remove(lodger)
    [thread], loop, stop = hub_threads(), hub._loop, hub._stop
    hub._forget_thread()  # what the child does
    assert loop is not None
    assert stop is not None
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    hub.start()
    assert lodger.log.count("bind") == 1
    assert other.log.count("bind") == 2


def test_work_runs_in_no_context_of_the_caller_and_on_asyncio_whoever_sent_it(hub: Hub, on_loop: Runner) -> None:
    """A trio program that sends something to the hub must not make it believe that it runs on trio."""
    seen: list[Any] = []

    async def work() -> None:
        seen.append(await anyio.to_thread.run_sync(lambda: color.get()))

    async def main() -> None:
        color.set("the caller's")
        hub.start()
        await anyio.to_thread.run_sync(lambda: done_on(hub, work))
        done_on(hub, work)

    on_loop(main)
    assert seen == ["none", "none"]


def test_a_finalizer_that_needs_the_hub_while_it_is_being_started_starts_no_second_one(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def start_and_finalize(thread: threading.Thread) -> None:
        monkeypatch.undo()
        when_safe(hub.start)  # as the garbage collector may have it
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_and_finalize)
    hub.add(Lodger())
    assert len(hub_threads()) == 1
