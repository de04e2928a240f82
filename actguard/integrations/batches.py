"""Batches: held when they are submitted, charged when their results are read, each request once.

A batch is submitted by one call and read by another, hours later, as often as its owner likes. Each of its requests
gets a ticket of its own when the batch is submitted; the first time that its result is seen, it is charged to that, or,
when the batch was submitted elsewhere, to the scope that reads it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping

from actguard.guards.charging import Ticket
from actguard.guards.dividing import Part, divided
from actguard.integrations.metering import Bill, Unknown
from actguard.integrations.per_client import PerClient
from actguard.integrations.settlement import Request, Settlement, charged_to
from actguard.locks import SettlingLock
from actguard.money.usage import Usage

REMEMBERED = 1_000
"""How many batches a client remembers; the oldest are forgotten first."""
WHOLE = ""
"""In the place of a request: the batch was charged as a whole."""
BATCH_PRICE: Mapping[str, str] = {"processing": "batch"}
"""The price context of what runs in a batch."""


def request_of(parts: Collection[Part], api: str, model: str) -> Request:
    """What submitting a batch says about its cost: that of all its requests."""
    limits = [part.output_limit for part in parts if part.output_limit is not None]
    return Request(
        model=next((part.model for part in parts), model),
        api=api,
        estimate=Usage(uncached_input_tokens=sum(part.estimate.input_tokens for part in parts)),
        output_limit=sum(limits) if len(limits) == len(parts) else None,
    )


class Batches:
    """The batches that one client has seen: for each of their requests the ticket that pays for it."""

    __slots__ = ("_lock", "_tickets")

    def __init__(self) -> None:
        self._lock = SettlingLock()
        self._tickets: OrderedDict[str, dict[str, Ticket | None]] = OrderedDict()

    def submitted(self, settlement: Settlement, batch_id: str, parts: Mapping[str, Part]) -> None:
        """The call behind ``settlement`` has submitted a batch with these requests, by their names in it."""
        tickets = divided(settlement.ticket, parts.values())
        with self._lock:
            self._of(batch_id).update(zip(parts, tickets, strict=True))
        settlement.release()

    def result(self, settlement: Settlement, batch_id: str, name: str, bill: Bill | Unknown | None) -> None:
        """The result of a request was read: charge it, once; None: it was not billed, `Unknown`: it does not say.

        A crossing is raised by ``settlement``, the one of the call that reads the results.
        """
        with self._lock:
            batch = self._of(batch_id)
            known, ticket = name in batch or WHOLE in batch, batch.get(name)
            batch[name] = None
        if known and ticket is None:
            return
        if ticket is not None and (bill is None or (ticket.closed and not ticket.settled)):
            ticket.release()  # not billed; or its root was left before, and who reads the result pays
            ticket = None
        if bill is None:
            return
        if ticket is None:
            ticket = divided(settlement.ticket, [Part((isinstance(bill, Bill) and bill.model) or "unknown")])[0]
        settlement.crossed(ticket.charge_estimate() if isinstance(bill, Unknown) else charged_to(ticket, bill))

    def whole(self, settlement: Settlement, batch_id: str, bill: Bill) -> None:
        """What all its requests did cost together is known before their results: charge that, once."""
        with self._lock:
            batch = self._of(batch_id)
            tickets = [ticket for ticket in batch.values() if ticket is not None and not ticket.closed]
            counted = WHOLE in batch or (bool(batch) and not any(batch.values()))
            gone = [ticket for ticket in batch.values() if ticket is not None and ticket not in tickets[:1]]
            _is_counted(batch)
        if counted:
            return
        payer = tickets[0] if tickets else divided(settlement.ticket, [Part(bill.model or "unknown")])[0]
        settlement.crossed(charged_to(payer, bill))
        for ticket in gone:
            ticket.release()

    def knows(self, batch_id: str) -> bool:
        """True when it was submitted, or seen, by this client."""
        with self._lock:
            return batch_id in self._tickets

    def model_of(self, batch_id: str) -> str | None:
        """The model that its requests ask for; None where nobody knows."""
        with self._lock:
            return next((ticket.model for ticket in self._of(batch_id).values() if ticket is not None), None)

    def came_to_nothing(self, batch_id: str) -> None:
        """None of its requests was answered: give back what is held for them."""
        with self._lock:
            batch = self._of(batch_id)
            tickets = list(batch.values())
            if batch:
                _is_counted(batch)
        for ticket in tickets:
            if ticket is not None:
                ticket.release()

    def _of(self, batch_id: str) -> dict[str, Ticket | None]:
        batch = self._tickets.setdefault(batch_id, {})
        while len(self._tickets) > REMEMBERED:
            self._tickets.popitem(last=False)
        return batch


def _is_counted(batch: dict[str, Ticket | None]) -> None:
    """Nothing is left to pay: the names of its requests, which may be many, need not be kept."""
    batch.clear()
    batch[WHOLE] = None


batches = PerClient(Batches)
"""The batches of each client."""
