"""What is said when the run is over: texts, the breakdown, and one sentence about what was seen."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from actguard.demo.agents import Ticket
from actguard.demo.amounts import cap, usd
from actguard.guards.budget import BudgetGuard
from actguard.guards.figures import BreakdownRow


@dataclass(frozen=True, slots=True)
class Report:
    """The end of a demo."""

    texts: list[tuple[str, str]]
    """Title and text of what the agents wrote."""
    rows: list[BreakdownRow]
    """The breakdown of the ticket's budget: its own report, not the display's sums."""
    sentence: str
    hints: list[str] = field(default_factory=list)


def report_on(ticket: Ticket, *, live: bool) -> Report:
    """The report on a ticket, from its budget."""
    rows = ticket.budget.breakdown()
    texts = [("The note for the files", ticket.note)] if ticket.note else []
    hints = [] if live else ["", "The same with your own key and a cap of 0.02 USD: actguard demo --live openai"]
    return Report(texts, rows, _sentence(ticket, rows), hints)


def _sentence(ticket: Ticket, rows: list[BreakdownRow]) -> str:
    budget, research = ticket.budget, ticket.research
    providers = len({row.provider for row in rows})
    seen = f"{budget.calls} calls through {providers} unmodified SDK{'s' if providers > 1 else ''} were counted"
    spent = f"{usd(budget.usd_used_exact)} of {_limit(budget)} USD"
    if ticket.stopped is not None:
        return f"What you saw: {seen}, and when {spent} were spent the budget ended the run."
    if research is not None and research.usd_remaining == 0:
        return (
            f"What you saw: {seen}, a sub-agent that went round in circles was stopped at its own cap of "
            f"{_limit(research)} USD, and the agent around it went on and finished for {spent}."
        )
    return f"What you saw: {seen}, and the ticket was finished for {spent}, with no cap reached."


def _limit(budget: BudgetGuard) -> str:
    return cap(Decimal(str(budget.usd_limit)))
