"""Locks that finalizers can live with: their work runs as soon as this thread holds none."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable

import pytest

from actguard.locks import SettlingLock, when_safe


def test_without_a_lock_work_is_done_at_once() -> None:
    done: list[int] = []
    when_safe(lambda: done.append(1))
    assert done == [1]


def test_under_a_lock_work_waits_for_the_last_one_to_be_released() -> None:
    done: list[int] = []
    outer, inner = SettlingLock(), SettlingLock()
    with outer:
        with inner:
            when_safe(lambda: done.append(1))
            when_safe(lambda: done.append(2))
        assert done == []
    assert done == [1, 2]


def test_locks_of_other_threads_do_not_matter() -> None:
    done: list[int] = []
    with SettlingLock():
        thread = threading.Thread(target=lambda: when_safe(lambda: done.append(1)))
        thread.start()
        thread.join()
    assert done == [1]


def test_work_may_take_the_lock_that_was_held_and_ask_for_more_work() -> None:
    done: list[str] = []
    lock = SettlingLock()

    def work() -> None:
        with lock:
            when_safe(lambda: done.append("more"))
            done.append("work")

    with lock:
        when_safe(work)
        when_safe(lambda: done.append("next"))
    assert sorted(done) == ["more", "next", "work"]
    assert done.index("work") < done.index("more")


def test_work_that_raises_disturbs_neither_the_code_that_let_go_nor_other_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reported: list[BaseException | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: reported.append(report.exc_value))
    done: list[int] = []
    error = LookupError("in a finalizer")

    def failing() -> None:
        raise error

    with SettlingLock():
        when_safe(failing)
        when_safe(lambda: done.append(1))
    assert done == [1]
    assert reported == [error]


def test_an_exception_under_the_lock_releases_it_and_lets_work_run() -> None:
    done: list[int] = []
    lock = SettlingLock()

    def fail() -> None:
        with lock:
            when_safe(lambda: done.append(1))
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert done == [1]
    with lock:
        pass


def test_an_interrupt_while_waiting_for_the_lock_leaves_no_trace() -> None:
    lock = SettlingLock()
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            release.wait(10)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(10)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(KeyboardInterrupt), lock:
            raise AssertionError("not reached")
    finally:
        signal.signal(signal.SIGALRM, before)
        release.set()
        holder.join()
    done: list[int] = []
    when_safe(lambda: done.append(1))
    assert done == [1]


class Cycle:
    """Freed by the garbage collector only."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.myself = self
        self.work = work

    def __del__(self) -> None:
        when_safe(self.work)


def test_a_finalizer_that_runs_inside_the_lock_does_not_deadlock() -> None:
    lock, count = SettlingLock(), 0

    def work() -> None:
        nonlocal count
        with lock:
            count += 1

    for _ in range(50):
        Cycle(work)
        with lock:
            gc.collect(0)
    assert count == 50


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_process_does_not_inherit_the_locks_of_other_threads() -> None:
    lock = SettlingLock()
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            release.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(10)
    child = os.fork()
    if child == 0:
        signal.alarm(5)
        with lock:
            os._exit(0)
    release.set()
    holder.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
