"""A thread for what blocks: name look-ups and SQLite. asyncio's own pool is joined at interpreter exit, and a look-up
that hangs there would keep the program from ending; this one is a daemon and is left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Worker:
    """One daemon thread that runs functions in the order they are given."""

    def __init__(self, name: str) -> None:
        self.ended = False
        """True once it takes no more."""
        self._name = name
        self._started = False
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of ``function(*args)``, awaited on this loop. Cancelling the wait does not undo the work.

        Raises:
            RuntimeError: the thread has ended. Else whatever ``function`` raises.
        """
        if self.ended:
            raise RuntimeError("this thread has ended")
        if not self._start():
            return function(*args, **kwargs)
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()

        def job() -> None:
            try:
                value = function(*args, **kwargs)
            except Exception as error:  # noqa: BLE001  handed to the one who waits
                report, outcome = result.set_exception, error
            else:
                report, outcome = result.set_result, value  # type: ignore[assignment]
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_tell, result, report, outcome)

        self._jobs.put(job)
        return await result

    def end(self) -> None:
        """End the thread after what it was given. Returns at once."""
        self.ended = True
        self._jobs.put(None)

    def _start(self) -> bool:
        """Start the thread when it has its first work. False when the interpreter ends, and starts no more threads: the
        little that is left to do may block then."""
        if not self._started:
            try:
                threading.Thread(target=self._run, name=self._name, daemon=True).start()
            except RuntimeError:
                return False
            self._started = True
        return True

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def _tell(result: asyncio.Future[Any], report: Callable[[Any], None], outcome: Any) -> None:
    if not result.done():
        report(outcome)
