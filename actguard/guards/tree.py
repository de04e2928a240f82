"""A budget tree: the accounts of one root and its nested scopes, under one lock, with the calls under way in it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Protocol, TypedDict, cast

from actguard.context import ScopeIdentity
from actguard.events import BudgetBlocked, CallEntry
from actguard.exceptions import BudgetExceededError
from actguard.guards.parts import Parts
from actguard.locks import SettlingLock
from actguard.money.tariff import CU_PER_USD, usd_to_cu
from actguard.money.usage import Usage
from actguard.rules import ledger
from actguard.rules.ledger import EXACT, Account, Full, Limits, LimitType
from actguard.scope import Reply

CostOf = Callable[[str, str, Usage], int]


NOT_BILLED = CallEntry()
"""In the place of a call that turned out to cost nothing: it is not settled."""


class OpenCall(Protocol):
    """A provider call that was admitted and whose cost is not known for good."""

    account: Account

    def close_books(self, *, final: bool) -> None:
        """The scope is left: charge what is known so far, as estimated. ``final``: the whole tree is left."""


class Waiter(Protocol):
    """A call that waits for room."""

    bell: Reply[None]
    asker: object


class AccountOwner(Protocol):
    """The scope that an account belongs to, as far as a refusal has to name it."""

    on_crossing: str
    user_id: str | None
    run_id: str | None

    def identity(self) -> ScopeIdentity: ...

    def shares(self, limit_type: LimitType) -> bool:
        """True when this limit is a share of what the scopes around it had left."""


class Figures(TypedDict):
    """Usage and limits of a scope, as errors and events name them."""

    limit_type: LimitType
    tokens_used: int
    token_limit: int | None
    usd_used: float
    usd_limit: float | None
    cost_used: int
    cost_limit: int | None


def owner_of(account: Account) -> AccountOwner:
    """The scope behind ``account``."""
    return cast(AccountOwner, account.owner)


def raises(account: Account) -> bool:
    """True when the call that crosses a limit of ``account`` raises, and does not return its answer."""
    return owner_of(account).on_crossing == "raise"


class Tree:
    """What all scopes below one root share."""

    __slots__ = (
        "account",
        "closed",
        "cost_of",
        "cu_per_usd",
        "entries",
        "guard",
        "lock",
        "open_calls",
        "opening",
        "parts",
        "paths",
        "queues",
        "reserve_id",
    )

    def __init__(self, parts: Parts, account: Account, guard: Any) -> None:
        self.parts = parts
        self.account = account
        self.guard = guard
        """The scope that opened the root."""
        self.lock = SettlingLock()
        self.opening: Reply[None] = Reply()
        """Answered when the root is open; paths that join wait for it."""
        self.paths = 1
        """Paths of the run that are in the root; the last one to leave settles it."""
        self.closed = False
        self.open_calls: set[OpenCall] = set()
        self.queues: dict[Account, deque[Waiter]] = {}
        """Per scope, the calls that wait for holds to come back, in the order in which they came."""
        self.entries: list[CallEntry] | None = None
        """The calls to settle; None when nobody settles."""
        self.reserve_id: str | None = None
        self.cost_of: CostOf | None = None
        self.cu_per_usd = CU_PER_USD

    def cost(self, provider: str, model: str, usage: Usage, usd: Decimal) -> int:
        """The cost units of a call: by the gateway's tariff, else its USD × 1,000, rounded up once."""
        return usd_to_cu(usd) if self.cost_of is None else self.cost_of(provider, model, usage)

    def left(self, account: Account) -> Limits:
        """What is left for ``account`` until a limit is reached, calls under way counted as far as they are."""
        with self.lock:
            return ledger.left_while_running(account)

    def room_came_back(self) -> None:
        """A hold was given back: the first call in each queue looks again. Called without the lock."""
        if self.queues:
            with self.lock:
                first = [queue[0] for queue in self.queues.values() if queue]
            for waiter in first:
                waiter.bell.answer(None)

    def close_books(self, account: Account | None) -> None:
        """Charge the open calls of ``account`` (of all accounts when None) as far as they are known."""
        with self.lock:
            calls = [call for call in self.open_calls if account is None or call.account is account]
        for call in calls:
            call.close_books(final=account is None)

    def refusal(
        self, full: Full, *, announce: bool = True, for_now: bool = False, missing: str | None = None
    ) -> BudgetExceededError:
        """The error that says that ``full.account`` is full, announced on the bus."""
        account, owner = full.account, owner_of(full.account)
        scope, bus = owner.identity(), self.parts.bus
        with self.lock:
            limits, totals, running, held = account.limits, account.totals, account.running, account.held
            figures: Figures = {
                "limit_type": full.limit_type,
                "tokens_used": account.tokens + running.tokens,
                "token_limit": limits.tokens,
                "usd_used": float(EXACT.add(totals.usd, running.usd)),
                "usd_limit": None if limits.usd is None else float(limits.usd),
                "cost_used": totals.cost + running.cost,
                "cost_limit": limits.cost,
            }
            under_way = bool(self.open_calls)
            amount = {"usd": f"{held.usd:.6f} USD", "token": f"{held.tokens} tokens", "cost": f"{held.cost} CU"}
        if announce and bus.wants(BudgetBlocked):
            bus.publish(BudgetBlocked(run_id=owner.run_id, user_id=owner.user_id, **scope, **figures))
        return BudgetExceededError(
            user_id=owner.user_id,
            scope_id=scope["scope_id"],
            scope_name=scope["scope_name"],
            scope_kind=scope["scope_kind"],
            parent_scope_id=scope["parent_scope_id"],
            root_scope_id=scope["root_scope_id"],
            held=amount[full.limit_type] if for_now else None,
            missing=missing,
            under_way=under_way,
            is_share=owner.shares(full.limit_type),
            **figures,
        )
