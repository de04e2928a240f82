"""The record of received requests, and waiting for it to change."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from actguard.testing.received import ReceivedRequest

T = TypeVar("T")


class RequestLog:
    """Written by the server's thread, read and waited on by any other."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._version = 0
        self._waiting = 0
        self.requests: list[ReceivedRequest] = []

    def changed(self) -> None:
        """Tell those who wait; costs nothing when nobody does."""
        if self._waiting:
            with self._changed:
                self._version += 1
                self._changed.notify_all()

    def wait_for(self, predicate: Callable[[], T], timeout: float, given_up: threading.Event) -> T:
        """Wait until ``predicate()`` is true; its value. Raises: TimeoutError, also when ``given_up`` is set.

        The predicate runs without a lock held, so it may take its time and even call the provider.
        """
        until = time.monotonic() + timeout
        with self._changed:
            self._waiting += 1
        try:
            while True:
                seen = self._version
                if value := predicate():
                    return value
                with self._changed:
                    while seen == self._version:
                        left = until - time.monotonic()
                        if left <= 0 or given_up.is_set():
                            raise TimeoutError(f"Not reached within {timeout:g} s; requests so far: {self.requests}")
                        self._changed.wait(left)
        finally:
            with self._changed:
                self._waiting -= 1
