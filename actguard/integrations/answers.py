"""Answers that can be fetched again: each is charged once per id and client.

A background response is created by one call and carries its usage in the answers to later ones; assistants' runs
likewise. Every fetch of a finished answer shows the same usage once more.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from actguard.integrations.per_client import PerClient
from actguard.locks import SettlingLock

REMEMBERED = 10_000
"""How many answer ids a client remembers; the oldest are forgotten first."""


class CountedAnswers:
    """The answer ids that one client has seen, each with the ticket that pays for it."""

    __slots__ = ("_lock", "_tickets")

    def __init__(self) -> None:
        self._lock = SettlingLock()
        self._tickets: OrderedDict[str, Any] = OrderedDict()

    def claim(self, answer_id: str, ticket: Any) -> Any:
        """The ticket that ``answer_id`` is charged to: the first one that claimed it; None when it is counted."""
        with self._lock:
            owner = self._tickets.setdefault(answer_id, ticket)
            while len(self._tickets) > REMEMBERED:
                self._tickets.popitem(last=False)
            return owner

    def pass_on(self, answer_id: str, ticket: Any) -> None:
        """``answer_id`` is charged to ``ticket`` from now on."""
        with self._lock:
            self._tickets[answer_id] = ticket

    def counted(self, answer_id: str) -> None:
        """``answer_id`` is charged with its exact usage: nothing is left to pay."""
        with self._lock:
            self._tickets[answer_id] = None


answers = PerClient(CountedAnswers)
"""The counted answers of each client."""
