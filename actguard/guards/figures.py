"""The figures of a budget scope: what was used, what is left, and by whom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeVar

from actguard.rules.ledger import EXACT, ZERO, Account

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BreakdownRow:
    """A row of `BudgetGuard.breakdown`: the calls of one model, from one scope and tool."""

    provider: str
    """Who answered; "custom" for `add_cost`."""
    model: str
    """The model that answered; the name of an outside cost."""
    scope_name: str | None
    """The innermost scope the calls were charged to."""
    tool_name: str | None
    """The guarded tool they were made from."""
    calls: int
    """How many they were."""
    input_tokens: int
    """All billed input, cache reads and writes included."""
    cached_input_tokens: int
    """Cache reads among them."""
    cache_write_tokens: int
    """Cache writes among them."""
    output_tokens: int
    """All output, reasoning included."""
    usd: Decimal
    """What they cost, in USD, exact."""
    estimated: bool
    """True when the provider did not report the usage of these calls."""


class BudgetFigures:
    """What can be read from a `BudgetGuard` at any time, also after its exit.

    Plain figures of a root are those of the whole run below it, of a nested scope its own. ``root_*`` are the root's;
    ``local_*`` are the scope's own (on a path that joined an existing root, what this path charged).
    """

    account: Account
    tree: Any
    _outer: Any

    @property
    def usd_limit(self) -> float | None:
        """The limit in USD, also when the gateway set it; None without one."""
        usd = self._shown.limits.usd
        return None if usd is None else float(usd)

    @property
    def token_limit(self) -> int | None:
        """The limit in tokens (input plus output)."""
        return self._shown.limits.tokens

    @property
    def cost_limit(self) -> int | None:
        """The limit in cost units (CU)."""
        return self._shown.limits.cost

    @property
    def tokens_used(self) -> int:
        """Input plus output tokens charged."""
        return self._read(self._shown, lambda account: account.tokens)

    @property
    def usd_used(self) -> float:
        """USD charged, as a float; `usd_used_exact` has every digit."""
        return float(self.usd_used_exact)

    @property
    def usd_used_exact(self) -> Decimal:
        """USD charged, exact."""
        return self._read(self._shown, lambda account: account.totals.usd)

    @property
    def cost_used(self) -> int:
        """Cost units (CU) charged."""
        return self._read(self._shown, lambda account: account.totals.cost)

    @property
    def usd_remaining(self) -> float | None:
        """USD until ``usd_limit``, not below zero; None without a limit."""
        limit = self._shown.limits.usd
        return None if limit is None else float(max(EXACT.subtract(limit, self.usd_used_exact), ZERO))

    @property
    def calls(self) -> int:
        """Provider calls charged."""
        return self._read(self._shown, lambda account: account.totals.calls)

    @property
    def estimated_usd(self) -> float:
        """The part of `usd_used` that is estimated, in USD: the provider did not report the usage of those calls."""
        return float(self._read(self._shown, lambda account: account.estimated_usd))

    @property
    def local_tokens_used(self) -> int:
        """Tokens charged in this scope (on a path that joined the root, by this path)."""
        return self._read(self.account, lambda account: account.tokens)

    @property
    def local_usd_used(self) -> float:
        """USD charged in this scope (on a path that joined the root, by this path)."""
        return float(self._read(self.account, lambda account: account.totals.usd))

    @property
    def local_cost_used(self) -> int:
        """Cost units charged in this scope (on a path that joined the root, by this path)."""
        return self._read(self.account, lambda account: account.totals.cost)

    @property
    def root_tokens_used(self) -> int:
        """Tokens charged to the root."""
        return self._read(self._root, lambda account: account.tokens)

    @property
    def root_usd_used(self) -> float:
        """USD charged to the root."""
        return float(self._read(self._root, lambda account: account.totals.usd))

    @property
    def root_cost_used(self) -> int:
        """Cost units charged to the root."""
        return self._read(self._root, lambda account: account.totals.cost)

    def breakdown(self) -> list[BreakdownRow]:
        """What was charged, by provider, model, scope and tool, the dearest first. The sum of ``usd`` is exact."""
        rows = self._read(
            self._shown,
            lambda account: [
                BreakdownRow(
                    key.provider,
                    key.model,
                    key.scope_name,
                    key.tool_name,
                    sums.calls,
                    sums.input_tokens,
                    sums.cached_input_tokens,
                    sums.cache_write_tokens,
                    sums.output_tokens,
                    sums.usd,
                    key.estimated,
                )
                for key, sums in account.rows.items()
            ],
        )
        rows.sort(key=lambda row: (row.provider, row.model))
        return sorted(rows, key=lambda row: row.usd, reverse=True)  # no minus: that would round

    @property
    def _root(self) -> Account:
        return self.account if self.tree is None else self.tree.account

    @property
    def _shown(self) -> Account:
        """The account behind the plain figures: the root's on every path of the root."""
        return self._root if self._outer is None else self.account

    def _read(self, account: Account, figure: Callable[[Account], T]) -> T:
        if self.tree is None:
            return figure(account)
        with self.tree.lock:
            return figure(account)
