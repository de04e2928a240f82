"""Work for an event loop from other threads: all of it, in order, a bounded part in each round."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from functools import partial
from typing import Any

import pytest

from actguard.doorbell import Doorbell

PER_ROUND = 5


async def test_what_many_threads_send_is_run_in_the_order_of_each() -> None:
    bell, seen = Doorbell(asyncio.get_running_loop(), per_round=PER_ROUND), list[tuple[int, int]]()
    complete = asyncio.Event()

    def note(thread: int, number: int) -> None:
        seen.append((thread, number))
        if len(seen) == 4 * 1000:
            complete.set()

    def send(thread: int) -> None:
        for number in range(1000):
            bell.send(partial(note, thread, number))

    threads = [threading.Thread(target=send, args=(each,)) for each in range(4)]
    for thread in threads:
        thread.start()
    async with asyncio.timeout(30):
        await complete.wait()
    for each in range(4):
        assert [number for thread, number in seen if thread == each] == list(range(1000))


async def test_a_round_of_the_loop_runs_a_bounded_part() -> None:
    bell, done, others = Doorbell(asyncio.get_running_loop(), per_round=PER_ROUND), list[int](), list[int]()
    for number in range(3 * PER_ROUND):
        bell.send(partial(done.append, number))
    while len(done) < 3 * PER_ROUND:
        await asyncio.sleep(0)
        others.append(len(done))
    assert others[-3:] == [PER_ROUND, 2 * PER_ROUND, 3 * PER_ROUND]


async def test_a_callback_that_fails_is_reported_and_does_not_stop_the_next() -> None:
    loop, reported, ran = asyncio.get_running_loop(), list[dict[str, Any]](), asyncio.Event()
    loop.set_exception_handler(lambda _, context: reported.append(context))
    bell = Doorbell(loop, per_round=PER_ROUND)

    def fail() -> None:
        raise KeyError("a bug")

    bell.send(fail)
    bell.send(ran.set)
    async with asyncio.timeout(30):
        await ran.wait()
    assert [type(context["exception"]) for context in reported] == [KeyError]


async def test_callbacks_know_nothing_of_their_sender() -> None:
    run: ContextVar[str] = ContextVar("run", default="none")
    run.set("the sender's")
    bell, seen, ran = Doorbell(asyncio.get_running_loop(), per_round=PER_ROUND), list[str](), asyncio.Event()
    bell.send(lambda: seen.append(run.get()))
    bell.send(ran.set)
    async with asyncio.timeout(30):
        await ran.wait()
    assert seen == ["none"]


def test_nothing_can_be_sent_to_a_loop_that_is_closed() -> None:
    loop = asyncio.new_event_loop()
    bell = Doorbell(loop, per_round=PER_ROUND)
    loop.close()
    with pytest.raises(RuntimeError):
        bell.send(lambda: None)
