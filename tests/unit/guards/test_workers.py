"""The worker threads: nobody starves, nobody is waited for in vain."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import warnings
import weakref

import pytest
from conftest import until

import actguard
from actguard import timeout
from actguard.exceptions import ToolTimeoutError
from actguard.guards import workers


def left_behind(release: threading.Event) -> None:
    """One call whose body hangs until ``release``."""
    with pytest.raises(ToolTimeoutError):
        timeout(0.001)(release.wait)()


def test_a_thousand_calls_left_behind_do_not_starve_the_next() -> None:
    release = threading.Event()
    try:
        for _ in range(1_000):
            left_behind(release)
        alive, idle = workers._Process.pool.count()
        assert alive - idle >= 900  # a few may be late before they begin
        assert timeout(30)(lambda: "served")() == "served"
    finally:
        release.set()
    until(lambda: workers._Process.pool.count()[0] <= workers.MOST_IDLE)


def test_left_behind_and_idle_workers_do_not_hold_up_the_exit_of_the_process() -> None:
    script = """
import threading, actguard
assert actguard.timeout(30)(lambda: 1)() == 1
for _ in range(20):
    try:
        actguard.timeout(0.001)(threading.Event().wait)()
    except actguard.exceptions.ToolTimeoutError:
        pass
print("done", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_shutdown_waits_for_calls_under_way_but_not_for_those_left_behind() -> None:
    hangs, release, begun = threading.Event(), threading.Event(), threading.Event()
    results: list[str] = []

    def slow() -> str:
        begun.set()
        release.wait(30)
        return "finished"

    left_behind(hangs)
    caller = threading.Thread(target=lambda: results.append(timeout(30)(slow)()))
    caller.start()
    assert begun.wait(30)
    pool = workers._Process.pool
    closer = threading.Thread(target=actguard.shutdown)
    closer.start()
    until(lambda: workers._Process.pool is not pool)
    assert closer.is_alive()
    assert timeout(30)(lambda: "new")() == "new"  # new workers
    release.set()
    closer.join(30)
    caller.join(30)
    assert not closer.is_alive()
    assert results == ["finished"]
    hangs.set()
    until(lambda: pool.count() == (0, 0))


def test_shutdown_without_waiting_and_from_within_a_worker() -> None:
    assert timeout(30)(lambda: actguard.shutdown(wait=True) or "still here")() == "still here"
    actguard.shutdown(wait=False)
    actguard.shutdown()
    assert timeout(30)(lambda: "again")() == "again"


def test_a_worker_that_is_idle_for_long_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "IDLE_S", 0.01)
    actguard.shutdown()
    assert timeout(30)(lambda: 1)() == 1
    until(lambda: workers._Process.pool.count() == (0, 0))
    assert timeout(30)(lambda: 2)() == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_has_workers_of_its_own() -> None:
    assert timeout(30)(lambda: 1)() == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there are threads: that is the point
        child = os.fork()
    if child == 0:
        os._exit(0 if timeout(30)(lambda: 7)() == 7 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_whatever_the_body_raises_arrives_with_its_traceback() -> None:
    for error in (ValueError("x"), StopIteration("s"), KeyboardInterrupt(), SystemExit(3)):

        def fail(error: BaseException = error) -> None:
            raise error

        with pytest.raises(type(error)) as caught:
            timeout(30)(fail)()
        assert caught.value is error
        assert "fail" in [entry.name for entry in caught.traceback]


def test_a_result_is_not_kept_by_the_worker() -> None:
    class Result: ...

    result = timeout(30)(lambda: Result())()
    gone = weakref.ref(result)
    del result
    until(lambda: gc.collect() is not None and gone() is None)
