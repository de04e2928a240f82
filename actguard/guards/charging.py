"""A provider call between its admission and its charge.

`BudgetGuard.admit` gives out a `Ticket`. It holds what the call may cost until `charge` replaces the hold by what it
did cost, or `release` gives it back. The ticket remembers its scope, so a stream that is read after the scope, or in
another task, is charged where it was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal

from actguard.events import CallEntry, LlmUsage
from actguard.exceptions import BudgetExceededError
from actguard.guards.statement import Spent, charge_for, entry_for, event_for
from actguard.guards.tree import NOT_BILLED, Tree, raises
from actguard.money.usage import NO_DETAILS, Usage
from actguard.rules import ledger
from actguard.rules.ledger import EXACT, NOTHING, ZERO, Account, Charge, Full, Hold, Limits

CHECK_AT_MOST = 64
"""Output tokens between two checks of a running stream, so that concurrent streams see each other in time."""
CHECK_WITH_PLENTY = 512
"""The same where it is less than a thousandth of what is left: a check takes as long as reading twenty chunks."""
MILLION = 1_000_000
NEVER = 2**62
"""The next check of a stream that no limit applies to."""

NO_CONTEXT: Mapping[str, str] = {}
PriceContext = Mapping[str, str] | None
"""What besides the model decides the price: ``{"service_tier": "flex"}``; None: nothing."""
STANDARD: tuple[PriceContext, ...] = (None,)


class Ticket:
    """One provider call that was admitted. Thread-safe; nothing here suspends; callable from ``__del__``."""

    __slots__ = (
        "_charge",
        "_context",
        "_cut",
        "_each",
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
        "asker",
        "estimate",
        "model",
        "output_limit",
        "provider",
        "reasoning_effort",
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
        each: Hold | None = None,
        scope_name: str | None,
        tool_name: str | None,
    ) -> None:
        self._tree = tree
        self.account = account
        self.provider = provider
        self.model = model
        self.api = api
        self.stream = stream
        self._most, self._each = most, each
        """What one attempt can use, and cost, at the most; None: nobody knows."""
        self.estimate = self._at_most(estimate)
        """What the call is expected to use."""
        self.output_limit = output_limit
        """The output limit that the request must be sent with; None: as it is."""
        self.tool_name = tool_name
        self.reasoning_effort: str | None = None
        """How hard the model is asked to think, where the call `is_listed`; None: the request does not say."""
        self.settled = False
        """True once the call is charged or released, and not only provisionally at scope exit."""
        self.asker: object = None
        """The task or thread that asked for it, where calls wait for each other: one that waits for itself must not."""
        self._scope_name = scope_name
        self._hold = hold
        self._running = NOTHING
        self._so_far: Callable[[], Usage] | None = None
        self._charge: Charge | None = None
        self._context: PriceContext = None
        self._entry_at: int | None = None
        self._cut: Full | None = None
        self._published = False

    @property
    def closed(self) -> bool:
        """True once the root that pays for the call was left."""
        return self._tree.closed

    @property
    def is_listed(self) -> bool:
        """True when the gateway will be told of the call by itself."""
        return self._tree.entries is not None

    @property
    def came_to_nothing(self) -> bool:
        """True once the call is released: nothing is charged for it, and nothing can be."""
        return self.settled and self._charge is None

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
        if estimated:
            usage = self._at_most(usage)
        spent = Spent(usage, provider or self.provider, model or self.model, context, estimated)
        if usage.is_zero and not self._price(spent):  # a price per request is due for an empty answer too
            self.release()
            return None
        return self._finish(spent)

    def charge_estimate(self, attempts: int = 1) -> BudgetExceededError | None:
        """The call was sent and its usage will never be known: charge what is known or expected, as estimated.

        ``attempts`` is how many times it was sent and may have been billed.
        """
        return self._finish(self._estimated(self._known(), attempts))

    def charge_lost(self, attempts: int) -> BudgetExceededError | None:
        """So many attempts before this one were sent and never answered: each is charged as estimated, on its own."""
        each = None if self._each is None else ledger.times(self._each, attempts)
        lost = Ticket(
            self._tree,
            self.account,
            provider=self.provider,
            model=self.model,
            api=self.api,
            stream=self.stream,
            estimate=self.estimate,
            hold=Hold(most=each),
            most=self._most,
            each=self._each,
            scope_name=self._scope_name,
            tool_name=self.tool_name,
        )
        with self._tree.lock:
            if each is not None and self._hold.most is not None:
                own = self._hold._replace(most=ledger.less(self._hold.most, each))
                ledger.rehold(self.account, self._hold, own)
                self._hold = own
            ledger.rehold(self.account, NOTHING, lost._hold)
            self._tree.open_calls.add(lost)
        return lost.charge_estimate(attempts)

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

    def check(
        self, so_far: Usage, at_least: Usage | None = None, contexts: tuple[PriceContext, ...] = STANDARD
    ) -> tuple[BudgetExceededError | None, int]:
        """While a stream runs: is a limit reached with what it used so far?

        ``so_far`` is the best estimate, by which it is charged should it end here; ``at_least`` is what it has used for
        certain, which decides: a guess that is too high never closes a stream that fits. None: the same.
        ``contexts`` are the price contexts that may apply: the likeliest first, and the cheapest of them decides.
        Returns the error to raise (or None), and how many more output tokens may come before the next check is due.
        No more tokens: close the stream at the provider and deliver what arrived; then raise the error, or, where
        there is none because the scope says ``on_crossing="return"``, let the stream end.
        """
        so_far, self._context = self._at_most(so_far), contexts[0]
        running = self._worth(so_far if at_least is None else self._at_most(at_least), contexts)
        if self._charge is not None:  # the scope was left: what the stream has used is charged, provisionally
            self._apply(self._estimated(so_far), settle=False, publish=False)
        expected = running
        if self._charge is None and (at_least is not None or len(contexts) > 1):
            expected = self._worth(so_far, contexts[:1])
        with self._tree.lock:
            if self.settled:
                return None, NEVER
            if self._charge is not None:
                running = ledger.beyond(running, self._charge)
            else:
                hold = ledger.at_least(self._hold, expected)
                ledger.rehold(self.account, self._hold, hold)
                self._hold = hold
            ledger.progress(self.account, self._running, running)
            self._running = running
            crossed = ledger.full_while_running(self.account, raises)
            full = crossed or ledger.full_while_running(self.account)
        return self._verdict(crossed, full)

    def _worth(self, usage: Usage, contexts: tuple[PriceContext, ...]) -> Hold:
        prices = [self._price(Spent(usage, self.provider, self.model, context)) for context in contexts]
        usd = min((price for price in prices if price is not None), default=ZERO)
        return Hold(usd, usage.total_tokens, self._tree.cost(self.provider, self.model, usage, usd))

    def _verdict(self, crossed: Full | None, full: Full | None) -> tuple[BudgetExceededError | None, int]:
        if full is None:
            return None, self._next_check(self._tree.left(self.account))
        if crossed is None:
            return None, 0
        error = self._tree.refusal(crossed, announce=self._cut is None)
        self._cut = crossed
        return error, 0

    def close_books(self, *, final: bool) -> None:
        """The scope is left while this call is open: charge what is known, as estimated. An exact charge may follow."""
        self._apply(self._estimated(self._known()), settle=False, publish=final)

    def _known(self) -> Usage:
        return self.estimate if self._so_far is None else self._at_most(self._so_far())

    def _at_most(self, usage: Usage) -> Usage:
        """An estimate of a call whose cost is bounded is never above its bound."""
        most = self._most
        if most is None or (usage.input_tokens <= most.input_tokens and usage.output_tokens <= most.output_tokens):
            return usage
        excess = max(usage.input_tokens - most.input_tokens, 0)
        output = min(usage.output_tokens, most.output_tokens)
        return usage._replace(
            uncached_input_tokens=max(usage.uncached_input_tokens - excess, 0),
            output_tokens=output,
            reasoning_tokens=None if usage.reasoning_tokens is None else min(usage.reasoning_tokens, output),
            details=NO_DETAILS,
        )

    def _estimated(self, usage: Usage, attempts: int = 1) -> Spent:
        return Spent(usage, self.provider, self.model, self._context, estimated=True, attempts=attempts)

    def _price(self, spent: Spent) -> Decimal | None:
        context = spent.context or NO_CONTEXT
        return self._tree.parts.price(spent.provider, spent.model, spent.usage, context, requested=self.model)

    def _next_check(self, left: Limits) -> int:
        """A part of what is affordable, at most `CHECK_AT_MOST` output tokens, or a thousandth of plenty.

        By itself a stream gets half. One among others gets a third of its part of it: what they all have used is known
        as of their last checks only, and with more of it they would run past a limit together before the next ones.
        """
        tokens = NEVER if left.tokens is None else left.tokens
        usd = left.usd
        if left.cost is not None:
            room, cost_of = max(left.cost - 1, 0), self._tree.cost_of
            if cost_of is None:
                by_cost = Decimal(room).scaleb(-3, EXACT)
                usd = by_cost if usd is None else min(usd, by_cost)
            else:
                a_million = cost_of(self.provider, self.model, Usage(output_tokens=MILLION))
                tokens = min(tokens, room * MILLION // max(a_million, 1))
        if usd is not None:
            rates = self._tree.parts.prices.marginal_rates(self.provider, self.model, self._context)
            if rates is not None and rates.output > 0:
                tokens = min(tokens, int(EXACT.divide(usd, rates.output)))
        if tokens == NEVER:
            return NEVER
        fair = tokens // max(3 * len(self._tree.open_calls) - 1, 2)
        return max(1, min(fair, max(CHECK_AT_MOST, tokens // 1000), CHECK_WITH_PLENTY))

    def _finish(self, spent: Spent) -> BudgetExceededError | None:
        full = self._apply(spent, settle=True, publish=True)
        if not spent.estimated and (spent.context or NO_CONTEXT).get("processing") != "batch":
            history, others = self._tree.parts.history, len(self._tree.open_calls)
            shown = self.estimate.input_tokens
            history.note(self.provider, self.model, spent.usage, shown_input=shown, under_way=others)
        if full is None:
            return None
        return self._tree.refusal(full, announce=self._cut is None)

    def _apply(self, spent: Spent, *, settle: bool, publish: bool) -> Full | None:
        """Write the charge into the ledger, in place of the hold or of an earlier estimate.

        Returns the innermost full account whose crossing raises: one that does not never hides one around it that does.
        """
        tree, usd = self._tree, self._price(spent)
        cost = tree.cost(spent.provider, spent.model, spent.usage, usd or ZERO)
        charge = charge_for(spent, usd or ZERO, cost, self._scope_name, self.tool_name)
        with tree.lock:
            before = self._charge
            replaces_estimate = before is not None and before.key.estimated and not spent.estimated
            if self.settled and not replaces_estimate:
                return None
            ledger.record(self.account, before, charge)
            self._charge = charge
            if settle:
                self._settle(self._doubt(charge, spent.attempts))
            else:
                self._keep(ledger.rest_of(self._hold, before, charge))
            if tree.entries is not None:
                self._put_entry(entry_for(spent, charge, self.reasoning_effort))
            publish, self._published = publish and not self._published, self._published or publish
            full = ledger.full(self.account, raises) or self._cut
        if settle:
            tree.room_came_back()
        if publish and tree.parts.bus.wants(LlmUsage):
            tree.parts.bus.publish(event_for(spent, charge, self, unpriced=usd is None))
        return full

    def _doubt(self, charge: Charge, attempts: int) -> Hold:
        """What a call with this charge may still turn out to have cost: the provider bills what it did generate.

        Only hard accounts go on holding it; an exact figure, should one come, ends the doubt.
        """
        if not charge.key.estimated or self._each is None:
            return NOTHING
        return Hold(most=ledger.rest_of(ledger.times(self._each, attempts), None, charge))

    def _settle(self, doubt: Hold = NOTHING) -> None:
        """End the hold. Called under the lock of the tree."""
        self.settled = True
        self._keep(doubt)
        self._tree.open_calls.discard(self)

    def _keep(self, rest: Hold) -> None:
        """Hold only ``rest`` from now on: what is charged is not held as well. Called under the lock of the tree."""
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
