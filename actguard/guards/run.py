"""The run: the scope around everything an agent does for one task."""

from __future__ import annotations

import threading
from types import TracebackType

from actguard import clock, context
from actguard.events import Outcome, RunEnd, RunStart, Severity, new_id
from actguard.exceptions import ActGuardError, NestedRuntimeContextError
from actguard.guards.arguments import text_or_none
from actguard.guards.parts import Parts
from actguard.guards.tree import Tree
from actguard.rules import attempts
from actguard.scope import Reply, Scope
from actguard.stores.memory import MemoryStore


class Run(Scope["Run"]):
    """What ``client.run()`` returns and what entering it yields.

    ``run_id`` names the run in events and at the gateway; ``user_id`` is whom it acts for.

    Example:
        ``async with client.run(user_id="alice") as run: …``
    """

    def __init__(
        self,
        parts: Parts,
        *,
        user_id: str | None = None,
        run_id: str | None = None,
        adopt_threads: bool = False,
        client: object = None,
    ) -> None:
        self._parts = parts
        self.bus = parts.bus
        """Where the events of this run go."""
        self._client = client  # which ends its parts when nobody has it any more
        self.user_id = text_or_none(user_id, "user_id", "run")
        self.run_id = text_or_none(run_id, "run_id", "run") or new_id()
        self._adopt_threads = adopt_threads
        self._entered_at: float | None = None
        self.lock = threading.Lock()
        self.tree: Tree | None = None
        """The budget tree that is open in this run."""
        self.opened_in_thread = 0
        self.closed = False
        self._store: MemoryStore | None = None

    def __repr__(self) -> str:
        return f"<Run {self.run_id}{' (closed)' if self.closed else ''}>"

    @property
    def root(self) -> object:
        """The budget that a thread which joins this run is charged to, if one is open."""
        return self.tree.guard if self.tree is not None else None

    def belongs_to(self, parts: Parts) -> bool:
        """True when this run was opened by the client that owns ``parts``."""
        return self._parts is parts

    def get_attempt_count(self, tool_id: str) -> int:
        """How often the tool ``module:qualname`` was called in this run under ``max_attempts``, refusals included."""
        return 0 if self._store is None else self._store.apply(("attempts", tool_id), attempts.used)

    @property
    def store(self) -> MemoryStore:
        """Attempts and idempotency keys of this run; made when the first of them is."""
        store = self._store
        if store is None:
            with self.lock:
                store = self._store = MemoryStore() if self._store is None else self._store
        return store

    async def __aenter__(self) -> Run:
        turns = self._parts.turns
        if turns is not None and not Reply.blocks_here():
            await turns.take()
        outer = context.current_run.get()
        if outer is not None and not outer.closed:
            raise NestedRuntimeContextError(run_id=outer.run_id)
        if self._entered_at is not None:
            raise NestedRuntimeContextError(run_id=self.run_id, closed=self.closed)
        self.opened_in_thread = threading.get_ident()
        if self._adopt_threads:
            context.start_adopting(self)
        self._entered_at = clock.monotonic()
        context.current_run.set(self)
        bus = self._parts.bus
        if bus.wants(RunStart):
            bus.publish(RunStart(run_id=self.run_id, user_id=self.user_id))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.closed or self._entered_at is None:
            return
        self.closed = True
        if self._adopt_threads:
            context.stop_adopting(self)
        if context.current_run.get() is self:
            context.current_run.set(None)
        bus = self._parts.bus
        if bus.wants(RunEnd):
            outcome, severity = _outcome(error)
            bus.publish(
                RunEnd(
                    run_id=self.run_id,
                    user_id=self.user_id,
                    outcome=outcome,
                    severity=severity,
                    error_type=None if error is None else type(error).__name__,
                    duration_s=clock.monotonic() - self._entered_at,
                )
            )


def _outcome(error: BaseException | None) -> tuple[Outcome, Severity]:
    if error is None:
        return "success", "info"
    return ("blocked" if _is_refusal(error) else "failed"), "error"


def _is_refusal(error: BaseException) -> bool:
    """True for a refusal, and for a task group in which nothing else went wrong."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_refusal, error.exceptions))
    return isinstance(error, ActGuardError) and error.outcome == "blocked"
