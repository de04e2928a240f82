"""Work that goes on at the provider, whose usage is told as a total that grows: each look at it charges the increase.

An agent's session, say, is started by one call, and seen by others: its total so far, or the usage of each of its
steps. Both are lower bounds of what it has used; the larger one counts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from actguard.guards.charging import Ticket
from actguard.guards.dividing import Part, divided
from actguard.integrations.per_client import PerClient
from actguard.integrations.settlement import Settlement
from actguard.locks import SettlingLock
from actguard.money.usage import Usage

REMEMBERED = 10_000
"""How many of them a client remembers; the oldest are forgotten first."""


@dataclass(slots=True)
class Work:
    """What is known of one piece of work at the provider."""

    model: str = "unknown"
    context: Mapping[str, str] = field(default_factory=dict)
    """What besides the model decides its price."""
    mixed: bool = False
    """Other models may take part, whose share is not told."""
    ticket: Ticket | None = None
    """What is held for it, while nothing that it used is seen."""
    total: Usage = field(default_factory=Usage)
    steps: Usage = field(default_factory=Usage)
    seen: set[str] = field(default_factory=set)
    """The steps that are counted, by their ids."""
    charged: Usage = field(default_factory=Usage)


class RunningTotals:
    """The work at the provider that one client has seen. Thread-safe; nothing here waits."""

    __slots__ = ("_lock", "_work")

    def __init__(self) -> None:
        self._lock = SettlingLock()
        self._work: OrderedDict[str, Work] = OrderedDict()

    def of(self, work_id: str) -> Work:
        """What is known of the work with this id."""
        with self._lock:
            work = self._work.setdefault(work_id, Work())
            while len(self._work) > REMEMBERED:
                self._work.popitem(last=False)
            return work

    def started(self, settlement: Settlement, work_id: str) -> None:
        """The call behind ``settlement`` had it begin, or go on: what that may cost is held until usage is seen."""
        work, asked = self.of(work_id), settlement.ticket
        if work.model == "unknown" or (work.ticket is not None and not work.ticket.closed):
            return
        work.ticket = divided(asked, [Part(work.model, asked.estimate, None, context=work.context)])[0]

    def total(self, settlement: Settlement, work_id: str, usage: Usage) -> None:
        """All that it has used so far."""
        work = self.of(work_id)
        with self._lock:
            if usage.total_tokens >= work.total.total_tokens:
                work.total = usage
        self._charge(settlement, work)

    def step(self, settlement: Settlement, work_id: str, step_id: str, usage: Usage) -> None:
        """What one step of it has used; the same step may be seen again."""
        work = self.of(work_id)
        with self._lock:
            if step_id in work.seen:
                return
            work.seen.add(step_id)
            work.steps = work.steps + usage
        self._charge(settlement, work)

    def _charge(self, settlement: Settlement, work: Work) -> None:
        with self._lock:
            known = work.total if work.total.total_tokens >= work.steps.total_tokens else work.steps
            increase = _increase(work.charged, known)
            if increase.is_zero:
                return
            work.charged = work.charged + increase
            ticket, work.ticket = work.ticket, None
        if ticket is not None and ticket.closed and not ticket.settled:
            ticket.release()  # its root was left before anything was seen: who looks pays
            ticket = None
        if ticket is None:
            ticket = divided(settlement.ticket, [Part(work.model)])[0]
        settlement.crossed(
            ticket.charge(increase, model=work.model, context=work.context or None, estimated=work.mixed)
        )


def _increase(charged: Usage, known: Usage) -> Usage:
    """What is not charged yet. Steps do not say how long what they write to the cache stays: totals do."""
    written = max(known.cache_write_tokens - charged.cache_write_tokens, 0)
    for_an_hour = min(max(known.cache_write_1h_tokens - charged.cache_write_1h_tokens, 0), written)
    return Usage(
        uncached_input_tokens=max(known.uncached_input_tokens - charged.uncached_input_tokens, 0),
        cache_read_tokens=max(known.cache_read_tokens - charged.cache_read_tokens, 0),
        cache_write_5m_tokens=written - for_an_hour,
        cache_write_1h_tokens=for_an_hour,
        output_tokens=max(known.output_tokens - charged.output_tokens, 0),
        web_searches=max(known.web_searches - charged.web_searches, 0),
    )


running_totals = PerClient(RunningTotals)
"""The work at the provider that each client has seen."""
