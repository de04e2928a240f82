"""The budget scope: a limit in USD, tokens or cost units around everything that happens inside."""

from __future__ import annotations

from decimal import Decimal
from types import TracebackType
from typing import Any

from anyio import to_thread

from actguard import context
from actguard.context import ScopeIdentity
from actguard.events import CallEntry, GuardBlocked, Reserved, SettleRequested, new_id
from actguard.exceptions import (
    ActGuardRuntimeContextError,
    ActGuardUsageError,
    BudgetClientMismatchError,
    BudgetConfigurationError,
    GuardError,
    MissingRuntimeContextError,
    NestedBudgetGuardError,
    quoted,
)
from actguard.guards.admission import Asked, Desk, Manners
from actguard.guards.arguments import BUDGET_CODE, choice, count_limit, flag, part, text_or_none
from actguard.guards.arguments import usd_limit as checked_usd_limit
from actguard.guards.charging import Ticket
from actguard.guards.figures import BudgetFigures
from actguard.guards.parts import Parts
from actguard.guards.reservation import degraded, note_late_spending, reserve, settle
from actguard.guards.run import Run
from actguard.guards.tree import Tree, raises
from actguard.money.amounts import as_written
from actguard.money.tariff import CU_PER_USD, usd_to_cu
from actguard.rules import ledger
from actguard.rules.ledger import Account, Charge, Limits, LimitType, RowKey
from actguard.scope import Scope


class _OpenerLeft(Exception):
    """The path that was opening the root was cancelled: one of those that wait has to open it."""


class BudgetGuard(BudgetFigures, Scope["BudgetGuard"]):
    """What ``client.budget_guard()`` returns and what entering it yields. See `BudgetFigures` for its figures.

    Example:
        ``async with client.budget_guard(usd_limit=0.05) as budget: …; print(budget.usd_used)``
    """

    def __init__(
        self,
        parts: Parts,
        *,
        user_id: str | None = None,
        name: str | None = None,
        usd_limit: float | str | Decimal | None = None,
        token_limit: int | None = None,
        cost_limit: int | None = None,
        run_id: str | None = None,
        plan_key: str | None = None,
        on_crossing: str = "raise",
        enforcement: str = "soft",
        min_output_tokens: int = 16,
        allow_unbounded: bool = False,
        on_full: str = "raise",
        share: float | str | Decimal | None = None,
    ) -> None:
        def text(value: Any, field: str) -> str | None:
            return text_or_none(value, field, "budget_guard", BUDGET_CODE)

        self._parts = parts
        self._asked_user_id = text(user_id, "user_id")
        self._asked_run_id = text(run_id, "run_id")
        self.name = text(name, "name")
        """The name it has in events and breakdowns."""
        self.plan_key = text(plan_key, "plan_key")
        """The plan at the gateway to reserve from."""
        self.on_crossing = choice(on_crossing, ("raise", "return"), "on_crossing", "budget_guard", BUDGET_CODE)
        self._limits = Limits(
            checked_usd_limit(usd_limit),
            count_limit(token_limit, "token_limit", "tokens"),
            count_limit(cost_limit, "cost_limit", "cost units"),
        )
        self.enforcement = choice(enforcement, ("soft", "hard"), "enforcement", "budget_guard", BUDGET_CODE)
        """"soft": each call may overshoot by its own cost; "hard": used and held together never exceed a limit."""
        least = count_limit(min_output_tokens, "min_output_tokens", "tokens") or 1
        waits = choice(on_full, ("raise", "wait"), "on_full", "budget_guard", BUDGET_CODE) == "wait"
        self._manners = Manners(least, flag(allow_unbounded, "allow_unbounded", "budget_guard", BUDGET_CODE), waits)
        self._share = part(share, "share")
        self._desk: Any = None
        self.account = self._new_account()
        self.tree: Any = None
        self.scope_id = new_id()
        self.closed = False
        self._run: Run | None = None
        self._outer: BudgetGuard | None = None
        self._is_path = False

    def __repr__(self) -> str:
        limits = ", ".join(
            f"{field}={value}" for field, value in zip(_LIMIT_FIELDS, self._limits, strict=True) if value
        )
        return (
            f"<BudgetGuard {quoted(self.name or self.scope_id)} {limits or 'no limit'}, {self.usd_used:.6f} USD used>"
        )

    # --- entering and leaving -----------------------------------------------------------------------------------

    async def __aenter__(self) -> BudgetGuard:
        """Open the scope.

        Raises:
            MissingRuntimeContextError: no run is active here.
            BudgetClientMismatchError: the active run belongs to another client.
            ActGuardRuntimeContextError: ``run_id`` is not that of the active run.
            BudgetConfigurationError: this path joins the run's root with other settings than the root has.
            NestedBudgetGuardError: this object was entered before.
            ActGuardPaymentRequired, BudgetExceededError: the gateway refused the reservation.
        """
        run = self._active_run()
        with run.lock:
            if self._run is not None:
                raise NestedBudgetGuardError(name=self.name, closed=self.closed)
            self._run = run
        try:
            self._parts.patch_providers()
            self._parts.prices.preload()
            outer = _open_scope(context.current_budget.get(), run)
            if outer is not None:
                self.tree, self._outer = outer.tree, outer
                self.account.parent = outer.account
                self._take_share(outer)
            elif self._share is not None:
                raise ActGuardUsageError(
                    "budget_guard: share is a part of what the scope around this one has left, and there is none here; "
                    "set usd_limit, token_limit or cost_limit instead",
                    field="share",
                    code=BUDGET_CODE,
                )
            else:
                await self._open_or_join(run)
        except BaseException:
            self._forget()
            raise
        self._desk = Desk(self._parts, self.tree, self.account, self.name, self._manners)
        context.current_budget.set(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._run is None or self.closed:
            return
        self.closed = True
        if context.current_budget.get() is self:
            context.current_budget.set(_open_scope(self._outer, self._run))
        self.tree.close_books(self.account)
        if self._is_path:
            await self._leave_root(self._run, error)

    def _forget(self) -> None:
        """It was not entered after all, and may be entered elsewhere, as a new scope."""
        self._run = self._outer = self.tree = None
        self._is_path = False
        self.account = self._new_account()
        self.scope_id = new_id()

    def _new_account(self) -> Account:
        return Account(self._limits, owner=self, hard=self.enforcement == "hard")

    def _take_share(self, outer: BudgetGuard) -> None:
        """``share`` of what is left around this scope, where its own limits are not lower already."""
        if self._share is None:
            return
        with self.tree.lock:
            left = ledger.room(outer.account, hard_only=False)
        self.account.limits = ledger.at_most(self._limits, ledger.part_of(left, self._share))

    def shares(self, limit_type: LimitType) -> bool:
        """True when this limit is a share of what the scopes around it had left, and not one of its own."""
        at = ("usd", "token", "cost").index(limit_type)
        return self.account.limits[at] != self._limits[at] and self._share is not None

    def _active_run(self) -> Run:
        run = context.active_run()
        if run is None or run.closed:
            raise MissingRuntimeContextError("budget_guard")
        assert isinstance(run, Run)
        if not run.belongs_to(self._parts):
            raise BudgetClientMismatchError
        if self._asked_run_id is not None and self._asked_run_id != run.run_id:
            raise ActGuardRuntimeContextError(
                f"budget_guard: run_id={self._asked_run_id!r} is not the active run, which is {run.run_id!r}. "
                "Leave run_id out, or open the scope inside that run.",
                code="runtime.run_id_mismatch",
            )
        return run

    async def _open_or_join(self, run: Run) -> None:
        while True:
            with run.lock:
                tree = run.tree
                if tree is None:
                    tree = run.tree = Tree(self._parts, self.account, self)
                else:
                    self._check_same_settings(tree.guard)
                    tree.paths += 1
            self._is_path = True
            self.tree = tree
            if tree.guard is self:
                await self._open(run, tree)
                return
            try:
                await tree.opening.wait(self._parts.budget_timeout_s)
            except _OpenerLeft:  # open it with the settings that were going to apply
                self._take_settings(tree.guard)
                self.account = self._new_account()
                continue
            except TimeoutError:
                degraded(self._parts.bus, "join", "timeout")
            except BaseException as error:
                if tree.opening.done and run.tree is tree:  # it is open, and this path was cancelled
                    await self._leave_root(run, error)
                else:
                    with run.lock:
                        tree.paths -= 1
                raise
            self._take_settings(tree.guard)
            self.scope_id = tree.guard.scope_id
            self.account = Account(parent=tree.account, owner=self)
            return

    def _take_settings(self, root: BudgetGuard) -> None:
        """What this path left out is as in the root."""
        self._limits, self.name, self.plan_key = root._limits, root.name, root.plan_key
        self._asked_user_id = root.user_id
        self.on_crossing, self.enforcement, self._manners = root.on_crossing, root.enforcement, root._manners

    async def _open(self, run: Run, tree: Tree) -> None:
        if self._parts.bus.concerns(SettleRequested):
            tree.entries = []
        try:
            verdict = await reserve(self._parts, run.run_id, self, self._limits)
        except BaseException as error:
            with run.lock:
                run.tree = None
            tree.opening.fail(error if isinstance(error, Exception) else _OpenerLeft())
            raise
        if isinstance(verdict, Reserved):
            tree.reserve_id, tree.cost_of = verdict.reserve_id, verdict.cost_of
            tree.cu_per_usd = verdict.cu_per_usd or CU_PER_USD
            self.account.limits = Limits(
                self._limits.usd or verdict.usd_limit, self._limits.tokens, self._limits.cost or verdict.cost_limit
            )
        context.root_opened(tree)
        tree.opening.answer(None)

    async def _leave_root(self, run: Run, error: BaseException | None) -> None:
        tree: Tree = self.tree
        with run.lock:
            tree.paths -= 1
            if tree.paths:
                return
            tree.closed = True
            if run.tree is tree:
                run.tree = None
        context.root_closed(tree)
        tree.close_books(None)
        await settle(self._parts, run.run_id, tree.guard, tree, error)

    def _check_same_settings(self, root: BudgetGuard) -> None:
        """A path that joins the root may leave a setting out, but not change it."""
        fields = (*_LIMIT_FIELDS, "user_id", "plan_key", "name", "share")
        given = (*self._limits, self._asked_user_id, self.plan_key, self.name, self._share)
        there = (*root._limits, root.user_id, root.plan_key, root.name, root._share)
        for field, value, root_value in zip(fields, given, there, strict=True):
            if value is not None and value != root_value:
                raise BudgetConfigurationError(field=field, root_value=root_value, value=value)
        choices, root_choices = self._choices(), root._choices()
        for field, choice_made in choices.items():
            if choice_made not in (_CHOICES[field], root_choices[field]):
                raise BudgetConfigurationError(field=field, root_value=root_choices[field], value=choice_made)

    def _choices(self) -> dict[str, object]:
        """The settings that have a default, by name."""
        manners = self._manners
        return {
            "on_crossing": self.on_crossing,
            "enforcement": self.enforcement,
            "min_output_tokens": manners.min_output_tokens,
            "allow_unbounded": manners.allow_unbounded,
            "on_full": "wait" if manners.waits else "raise",
        }

    # --- whose it is --------------------------------------------------------------------------------------------

    @property
    def run_id(self) -> str | None:
        """The run it belongs to."""
        return self._asked_run_id if self._run is None else self._run.run_id

    @property
    def user_id(self) -> str | None:
        """Whom it acts for: its own ``user_id``, else the one of the scope around it, else the run's."""
        if self._asked_user_id is not None:
            return self._asked_user_id
        outer = self._outer or self._run
        return None if outer is None else outer.user_id

    # --- what integrations use ----------------------------------------------------------------------------------

    @property
    def prices(self) -> Any:
        """The client's price book."""
        return self._parts.prices

    @property
    def ready(self) -> bool:
        """True once prices are loaded: before that, a call's cost could not be counted without waiting."""
        return self._parts.prices.loaded

    def wait_ready(self) -> None:
        """Wait until prices are loaded."""
        self._parts.prices.load()

    async def await_ready(self) -> None:
        """Wait until prices are loaded, without blocking the event loop."""
        await to_thread.run_sync(self._parts.prices.load)

    def note_uncounted(self, provider: str, what: str) -> None:
        """A call asks for something whose cost nobody can count: a warning, once per client.

        Raises:
            GuardError: (code ``UNPRICED_CALL``) this scope's limits are hard, or ``on_unpriced`` is ``"raise"``.
        """
        try:
            self._parts.note_uncounted(provider, what, hard=self.bounds and not self._manners.allow_unbounded)
        except GuardError as refusal:
            self._announce(refusal)
            raise

    def admit(self, asked: Asked) -> Ticket:
        """Admit one provider call, with a hold of what it may cost; the caller charges or releases the ticket.

        Raises:
            BudgetExceededError: this scope or one around it is full, with what other calls under way may still use, or
                has no room for what the call can cost.
            GuardError: its cost is not known (code ``UNPRICED_MODEL``) or not bounded (``UNBOUNDED_CALL``).
        """
        if self.tree.closed:
            note_late_spending(self._parts.bus, self.tree)
        try:
            ticket: Ticket = self._desk.admit(asked)
        except GuardError as refusal:
            self._announce(refusal)
            raise
        return ticket

    def admit_at_once(self, asked: Asked) -> Ticket | None:
        """The same as `admit`; None where a ticket is worth waiting for: with `admit_in_turn`."""
        if self.tree.closed:
            note_late_spending(self._parts.bus, self.tree)
        try:
            ticket: Ticket | None = self._desk.admit_at_once(asked)
        except GuardError as refusal:
            self._announce(refusal)
            raise
        return ticket

    async def admit_in_turn(self, asked: Asked) -> Ticket:
        """The same as `admit`, waiting while only other calls' holds are in the way that a scope like this waits for:
        all with ``on_full="wait"``, else those that are guesses."""
        if self.tree.closed:
            note_late_spending(self._parts.bus, self.tree)
        try:
            ticket: Ticket = await self._desk.admit_in_turn(asked)
        except GuardError as refusal:
            self._announce(refusal)
            raise
        return ticket

    def _announce(self, refusal: GuardError) -> None:
        """A call was refused for what it is; that a scope is full is announced where the limit is found reached."""
        bus = self._parts.bus
        if bus.wants(GuardBlocked):
            bus.publish(
                GuardBlocked(
                    run_id=self.run_id,
                    user_id=self.user_id,
                    tool_name=context.current_tool.get(),
                    guard_name="budget",
                    error_type=type(refusal).__name__,
                    error_message=str(refusal),
                    figures={"code": refusal.code, **refusal.details},
                    **self.identity(),
                )
            )

    @property
    def waits(self) -> bool:
        """True with ``on_full="wait"``: calls are admitted with `admit_in_turn`."""
        return self._manners.waits

    @property
    def bounds(self) -> bool:
        """True when this scope or one around it is hard: calls are admitted with their `Bound`."""
        return bool(self._desk.hard)

    def add_cost(self, name: str, usd: Decimal) -> None:
        """Charge an outside cost; see `actguard.add_cost`."""
        tree: Tree = self.tree
        if tree.closed:
            note_late_spending(self._parts.bus, tree)
        cu = usd_to_cu(usd, tree.cu_per_usd)
        charge = Charge(RowKey("custom", name, self.name, context.current_tool.get(), False), usd=usd, cost=cu, calls=0)
        with tree.lock:
            # A cost that crosses a limit is let through by on_crossing="return"; one that comes after it is not.
            full_before = ledger.full(self.account)
            ledger.record(self.account, None, charge)
            if tree.entries is not None:
                tree.entries.append(CallEntry(model=name, cost_cu=cu, scope_name=self.name))
            full = ledger.full(self.account, raises) or full_before
        if full is not None:
            raise tree.refusal(full)

    def identity(self) -> ScopeIdentity:
        """The fields that name this scope in events and errors."""
        root = self if self.tree is None else self.tree.guard
        return {
            "scope_id": self.scope_id,
            "scope_name": self.name,
            "scope_kind": "root" if self._outer is None else "nested",
            "parent_scope_id": None if self._outer is None else self._outer.scope_id,
            "root_scope_id": root.scope_id,
            "plan_key": root.plan_key,
        }


_LIMIT_FIELDS = ("usd_limit", "token_limit", "cost_limit")
_CHOICES: dict[str, object] = {
    "on_crossing": "raise",
    "enforcement": "soft",
    "min_output_tokens": 16,
    "allow_unbounded": False,
    "on_full": "raise",
}


def _open_scope(scope: BudgetGuard | None, run: Run) -> BudgetGuard | None:
    """The innermost scope from ``scope`` outwards that is open and belongs to ``run``."""
    while scope is not None and (scope.closed or scope._run is not run):
        scope = scope._outer
    return scope


def add_cost(name: str, usd: float | str | Decimal) -> None:
    """Charge a cost from outside the provider SDKs (a search API, a GPU minute) to the active budget scope.

    ``usd`` is read as it is written: ``0.1`` is ten cents exactly.

    Raises:
        ValueError: ``usd`` is negative, not finite or no amount.
        MissingRuntimeContextError: no budget scope is active here.
        BudgetExceededError: the cost reached a limit (or one was reached before); it is recorded first.

    Example:
        ``actguard.add_cost(name="maps lookup", usd="0.005")``
    """
    if text_or_none(name, "name", "add_cost") is None:
        raise ActGuardUsageError("add_cost: name must be a non-empty text", field="name")
    try:
        amount = as_written(usd)
    except ValueError as error:
        problem = str(error)
    else:
        budget = context.active_budget()
        if budget is None:
            raise MissingRuntimeContextError("add_cost", needs="budget scope")
        budget.add_cost(name, amount)
        return
    raise ValueError(f"add_cost: usd {problem}")
