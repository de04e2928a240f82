"""A root's reservation at the gateway: asked for on the bus when it is opened, settled when its last path has left.

Whoever answers is not known here, nor whether there is a gateway at all. Without an answer the run goes on with local
limits, and one warning says so.
"""

from __future__ import annotations

from typing import Any, Protocol

from actguard.bus import NOBODY, Bus
from actguard.events import CallEntry, ReserveRequested, SettleRequested
from actguard.exceptions import ActGuardRuntimeError, ActGuardToolError, BudgetTransportError, MonitoringDegradedError
from actguard.guards.parts import Parts
from actguard.guards.tree import NOT_BILLED, Tree
from actguard.rules.ledger import Limits


class Root(Protocol):
    """The scope that opens a root, as far as its reservation has to name it."""

    scope_id: str
    plan_key: str | None

    @property
    def user_id(self) -> str | None: ...


async def reserve(parts: Parts, run_id: str, root: Root, limits: Limits) -> Any:
    """The verdict on opening ``root``: a `Reserved`, or `NOBODY` when the run goes on with local limits.

    Raises:
        ActGuardPaymentRequired, BudgetExceededError: the gateway refuses.
        BudgetTransportError: it could not be asked, and the client says ``on_gateway_failure="closed"``.
    """
    if not parts.bus.concerns(ReserveRequested):
        return NOBODY
    request = ReserveRequested(
        run_id=run_id,
        user_id=root.user_id,
        scope_id=root.scope_id,
        usd_limit=limits.usd,
        cost_limit=limits.cost,
        plan_key=root.plan_key,
    )
    try:
        verdict = await parts.bus.ask(request, parts.budget_timeout_s)
    except TimeoutError:
        verdict = NOBODY
        if not parts.fails_closed:
            degraded(parts.bus, "reserve", "timeout")
    if verdict is NOBODY and parts.fails_closed:
        raise BudgetTransportError("The gateway could not be asked in time to reserve a budget.")
    return verdict


async def settle(parts: Parts, run_id: str, root: Root, tree: Tree, error: BaseException | None) -> None:
    """Settle what the paths of ``root`` have used; ``error`` is what the last of them left with.

    Raises:
        ActGuardPaymentRequired, BudgetExceededError: the gateway says so, and there is no ``error`` to hide.
    """
    bus = parts.bus
    if not bus.concerns(SettleRequested) and tree.reserve_id is None:
        return
    with tree.lock:
        entries: list[CallEntry] = tree.entries or []
        tree.entries = None
    request = SettleRequested(
        run_id=run_id,
        user_id=root.user_id,
        scope_id=root.scope_id,
        reserve_id=tree.reserve_id,
        entries=tuple(entry for entry in entries if entry != NOT_BILLED),
    )
    try:
        verdict = await bus.ask(request, parts.budget_timeout_s)
    except TimeoutError:
        degraded(bus, "settle", "timeout", "The settlement goes on in the background.")
    except (ActGuardRuntimeError, ActGuardToolError) as refusal:
        if error is None:
            raise
        bus.unheard("settle", refusal)
    except Exception as bug:  # noqa: BLE001  what the answerer raises by mistake is no verdict on this scope
        degraded(bus, "settle", type(bug).__name__, "Whether the budget scope was settled is not known.")
    else:
        if verdict is NOBODY and tree.reserve_id is not None:
            summary = "The client was closed before the budget scope was left: what it used is not settled."
            degraded(bus, "settle", "client_closed", summary)


def note_late_spending(bus: Bus, tree: Tree) -> None:
    """Something is charged below a root that was left: where that was settled, the gateway will not hear of it."""
    if tree.reserve_id is not None:
        degraded(
            bus,
            "settle",
            "late_spending",
            "Something was spent in a budget scope whose root had been left and settled: it is counted here, and the "
            "gateway does not know of it. Leave the root after the tasks that it started, or give them a run of their "
            "own.",
        )


def degraded(bus: Bus, operation: str, failure_kind: str, summary: str = "") -> None:
    """Warn, once per client, about what did not work with the gateway."""
    bus.degraded(
        MonitoringDegradedError(
            subsystem="budget",
            operation=operation,
            failure_kind=failure_kind,
            summary=summary or "The run goes on with local limits only.",
        )
    )
