"""What is remembered for each client: answers, batches and work at the provider that its scopes have seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from actguard.context import active_budget
from actguard.locks import SettlingLock

T = TypeVar("T")


class PerClient(Generic[T]):
    """One ``T`` for each client, for as long as there is one."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._of: WeakKeyDictionary[Any, T] = WeakKeyDictionary()
        self._lock = SettlingLock()

    def of(self, budget: Any) -> T:
        """That of the client that ``budget`` belongs to."""
        client = budget.tree.parts.bus
        with self._lock:
            known = self._of.get(client)
            if known is None:
                known = self._of[client] = self._make()
            return known

    def here(self) -> T:
        """That of the client whose budget scope is active; where none is, nobody's."""
        budget = active_budget()
        return self._make() if budget is None else self.of(budget)
