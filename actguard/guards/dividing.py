"""One admitted call that is billed in parts: each request of a batch has an answer, and a charge, of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from actguard.guards.bounding import tariff_of
from actguard.guards.charging import Ticket
from actguard.money.usage import Usage
from actguard.rules import ledger
from actguard.rules.ledger import NOTHING, ZERO, Hold

NO_CONTEXT: Mapping[str, str] = {}


class Part(NamedTuple):
    """What one of the parts is expected to use."""

    model: str
    estimate: Usage = Usage()
    """Its input, estimated; the output is expected from what the model used to answer."""
    output_limit: int | None = 0
    """The most output that it asks for; None: it does not say."""
    most: Usage | None = None
    """What it can use at the most, where that is known."""
    context: Mapping[str, str] = NO_CONTEXT
    """What besides the model decides its price."""


def divided(ticket: Ticket, parts: Iterable[Part]) -> list[Ticket]:
    """A ticket for each part, with what ``ticket`` holds divided among them; it holds nothing itself from then on.

    The parts belong to the scope of ``ticket``. None of them is refused: the call that asked for them was admitted.
    """
    tickets = [_ticket_for(ticket, part) for part in parts]
    tree, account = ticket._tree, ticket.account
    with tree.lock:
        ledger.rehold(account, ticket._hold, NOTHING)
        ticket._hold = NOTHING
        for each in tickets:
            ledger.rehold(account, NOTHING, each._hold)
            tree.open_calls.add(each)
        left_already = ticket._charge is not None and not ticket.settled
    if left_already:  # the scope was left before the parts had names: they are charged as the whole was
        for each in tickets:
            each.close_books(final=tree.closed)
    return tickets


def _ticket_for(whole: Ticket, part: Part) -> Ticket:
    tree, provider = whole._tree, whole.provider
    shared = tree.parts
    output = shared.history.expected(provider, part.model, part.output_limit)
    given = part.estimate
    estimate = Usage(uncached_input_tokens=given.input_tokens, output_tokens=output, details=given.details)
    usd = shared.prices.price(provider, part.model, estimate, context=part.context) or ZERO
    most = _most(whole, part) if whole._hold.most is not None else None
    expected = Hold(usd, estimate.total_tokens, tree.cost(provider, part.model, estimate, usd), most)
    ticket = Ticket(
        tree,
        whole.account,
        provider=provider,
        model=part.model,
        api=whole.api,
        stream=False,
        estimate=estimate,
        hold=expected,
        most=None if most is None else part.most,
        each=most,
        scope_name=whole._scope_name,
        tool_name=whole.tool_name,
    )
    ticket._context = part.context
    return ticket


def _most(whole: Ticket, part: Part) -> Hold | None:
    """The most that a part of a call under a hard limit can cost."""
    usage = part.most
    if usage is None:
        return None
    return tariff_of(whole._tree, whole.provider, part.model).of(usage.input_tokens, usage.output_tokens)
