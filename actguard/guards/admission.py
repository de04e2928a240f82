"""Admission: whether a provider call may be sent, and what is held for it until its cost is known.

A soft scope refuses when what is used and held by others has reached a limit: the call's own hold does not refuse it,
so concurrent calls together overshoot by about one call's cost. What is held for a model that has hardly answered yet
is a guess, and no reason to refuse: calls wait for the first answers. A hard scope holds the most that the call can
cost, and lowers the call's output limit until that fits: used and held together never exceed the limit.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from anyio import get_current_task

from actguard import clock
from actguard.context import current_tool
from actguard.exceptions import BudgetExceededError, GuardError, quoted
from actguard.guards.bounding import UNLIMITED, Bound, Ceiling, Tariff, fits, tariff_of
from actguard.guards.charging import Ticket
from actguard.guards.parts import Parts
from actguard.guards.tree import Tree
from actguard.money.output_limits import largest_output
from actguard.money.usage import Usage
from actguard.rules import ledger
from actguard.rules.ledger import EXACT, NOTHING, ZERO, Account, Full, Hold, LimitType
from actguard.scope import Reply, on_event_loop

LONGEST_WAIT_FOR_A_GUESS_S = 30.0
"""Calls that refuse others by a mere guess of what they cost are waited for this long, unless a scope always waits."""


class Asked(NamedTuple):
    """A provider call that asks to be admitted."""

    provider: str
    model: str
    api: str
    stream: bool = False
    estimate: Usage = Usage()
    """The input that the request shows; its output is not looked at."""
    output_limit: int | None = None
    """The most output tokens per answer that the request allows; None: it names no limit."""
    outputs: int = 1
    """How many answers it asks for (``n``, ``candidateCount``)."""
    bound: Bound | None = None
    """What it can cost at the most; None: nobody knows."""
    refusable: bool = True
    """False for a call that must work over budget: fetching an answer that is paid already."""


@dataclass(frozen=True, slots=True)
class Manners:
    """How a scope admits calls, beside its limits."""

    min_output_tokens: int = 16
    """A hard scope refuses a call that cannot have this much output per answer."""
    allow_unbounded: bool = False
    """A hard scope admits calls whose cost has no bound like a soft one."""
    waits: bool = False
    """Wait for holds of other calls to come back instead of refusing."""


class Terms(NamedTuple):
    """What one call may use, and costs at the most."""

    hold: Hold
    output_limit: int | None = None
    """The output limit to send it with; None: as it is."""
    most: Usage | None = None
    """What one attempt can use at the most; None: nobody knows."""
    each: Hold | None = None
    """What one attempt can cost at the most."""


class Refusal(NamedTuple):
    """Not admitted."""

    full: Full
    for_now: bool
    """Only the holds of other calls are in the way."""
    missing: str | None = None
    """How much more it would need."""


class Waiter:
    """A call that ``asker`` waits with for room. Its bell is rung when it is worth looking again."""

    __slots__ = ("asker", "bell")

    def __init__(self, asker: object) -> None:
        self.asker = asker
        self.bell: Reply[None] = Reply()


class Desk:
    """Where the calls of one scope ask to be admitted."""

    __slots__ = ("_account", "_in_cost", "_manners", "_name", "_parts", "_tree", "hard")

    def __init__(self, parts: Parts, tree: Tree, account: Account, name: str | None, manners: Manners) -> None:
        self._parts = parts
        self._tree = tree
        self._account = account
        self._name = name
        self._manners = manners
        self.hard = any(place.hard for place in account.chain())
        """True when this scope or one around it is hard: calls are admitted with their `Bound`."""
        self._in_cost = any(place.limits.cost is not None for place in account.chain())

    def admit(self, asked: Asked) -> Ticket:
        """A ticket for the call, without waiting.

        Raises:
            BudgetExceededError: a scope in the chain is full, or has no room for the call.
            GuardError: the call's cost is not known (``UNPRICED_MODEL``) or not bounded (``UNBOUNDED_CALL``).
        """
        decision = self._decide(asked)
        if isinstance(decision, Refusal):
            raise self._error(decision)
        return decision

    def admit_at_once(self, asked: Asked) -> Ticket | None:
        """The same; None where a ticket is worth waiting for: with `admit_in_turn`."""
        if self._manners.waits or self._account in self._tree.queues:
            return None
        decision = self._decide(asked)
        if isinstance(decision, Ticket):
            return decision
        if self._is_guessed(decision):
            return None
        raise self._error(decision)

    async def admit_in_turn(self, asked: Asked) -> Ticket:
        """The same as `admit`, waiting while only other calls' holds are in the way: first come, first served.

        Refused, too, when all of those are calls of tasks or threads that wait themselves (streams that they are
        reading), this one or others: they cannot end meanwhile. A scope that does not wait otherwise waits for guesses
        only, never for longer than `LONGEST_WAIT_FOR_A_GUESS_S`, and never where that would block an event loop.
        """
        waits = self._manners.waits
        if not waits and Reply.blocks_here() and on_event_loop():
            return self.admit(asked)
        deadline = None if waits else clock.monotonic() + LONGEST_WAIT_FOR_A_GUESS_S
        me, queues = Waiter(_asker()), self._tree.queues
        with self._tree.lock:
            queue = queues.setdefault(self._account, deque())
            queue.append(me)
        if queue[0] is not me and (not waits or self._nothing_ends()):
            self._tree.room_came_back()  # who waited for a call of this task is now to hear that it does not end
        try:
            while True:
                left = None if deadline is None else deadline - clock.monotonic()
                if queue[0] is me or (left is not None and left <= 0):
                    decision = self._decide(asked, me.asker)
                    if isinstance(decision, Ticket):
                        return decision
                    if not self._is_worth_waiting(decision, left):
                        raise self._error(decision)
                with contextlib.suppress(TimeoutError):
                    await me.bell.wait(left)
                me.bell = Reply()
        finally:
            with self._tree.lock:
                queue.remove(me)
                if not queue and queues.get(self._account) is queue:
                    del queues[self._account]
            self._tree.room_came_back()  # whoever is first now looks again

    def _is_worth_waiting(self, refusal: Refusal, left: float | None) -> bool:
        if self._manners.waits:
            return refusal.for_now and not self._nothing_ends()
        return left is not None and left > 0 and self._is_guessed(refusal)

    def _nothing_ends(self) -> bool:
        """True when every call under way is one of a task or thread that waits for room, and none is to look again."""
        with self._tree.lock:
            waiting = self._waiting()
            return all(getattr(call, "asker", None) in waiting for call in self._tree.open_calls)

    def _is_guessed(self, refusal: Refusal) -> bool:
        """True when a guess of what another call costs is in the way, and that call can end meanwhile."""
        full = refusal.full.account
        if not refusal.for_now or full.hard:
            return False
        with self._tree.lock:
            waiting = {None, *self._waiting()}
            return any(
                getattr(call, "asker", None) not in waiting and full in call.account.chain()
                for call in self._tree.open_calls
            )

    def _waiting(self) -> set[object]:
        """Who waits for room and has not been told to look again. Called under the lock."""
        return {w.asker for queue in self._tree.queues.values() for w in queue if not w.bell.done}

    # --- inside -------------------------------------------------------------------------------------------------

    def _decide(self, asked: Asked, asker: object = None) -> Ticket | Refusal:
        parts, tree, account = self._parts, self._tree, self._account
        provider, model = asked.provider, asked.model
        if asked.refusable:
            parts.refuse_unpriced(provider, model)
        limit = None if asked.output_limit is None else asked.output_limit * asked.outputs
        expected = parts.history.expected(provider, model, limit)
        estimate = _with_output(asked.estimate, expected)
        likely, unseen = estimate, parts.history.unseen_input(provider, model, estimate.input_tokens)
        if unseen:
            likely = estimate._replace(uncached_input_tokens=estimate.uncached_input_tokens + unseen)
        usd = parts.prices.price(provider, model, likely) or ZERO
        cost = tree.cost(provider, model, likely, usd) if self._in_cost else 0
        soft = Hold(usd, likely.total_tokens, cost)
        tariff = self._tariff(asked) if self.hard else None
        if asker is None and limit is None and not parts.history.knows(provider, model):
            asker = _asker()
        with tree.lock:
            refusal = _full(account)
            terms: Terms | Refusal | None = refusal
            if refusal is None and tariff is not None:
                assert asked.bound is not None
                terms = self._bounded(asked, Ceiling(asked.bound, asked.outputs, tariff), soft)
            if isinstance(terms, Refusal):
                if asked.refusable:
                    return terms
                terms = None
            hold, output_limit, most, each = (soft, None, None, None) if terms is None else terms
            ticket = Ticket(
                tree,
                account,
                provider=provider,
                model=model,
                api=asked.api,
                stream=asked.stream,
                estimate=estimate,
                hold=hold,
                output_limit=output_limit,
                most=most,
                each=each,
                scope_name=self._name,
                tool_name=current_tool.get(),
            )
            ticket.asker = asker
            ledger.rehold(account, NOTHING, hold)
            tree.open_calls.add(ticket)
        return ticket

    def _tariff(self, asked: Asked) -> Tariff | None:
        """The most that the call costs per token; None when it is admitted as by a soft scope.

        Raises:
            GuardError: no such figure is known, and the scope does not allow unbounded calls.
        """
        if not asked.refusable:
            return None
        parts, tree, provider, model = self._parts, self._tree, asked.provider, asked.model
        rates = parts.prices.ceiling_rates(provider, model)
        in_money = any(
            p.hard and (p.limits.usd is not None or p.limits.cost is not None) for p in self._account.chain()
        )
        why = "nothing is known about its cost" if asked.bound is None else asked.bound.unbounded
        if rates is None and in_money and model == "unknown":
            why = why or "it shows no model"
        elif rates is None and in_money:
            if self._manners.allow_unbounded:
                return None
            raise GuardError(
                "UNPRICED_MODEL",
                f"A hard limit needs the price of model {quoted(model)}, and none is known. Give it: "
                "Client(prices={model: Price(…)}), or set allow_unbounded=True.",
                details={"provider": provider, "model": model},
                fix_hint="Use another model.",
            )
        if why is not None:
            if self._manners.allow_unbounded:
                return None
            of_model = "" if model == "unknown" else f" of {quoted(model)}"
            raise GuardError(
                "UNBOUNDED_CALL",
                f"A hard limit cannot hold for this call{of_model}: {why}. Change the request, or set "
                "allow_unbounded=True to admit such calls as a soft limit does.",
                details={"provider": provider, "model": model, "reason": why},
                fix_hint="Send everything in the request itself, without server-side tools or stored content.",
            )

        return tariff_of(tree, provider, model)

    def _bounded(self, asked: Asked, ceiling: Ceiling, expected: Hold) -> Terms | Refusal:
        """Hold the most that the call can cost, with as much output as fits. Called under the lock."""
        bound, fixed = ceiling.bound, ceiling.bound.output_tokens
        if fixed is not None:
            wanted = least = fixed
        else:
            wanted = min(largest_output(asked.model) if asked.output_limit is None else asked.output_limit, UNLIMITED)
            least = min(max(self._manners.min_output_tokens, bound.least_output), wanted)
        output = ceiling.affordable(ledger.room(self._account, hard_only=True), wanted)
        if output < least:
            return self._no_room(ceiling.hold(least))
        lowered = fixed is None and (asked.output_limit is None or output < asked.output_limit)
        most = Usage(uncached_input_tokens=bound.input_tokens, output_tokens=output * asked.outputs)
        hold = expected._replace(most=ceiling.hold(output))
        return Terms(hold, output if lowered else None, most, ceiling.attempt(output))

    def _no_room(self, needed: Hold) -> Refusal:
        """Which hard scope the call does not fit into, and by how much."""
        for place in self._account.chain():
            if not place.hard:
                continue
            room = ledger.room_of(place, place.held)
            if not fits(needed, room):
                limit_type, missing = _missing(needed, room)
                return Refusal(Full(place, limit_type), fits(needed, ledger.room_of(place, None)), missing)
        raise AssertionError("a call that fits every scope was not admitted")

    def _error(self, refusal: Refusal) -> BudgetExceededError:
        return self._tree.refusal(refusal.full, for_now=refusal.for_now, missing=refusal.missing)


def _asker() -> object:
    """Who is asking here: the task of the event loop, or, where none runs or is stepped over, the thread."""
    if Reply.blocks_here() or not on_event_loop():
        return "thread", threading.get_ident()
    return "task", get_current_task().id


def _full(account: Account) -> Refusal | None:
    """The first account of the chain that has reached a limit with what is used and held."""
    place: Account | None = account
    while place is not None:
        if (limit_type := ledger.reached(place, place.held)) is not None:
            return Refusal(Full(place, limit_type), for_now=ledger.reached(place) is None)
        place = place.parent
    return None


def _missing(needed: Hold, room: ledger.Limits) -> tuple[LimitType, str]:
    if room.usd is not None and needed.usd > room.usd:
        return "usd", f"{EXACT.subtract(needed.usd, max(room.usd, ZERO)):.6f} USD"
    if room.tokens is not None and needed.tokens > room.tokens:
        return "token", f"{needed.tokens - max(room.tokens, 0)} tokens"
    return "cost", f"{needed.cost - max(room.cost or 0, 0)} CU"


def _with_output(estimate: Usage, output_tokens: int) -> Usage:
    return Usage(uncached_input_tokens=estimate.input_tokens, output_tokens=output_tokens, details=estimate.details)
