"""Telemetry: what is on screen, summed up from events and from nothing else.

A `Board` is fed by a subscription (see `WATCHED`) and turns each event into an entry to show. It is an example of a
subscriber: it knows the agents and their budgets only by what they publish.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import TypeAlias

from actguard.demo.amounts import cap, usd
from actguard.demo.happenings import AgentAnswered, AgentTold, ScopeOpened, TextArrived, ToolCalled
from actguard.events import BudgetBlocked, Event, LlmUsage, RunEnd, RunStart
from actguard.exceptions import one_line

WATCHED: tuple[type[Event], ...] = (
    RunStart,
    RunEnd,
    LlmUsage,
    BudgetBlocked,
    ScopeOpened,
    ToolCalled,
    AgentTold,
    TextArrived,
    AgentAnswered,
)


@dataclass(slots=True)
class Scope:
    """A budget scope, as its events tell it."""

    name: str
    limit: Decimal
    parent_id: str | None
    spent: Decimal = Decimal(0)
    full: bool = False

    @property
    def left(self) -> Decimal:
        """USD that are left, not below zero."""
        return max(self.limit - self.spent, Decimal(0))


@dataclass(frozen=True, slots=True)
class CallEntry:
    """A provider call."""

    seconds: float
    """Since the run began."""
    scope: str
    provider: str
    model: str
    input_tokens: int
    cached_input_tokens: int
    """Input tokens read from the cache, among them."""
    output_tokens: int
    usd: Decimal
    left: Decimal
    """What is left in its scope afterwards, in USD."""
    estimated: bool


@dataclass(frozen=True, slots=True)
class StopEntry:
    """A scope is full."""

    seconds: float
    scope: str
    used: Decimal
    limit: Decimal

    @property
    def sentence(self) -> str:
        """What happened."""
        return (
            f"scope {self.scope} has used {usd(self.used)} of its {usd(self.limit)} USD, "
            "the call that crossed the limit included."
        )


@dataclass(frozen=True, slots=True)
class ToldEntry:
    """An agent was told that its sub-agent was stopped, and goes on."""

    agent: str
    prompt: str
    left: Decimal


@dataclass(frozen=True, slots=True)
class NoteEntry:
    """Something an agent did or said."""

    text: str


Entry: TypeAlias = CallEntry | StopEntry | ToldEntry | NoteEntry


@dataclass(slots=True)
class Board:
    """The state of the display."""

    scopes: dict[str, Scope] = field(default_factory=dict)
    """By scope id, in the order in which they were opened."""
    calls: list[CallEntry] = field(default_factory=list)
    notes: list[NoteEntry] = field(default_factory=list)
    stop: StopEntry | None = None
    """The latest."""
    told: ToldEntry | None = None
    """What came of it, if somebody goes on."""
    answer: str = ""
    """What the outermost agent has answered."""
    text: str = ""
    """What has arrived of the streamed answer."""
    ended: RunEnd | None = None
    _began: datetime | None = None

    def take(self, event: Event) -> Entry | None:
        """Take an event in; what it is on screen, if anything."""
        if self._began is None:
            self._began = event.ts
        match event:
            case LlmUsage():
                return self._call(event)
            case BudgetBlocked():
                return self._stop(event)
            case ScopeOpened(scope_id=str(scope_id)):
                scope = Scope(event.scope_name or "", event.usd_limit, event.parent_scope_id)
                self.scopes[scope_id] = scope
                return self._note(f"scope {scope.name} opens with {cap(scope.limit)} USD")
            case ToolCalled():
                return self._note(f"{event.scope_name} calls {one_line(event.call, 90)}")
            case AgentTold():
                self.told = ToldEntry(event.scope_name or "", event.prompt, self._scope(event.scope_id).left)
                return self.told
            case TextArrived():
                self.text += event.piece
            case AgentAnswered():
                self.answer = event.text  # the outermost agent is the last to answer
                return self._note(f"{event.scope_name} answers: {one_line(event.text)}")
            case RunEnd():
                self.ended = event
        return None

    def _call(self, event: LlmUsage) -> CallEntry:
        usd = event.usd or Decimal(0)
        scope = self._scope(event.scope_id)
        charged: Scope | None = scope
        while charged is not None:  # a call is charged to its scope and to every scope around it
            charged.spent += usd
            charged = self.scopes.get(charged.parent_id or "")
        entry = CallEntry(
            self._seconds(event),
            scope.name,
            event.provider,
            event.model,
            event.input_tokens,
            event.cached_input_tokens,
            event.output_tokens,
            usd,
            scope.left,
            event.estimated,
        )
        self.calls.append(entry)
        return entry

    def _stop(self, event: BudgetBlocked) -> StopEntry:
        scope = self._scope(event.scope_id)
        scope.full = True
        self.stop, self.told = StopEntry(self._seconds(event), scope.name, scope.spent, scope.limit), None
        return self.stop

    def _note(self, text: str) -> NoteEntry:
        self.notes.append(NoteEntry(text))
        return self.notes[-1]

    def _scope(self, scope_id: str | None) -> Scope:
        return self.scopes[scope_id or ""]

    def _seconds(self, event: Event) -> float:
        return (event.ts - self._began).total_seconds() if self._began else 0.0
