"""What is active here: the current run, budget scope, session and tool, in ContextVars.

The ContextVars follow asyncio and trio tasks and ``asyncio.to_thread``. A worker thread that was started without a
context has none of them, and nothing is guessed: `carry` takes them along, or a run adopts such threads.

This module owns the only process-wide state beside the patch registry: which run adopts threads, and which root
budgets are open (to warn about provider calls that no scope counts).
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextvars import ContextVar
from typing import Any, ParamSpec, Protocol, TypedDict, TypeVar, cast, overload

from actguard.exceptions import ActGuardUsageError, MonitoringDegradedError
from actguard.locks import SettlingLock
from actguard.monitoring import warn
from actguard.scope import is_async

P = ParamSpec("P")
T = TypeVar("T")


class ScopeIdentity(TypedDict):
    """The fields that name a budget scope in events."""

    scope_id: str | None
    scope_name: str | None
    scope_kind: str | None
    parent_scope_id: str | None
    root_scope_id: str | None
    plan_key: str | None


class ActiveRun(Protocol):
    """What lower floors may know about a run."""

    closed: bool

    @property
    def run_id(self) -> str: ...
    @property
    def user_id(self) -> str | None: ...
    @property
    def root(self) -> ActiveBudget | None:
        """The budget that a thread which joins this run is charged to."""


class ActiveBudget(Protocol):
    """What lower floors may know about a budget scope."""

    def identity(self) -> ScopeIdentity:
        """The fields that name this scope in events."""


current_run: ContextVar[Any] = ContextVar("actguard_run", default=None)
current_budget: ContextVar[Any] = ContextVar("actguard_budget", default=None)
current_session: ContextVar[Any] = ContextVar("actguard_session", default=None)
current_tool: ContextVar[str | None] = ContextVar("actguard_tool", default=None)

_CARRIED: tuple[ContextVar[Any], ...] = (current_run, current_budget, current_session, current_tool)


class Process:
    """What is process-wide: others read it (on hot paths that is cheaper than a call), only this module writes it."""

    lock = SettlingLock()
    adopting: Any = None
    """The run that threads without any context join."""
    open_roots: set[int] = set()  # noqa: RUF012  one process, one set
    """Ids of the root budgets that are open."""
    warned_roots: set[int] = set()  # noqa: RUF012
    """Those among them for which an uncounted call was reported."""


def active_run() -> Any:
    """The run that is active here, or None: a task that outlives its run has none."""
    run = current_run.get()
    if run is not None:
        return None if run.closed else run
    return None if Process.adopting is None else _adopted()


def active_budget() -> Any:
    """The budget scope that is active here, or None."""
    budget = current_budget.get()
    if budget is not None or Process.adopting is None:
        return budget
    run = _adopted()
    return run.root if run is not None else None


def _adopted() -> Any:
    """The adopting run, unless this is a thread that has a context of its own (the one that opened the run)."""
    run = Process.adopting
    return run if run is not None and threading.get_ident() != run.opened_in_thread else None


def start_adopting(run: Any) -> None:
    """Let threads without any context join ``run``.

    Raises:
        ActGuardUsageError: another run of this process does so already.
    """
    with Process.lock:
        if Process.adopting is not None:
            raise ActGuardUsageError(
                "adopt_threads=True is possible for one run per process at a time, and another run has it; "
                "use actguard.carry(fn) for the threads of this one",
                field="adopt_threads",
            )
        Process.adopting = run


def stop_adopting(run: Any) -> None:
    """Undo `start_adopting`."""
    with Process.lock:
        if Process.adopting is run:
            Process.adopting = None


def root_opened(root: object) -> None:
    """A root budget is open: provider calls outside any scope are worth a warning now."""
    with Process.lock:
        Process.open_roots.add(id(root))


def root_closed(root: object) -> None:
    """Undo `root_opened`."""
    with Process.lock:
        Process.open_roots.discard(id(root))
        Process.warned_roots.discard(id(root))


def note_uncounted_call(provider: str) -> None:
    """A billable provider call found no scope: warn, once per open root, when somewhere in the process one is open."""
    if not Process.open_roots:
        return
    with Process.lock:
        if Process.open_roots <= Process.warned_roots:
            return
        Process.warned_roots |= Process.open_roots
    error = MonitoringDegradedError(
        subsystem="integrations",
        operation="count",
        failure_kind="no_scope",
        summary=(
            f"A call to {provider} was made outside any budget scope while another thread or task has one open: it is "
            "not counted. If it belongs to that scope, start its thread with actguard.carry(fn), or open the run "
            "with adopt_threads=True."
        ),
    )
    warn(error, stacklevel=3)


@contextlib.contextmanager
def _carrying(values: tuple[Any, ...]) -> Iterator[None]:
    tokens = [variable.set(value) for variable, value in zip(_CARRIED, values, strict=True)]
    try:
        yield
    finally:
        for variable, token in zip(_CARRIED, tokens, strict=True):
            with contextlib.suppress(ValueError):  # a coroutine that was dropped is closed in another context
                variable.reset(token)


class _CarryingExecutor(Executor):
    """An executor whose jobs run in the run, budget scope, session and tool they were submitted from."""

    def __init__(self, inner: Executor) -> None:
        self._inner = inner

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        return self._inner.submit(carry(fn), *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._inner.shutdown(wait, cancel_futures=cancel_futures)


@overload
def carry(target: Executor, /) -> Executor: ...
@overload
def carry(target: Callable[P, T], /) -> Callable[P, T]: ...
def carry(target: Any, /) -> Any:
    """Take the current run, budget scope, session and tool along into a thread that would not have them.

    Given a function (plain or ``async def``), returns one that runs with what is active now. Given an executor,
    returns one that does so for everything submitted to it, with what is active at each ``submit``.

    Example:
        ``executor.submit(actguard.carry(ask_model), question)`` or ``threading.Thread(target=actguard.carry(work))``
    """
    # By name: importing the class would import multiprocessing.
    if any(kind.__name__ == "ProcessPoolExecutor" for kind in type(target).__mro__):
        raise ActGuardUsageError(
            "carry: a process pool runs in other processes, which cannot charge this one's budget", field="target"
        )
    if isinstance(target, Executor):
        return _CarryingExecutor(target)
    if not callable(target):
        raise ActGuardUsageError(f"carry: expected a function or an executor, got {type(target).__name__}", field="fn")
    values = tuple(variable.get() for variable in _CARRIED)
    if is_async(target):

        @functools.wraps(target)
        async def carried_coroutine(*args: Any, **kwargs: Any) -> Any:
            with _carrying(values):
                return await target(*args, **kwargs)

        return carried_coroutine

    @functools.wraps(cast("Callable[..., Any]", target))
    def carried(*args: Any, **kwargs: Any) -> Any:
        with _carrying(values):
            return target(*args, **kwargs)

    return carried
