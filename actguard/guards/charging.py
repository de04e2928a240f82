"""A provider call between its admission and its charge.

`BudgetGuard.admit` gives out a `Ticket`. It holds what the call may cost until `charge` replaces the hold by what it
did cost, or `release` gives it back. The ticket remembers its scope, so a stream that is read after the scope, or in
another task, is charged where it was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

from actguard.events import CallEntry, LlmUsage
from actguard.exceptions import BudgetExceededError
from actguard.guards.tree import NOT_BILLED, Tree, owner_of, raises
from actguard.money.usage import NO_DETAILS, Usage
from actguard.rules import ledger
from actguard.rules.ledger import EXACT, NOTHING, ZERO, Account, Charge, Full, Hold, Limits, RowKey

CHECK_AT_MOST = 64
"""Output tokens between two checks of a running stream, so that concurrent streams see each other in time."""
NEVER = 2**62
"""The next check of a stream that no limit applies to."""

NO_CONTEXT: Mapping[str, str] = {}
MICRO = Decimal(1_000_000)


class Ticket:
    """One provider call that was admitted. Thread-safe; nothing here suspends; callable from ``__del__``."""

    __slots__ = (
        "_charge",
        "_cut",
        "_entry_at",
        "_hold",
        "_most",
        "_published",
        "_running",
        "_scope_name",
        "_so_far",
        "_tree",
        "account",
        "api",
        "estimate",
        "model",
        "output_limit",
        "provider",
        "settled",
        "stream",
        "tool_name",
    )

    def __init__(
        self,
        tree: Tree,
        account: Account,
        *,
        provider: str,
        model: str,
        api: str,
        stream: bool,
        estimate: Usage,
        hold: Hold,
        output_limit: int | None = None,
        most: Usage | None = None,
        scope_name: str | None,
        tool_name: str | None,
    ) -> None:
        self._tree = tree
        self.account = account
        self.provider = provider
        self.model = model
        self.api = api
        self.stream = stream
        self._most = most
        self.estimate = self._at_most(estimate)
        """What the call is expected to use."""
        self.output_limit = output_limit
        """The output limit that the request must be sent with; None: as it is."""
        self.tool_name = tool_name
        self.settled = False
        """True once the call is charged or released, and not only provisionally at scope exit."""
        self._scope_name = scope_name
        self._hold = hold
        self._running = NOTHING
        self._so_far: Callable[[], Usage] | None = None
        self._charge: Charge | None = None
        self._entry_at: int | None = None
        self._cut: Full | None = None
        self._published = False

    def watch(self, so_far: Callable[[], Usage]) -> None:
        """While an answer is still being read: ``so_far()`` is what it has used as far as known."""
        self._so_far = so_far

    def charge(
        self,
        usage: Usage,
        *,
        provider: str | None = None,
        model: str | None = None,
        context: Mapping[str, str] | None = None,
        estimated: bool = False,
    ) -> BudgetExceededError | None:
        """Replace the hold by what the call did cost and publish `LlmUsage`. The first charge counts; after an
        estimated one also the first exact one, which replaces it.

        ``provider`` and ``model`` are those that answered, where they differ from those that were asked; ``context``
        is the price context (``{"service_tier": "flex"}``). Returns the error to raise when a limit is reached.
        """
        if usage.is_zero:
            self.release()
            return None
        if estimated:
            usage = self._at_most(usage)
        return self._finish(usage, provider or self.provider, model or self.model, context, estimated, 1)

    def charge_estimate(self, attempts: int = 1) -> BudgetExceededError | None:
        """The call was sent and its usage will never be known: charge what is known or expected, as estimated.

        ``attempts`` is how many times it was sent and may have been billed.
        """
        return self._finish(self._known(), self.provider, self.model, None, True, attempts)

    def release(self) -> None:
        """Nothing was billed: give the hold back."""
        tree = self._tree
        with tree.lock:
            if self.settled:
                return
            self._settle()
            if self._charge is not None:
                ledger.record(self.account, self._charge, None)
                self._charge = None
                self._put_entry(NOT_BILLED)
        tree.room_came_back()

    def check(self, so_far: Usage) -> tuple[BudgetExceededError | None, int]:
        """While a stream runs: is a limit reached with what it used so far?

        Returns the error to raise after the stream is closed and what arrived is delivered (or None), and how many
        more output tokens may come before the next check is due.
        """
        so_far = self._at_most(so_far)
        if self._charge is not None:  # the scope was left: what the stream has used is charged, provisionally
            full = self._apply(so_far, self.provider, self.model, None, True, 1, settle=False, publish=False)
            return self._verdict(full, self._tree.left(self.account))
        usd = self._price(so_far, self.provider, self.model, None) or ZERO
        running = Hold(usd, so_far.total_tokens, self._tree.cost(self.provider, self.model, so_far, usd))
        with self._tree.lock:
            if self.settled:
                return None, NEVER
            hold = ledger.at_least(self._hold, running)
            ledger.progress(self.account, self._running, running)
            ledger.rehold(self.account, self._hold, hold)
            self._running, self._hold = running, hold
            full = ledger.full_while_running(self.account, raises)
        return self._verdict(full, self._tree.left(self.account))

    def _verdict(self, full: Full | None, left: Limits) -> tuple[BudgetExceededError | None, int]:
        if full is None:
            return None, self._next_check(left)
        error = self._tree.refusal(full, announce=self._cut is None)
        self._cut = full
        return error, NEVER

    def close_books(self, *, final: bool) -> None:
        """The scope is left while this call is open: charge what is known, as estimated. An exact charge may follow."""
        self._apply(self._known(), self.provider, self.model, None, True, 1, settle=False, publish=final)

    def _known(self) -> Usage:
        return self.estimate if self._so_far is None else self._at_most(self._so_far())

    def _at_most(self, usage: Usage) -> Usage:
        """An estimate of a call whose cost is bounded is never above its bound."""
        most = self._most
        if most is None or (usage.input_tokens <= most.input_tokens and usage.output_tokens <= most.output_tokens):
            return usage
        excess = max(usage.input_tokens - most.input_tokens, 0)
        output = min(usage.output_tokens, most.output_tokens)
        return replace(
            usage,
            uncached_input_tokens=max(usage.uncached_input_tokens - excess, 0),
            output_tokens=output,
            reasoning_tokens=None if usage.reasoning_tokens is None else min(usage.reasoning_tokens, output),
            details=NO_DETAILS,
        )

    def _price(self, usage: Usage, provider: str, model: str, context: Mapping[str, str] | None) -> Decimal | None:
        return self._tree.parts.price(provider, model, usage, context or NO_CONTEXT, requested=self.model)

    def _next_check(self, left: Limits) -> int:
        """Half of what is affordable, at most `CHECK_AT_MOST` output tokens."""
        tokens = NEVER if left.tokens is None else left.tokens
        usd = left.usd
        if left.cost is not None:
            by_cost = Decimal(max(left.cost - 1, 0)).scaleb(-3, EXACT)
            usd = by_cost if usd is None else min(usd, by_cost)
        if usd is not None:
            rates = self._tree.parts.prices.marginal_rates(self.provider, self.model)
            if rates is not None and rates.output > 0:
                tokens = min(tokens, int(EXACT.divide(usd, rates.output)))
        return NEVER if tokens == NEVER else max(1, min(tokens // 2, CHECK_AT_MOST))

    def _finish(
        self,
        usage: Usage,
        provider: str,
        model: str,
        context: Mapping[str, str] | None,
        estimated: bool,
        attempts: int,
    ) -> BudgetExceededError | None:
        full = self._apply(usage, provider, model, context, estimated, attempts, settle=True, publish=True)
        if not estimated:
            self._tree.parts.history.note(self.provider, self.model, usage.output_tokens)
        if full is None:
            return None
        return self._tree.refusal(full, announce=self._cut is None)

    def _apply(
        self,
        usage: Usage,
        provider: str,
        model: str,
        context: Mapping[str, str] | None,
        estimated: bool,
        attempts: int,
        *,
        settle: bool,
        publish: bool,
    ) -> Full | None:
        """Write the charge into the ledger, in place of the hold or of an earlier estimate.

        Returns the innermost full account whose crossing raises: one that does not never hides one around it that does.
        """
        tree = self._tree
        usd = self._price(usage, provider, model, context)
        charge = Charge(
            RowKey(provider, model, self._scope_name, self.tool_name, estimated),
            input_tokens=usage.input_tokens * attempts,
            cached_input_tokens=usage.cached_input_tokens * attempts,
            cache_write_tokens=usage.cache_write_tokens * attempts,
            output_tokens=usage.output_tokens * attempts,
            usd=EXACT.multiply(usd or ZERO, Decimal(attempts)),
            cost=tree.cost(provider, model, usage, usd or ZERO) * attempts,
        )
        with tree.lock:
            before = self._charge
            replaces_estimate = before is not None and before.key.estimated and not estimated
            if self.settled and not replaces_estimate:
                return None
            ledger.record(self.account, before, charge)
            self._charge = charge
            if settle:
                self._settle()
            else:
                self._shrink_hold(before, charge)
            if tree.entries is not None:
                self._put_entry(_entry(charge, usage, attempts))
            publish, self._published = publish and not self._published, self._published or publish
            full = ledger.full(self.account, raises) or self._cut
        if settle:
            tree.room_came_back()
        if publish and tree.parts.bus.wants(LlmUsage):
            tree.parts.bus.publish(self._event(charge, usage, attempts, unpriced=usd is None))
        return full

    def _settle(self) -> None:
        """End the hold. Called under the lock of the tree."""
        self.settled = True
        ledger.rehold(self.account, self._hold, NOTHING)
        ledger.progress(self.account, self._running, NOTHING)
        self._hold = self._running = NOTHING
        self._tree.open_calls.discard(self)

    def _shrink_hold(self, before: Charge | None, charge: Charge) -> None:
        """What is charged provisionally is not held as well; the rest of the hold stays. Called under the lock."""
        rest = ledger.rest_of(self._hold, before, charge)
        ledger.rehold(self.account, self._hold, rest)
        ledger.progress(self.account, self._running, NOTHING)
        self._hold, self._running = rest, NOTHING

    def _put_entry(self, entry: CallEntry) -> None:
        entries = self._tree.entries
        if entries is None:
            return
        if self._entry_at is None:
            self._entry_at = len(entries)
            entries.append(entry)
        else:
            entries[self._entry_at] = entry

    def _event(self, charge: Charge, usage: Usage, attempts: int, *, unpriced: bool) -> LlmUsage:
        owner = owner_of(self.account)
        return LlmUsage(
            run_id=owner.run_id,
            user_id=owner.user_id,
            tool_name=self.tool_name,
            provider=charge.key.provider,
            model=charge.key.model,
            input_tokens=charge.input_tokens,
            cached_input_tokens=charge.cached_input_tokens,
            cache_write_tokens=charge.cache_write_tokens,
            cache_write_tokens_5m=usage.cache_write_5m_tokens * attempts,
            cache_write_tokens_1h=usage.cache_write_1h_tokens * attempts,
            output_tokens=charge.output_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            web_searches=usage.web_searches * attempts,
            usd=None if unpriced else charge.usd,
            usd_micros=None if unpriced else micros(charge.usd),
            cost_cu=charge.cost,
            estimated=charge.key.estimated,
            unpriced=unpriced,
            api=self.api,
            stream=self.stream,
            **owner.identity(),
        )


def micros(usd: Decimal) -> int:
    """Millionths of a dollar, to the nearest whole one."""
    return int(EXACT.multiply(usd, MICRO).to_integral_value(rounding=ROUND_HALF_EVEN))


def _entry(charge: Charge, usage: Usage, attempts: int) -> CallEntry:
    figures: dict[str, Any] = {
        "provider": charge.key.provider,
        "model": charge.key.model,
        "input_tokens": charge.input_tokens,
        "cached_input_tokens": charge.cached_input_tokens,
        "cache_write_tokens_5m": usage.cache_write_5m_tokens * attempts,
        "cache_write_tokens_1h": usage.cache_write_1h_tokens * attempts,
        "output_tokens": charge.output_tokens,
        "web_searches": usage.web_searches * attempts,
        "scope_name": charge.key.scope_name,
    }
    return CallEntry(**figures)
