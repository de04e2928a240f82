"""What a provider call says it costs, and how it ends: charged once, whatever happens to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from actguard.exceptions import BudgetExceededError
from actguard.guards.budget import BudgetGuard
from actguard.guards.charging import STANDARD, PriceContext, Ticket
from actguard.guards.dividing import Part, divided
from actguard.integrations.answers import answers
from actguard.money.usage import Usage


class Deferred(NamedTuple):
    """The answer is generated in the background: its usage comes with a later call that names this id."""

    id: str


class Request(NamedTuple):
    """What a request says about its cost before it is sent."""

    model: str
    """The model as the provider will read it; ``"unknown"`` when the request does not name one."""
    api: str
    """Which API: ``"chat.completions"``, ``"messages"``, ``"generate_content"`` …"""
    stream: bool = False
    estimate: Usage = Usage()
    """The input as estimated from the body; its output is not looked at."""
    output_limit: int | None = None
    """The most output tokens that the provider will generate for one answer; None: the request names no limit."""
    outputs: int = 1
    """How many answers it asks for."""


class Bill(NamedTuple):
    """What one call did cost, read from its answer."""

    usage: Usage
    model: str | None = None
    """The model that answered, when the answer names it."""
    provider: str | None = None
    """The provider that answered, when it is another one than was asked."""
    context: Mapping[str, str] | None = None
    """Price context: ``{"service_tier": "flex"}``, ``{"processing": "batch"}``, ``{"speed": "fast"}``."""
    estimated: bool = False
    """The usage is not the provider's own and final figure."""
    id: str | None = None
    """The answer's id, when the same answer can be fetched again: it is then charged once per id and client."""
    others: tuple[Bill, ...] = ()
    """What other models were paid for on the way to the answer: each is charged by itself."""


class Unknown(NamedTuple):
    """A failed call that was sent: the provider may have billed it, and nobody can say how much."""

    attempts: int = 1
    """How many times it was sent: an SDK that retries a timeout may be billed for each."""


Outcome = Bill | Unknown | Deferred | None
"""What a call cost: a known amount, an unknown one, one that is still to come, or nothing (None)."""

FREE: None = None
"""Nothing was billed: an error status, a connection that never stood, a request that was not sent."""


class Settlement:
    """How one admitted call ends. Streams outlive their call and hold on to this.

    All methods are thread-safe, cheap, never suspend and never raise, and may be called from ``__del__``. The first
    one that settles wins; only an exact charge after an estimated one still counts, and corrects it.
    """

    __slots__ = ("_budget", "_error", "_ticket")

    def __init__(self, ticket: Ticket, budget: BudgetGuard) -> None:
        self._ticket = ticket
        self._budget = budget
        self._error: BudgetExceededError | None = None

    @property
    def provider(self) -> str:
        """Who was asked."""
        return self._ticket.provider

    @property
    def ticket(self) -> Ticket:
        """The call as it was admitted."""
        return self._ticket

    @property
    def settled(self) -> bool:
        """True once something was charged or the hold was given back."""
        return bool(self._ticket.settled)

    def charge(self, bill: Bill) -> None:
        """Charge what the call did cost. An answer that was counted before under the same id costs nothing again."""
        if bill.id is not None:
            self._charge_once(bill, bill.id)
        else:
            self._error = charged_to(self._ticket, bill) or self._error
        for other in bill.others:
            ticket = divided(self._ticket, [Part(other.model or "unknown")])[0]
            self._error = charged_to(ticket, other) or self._error

    def _charge_once(self, bill: Bill, answer_id: str) -> None:
        """Charge the ticket that claimed this answer first, if it is not counted already."""
        seen = answers.of(self._budget)
        ticket = seen.claim(answer_id, self._ticket)
        left = ticket is not None and (ticket.came_to_nothing or (ticket.closed and not ticket.settled))
        if ticket is not None and ticket is not self._ticket and left:
            ticket.release()  # its root was left before the answer was fetched: who fetches it pays, instead of it
            seen.pass_on(answer_id, self._ticket)
            ticket = self._ticket
        if ticket is not self._ticket:
            self._ticket.release()
        if ticket is None:
            return
        self._ticket = ticket
        self._error = charged_to(ticket, bill) or self._error
        if not bill.estimated:
            seen.counted(answer_id)

    def unknown(self, attempts: int = 1) -> None:
        """The call was sent and nobody can say what it used: charge the estimate, once per attempt."""
        self._error = self._ticket.charge_estimate(attempts) or self._error

    def lost(self, attempts: int) -> None:
        """So many attempts before the last were sent and never answered: each is charged as estimated."""
        self._error = self._ticket.charge_lost(attempts) or self._error

    def release(self) -> None:
        """Nothing was billed: give the hold back."""
        self._ticket.release()

    def defer(self, answer_id: str) -> None:
        """The answer will be generated in the background: its usage comes with a later call that has this id.

        The hold stays until then, and becomes an estimated charge when the scope ends first.
        """
        ticket = answers.of(self._budget).claim(answer_id, self._ticket)
        if ticket is not self._ticket:
            self._ticket.release()

    def settle(self, outcome: Outcome) -> None:
        """Settle with whatever the call did cost."""
        match outcome:
            case None:
                self.release()
            case Bill():
                self.charge(outcome)
            case Deferred():
                self.defer(outcome.id)
            case Unknown():
                self.unknown(outcome.attempts)

    def watch(self, so_far: Callable[[], Usage]) -> None:
        """Say where the scope can ask, when it ends first, what a stream has used so far."""
        self._ticket.watch(so_far)

    def check(
        self, so_far: Usage, at_least: Usage, contexts: tuple[PriceContext, ...] = STANDARD
    ) -> tuple[BudgetExceededError | None, int]:
        """Has a running stream reached a limit? See `Ticket.check`: the error to raise, and when to ask again."""
        error, tokens = self._ticket.check(so_far, at_least, contexts)
        return error, tokens

    def crossed(self, error: BudgetExceededError | None) -> None:
        """A charge that came with this call's answer, though not for it, crossed a limit (None: it did not)."""
        self._error = error or self._error

    def take_error(self) -> BudgetExceededError | None:
        """The crossing to raise, at most once: who takes it sets ``.response`` or ``.partial`` and raises it."""
        error, self._error = self._error, None
        return error


def charged_to(ticket: Ticket, bill: Bill) -> BudgetExceededError | None:
    """Charge ``bill`` to ``ticket``; the crossing to raise, if there is one."""
    return ticket.charge(
        bill.usage, provider=bill.provider, model=bill.model, context=bill.context, estimated=bill.estimated
    )
