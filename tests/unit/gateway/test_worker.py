"""The thread for what blocks: started by its first work, and done without when there are no more threads."""

from __future__ import annotations

import threading

import pytest

from actguard.gateway.worker import Worker


async def test_the_thread_starts_with_its_first_work_and_keeps_its_order() -> None:
    worker = Worker("test-worker")
    assert "test-worker" not in {thread.name for thread in threading.enumerate()}
    assert await worker.run(lambda: threading.current_thread().name) == "test-worker"
    with pytest.raises(LookupError):
        await worker.run({}.__getitem__, "nothing")
    worker.end()
    with pytest.raises(RuntimeError, match="ended"):
        await worker.run(int)


async def test_at_the_end_of_the_interpreter_it_works_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    worker = Worker("test-worker")
    assert await worker.run(threading.current_thread) is threading.current_thread()
    worker.end()
