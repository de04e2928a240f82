"""The typed events: what happened, frozen, one class per kind.

Every event has an identity ``category.name``, a time and the run it belongs to. Amounts are in USD (Decimal) or in
millionths of a dollar where the field says micros; tokens are counted as in `actguard.money.usage.Usage`. No event
carries tool arguments or results, except a user's own `CustomEvent`.

A `Request` is an event that wants a verdict: it goes out through ``bus.ask`` and somebody answers, or nobody does.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

Severity = Literal["", "debug", "info", "warning", "error", "critical"]
Outcome = Literal["", "success", "blocked", "failed", "intervened"]


# The system's randomness is asked for once per process: each question lets go of the interpreter, which a busy
# background thread gives back only after milliseconds. Identifiers are unique, not secret.
_chance = random.Random(os.urandom(32))  # noqa: S311
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _chance.seed(os.urandom(32)))


def new_id() -> str:
    """A fresh identifier: 32 hexadecimal digits, unique across processes."""
    return _chance.getrandbits(128).to_bytes(16, "big").hex()  # half of the time of formatting the number


def utc_now() -> datetime:
    """Now, in UTC: the clock of every event."""
    return datetime.now(UTC)


class Event(BaseModel):
    """What all events have."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    category: str
    """First half of the identity: "run", "llm", "budget", "guard", "tool", or a user's own."""
    name: str
    """Second half of the identity."""
    id: str = Field(default_factory=new_id)
    """Unique and stable: an event that is delivered twice has the same id twice."""
    ts: datetime = Field(default_factory=utc_now)
    """When it happened, UTC."""
    run_id: str | None = None
    """The run it belongs to."""
    user_id: str | None = None
    """The user the run acts for."""
    severity: Severity = "info"
    """How loudly to tell an operator."""
    outcome: Outcome = ""
    """How it ended, where it has an end."""

    lifecycle: ClassVar[bool] = False
    """True for events that are never exported: somebody else already knows them."""

    @property
    def kind(self) -> str:
        """The identity, ``category.name``."""
        return f"{self.category}.{self.name}"


class ScopedEvent(Event):
    """An event that belongs to a budget scope."""

    scope_id: str | None = None
    """The scope it happened in; for a refusal, the scope that is full."""
    scope_name: str | None = None
    """The name the user gave to that scope."""
    scope_kind: str | None = None
    """"root" or "nested"."""
    parent_scope_id: str | None = None
    """The scope around it."""
    root_scope_id: str | None = None
    """The outermost scope of the run."""
    plan_key: str | None = None
    """The plan the root was opened with."""
    tool_name: str | None = None
    """The guarded tool that was running, ``module:qualname``."""


# --- run ------------------------------------------------------------------------------------------------------------


class RunStart(Event):
    """A run was entered."""

    category: Literal["run"] = "run"
    name: Literal["start"] = "start"


class RunEnd(Event):
    """A run was left: ``success``, ``blocked`` by an ActGuard refusal, or ``failed``."""

    category: Literal["run"] = "run"
    name: Literal["end"] = "end"
    error_type: str | None = None
    """Class name of the exception that ended it."""
    duration_s: float | None = None
    """How long the run was open, in seconds."""


# --- model calls and budget -----------------------------------------------------------------------------------------


class LlmUsage(ScopedEvent):
    """One provider call that consumed something; exactly one event per call."""

    category: Literal["llm"] = "llm"
    name: Literal["usage"] = "usage"
    outcome: Outcome = "success"
    provider: str
    """genai-prices' name of the provider: "openai", "anthropic", "google", "azure", …"""
    model: str
    """The model that answered, as the provider calls it."""
    input_tokens: int = 0
    """All billed input tokens, cache reads and writes included."""
    cached_input_tokens: int = 0
    """Input tokens read from the cache."""
    cache_write_tokens: int = 0
    """Input tokens written to the cache."""
    cache_write_tokens_5m: int = 0
    """The part of them that stays for five minutes."""
    cache_write_tokens_1h: int = 0
    """The part of them that stays for one hour."""
    output_tokens: int = 0
    """All output tokens, reasoning included."""
    reasoning_tokens: int | None = None
    """Reasoning tokens among the output; None when not reported."""
    web_searches: int = 0
    """Server-side searches billed with the call."""
    usd: Decimal | None = None
    """What the call cost, in USD; None when the model has no known price."""
    usd_micros: int | None = None
    """The same in millionths of a dollar, to the nearest whole one."""
    cost_cu: int | None = None
    """The same in cost units, where a scope counts them."""
    estimated: bool = False
    """True when the provider did not report (all of) the usage: cut, cancelled or timed out."""
    unpriced: bool = False
    """True when no price is known: counted in tokens, zero USD."""
    api: str | None = None
    """Which of the provider's APIs was called: "chat.completions", "messages", "generate_content", …"""
    stream: bool = False
    """True when the answer was streamed."""


class BudgetBlocked(ScopedEvent):
    """A budget refused a call or reported its crossing; once per refusal. The scope named is the one that is full."""

    category: Literal["budget"] = "budget"
    name: Literal["blocked"] = "blocked"
    severity: Severity = "warning"
    outcome: Outcome = "blocked"
    limit_type: Literal["token", "usd", "cost"] = "usd"
    """Which limit was reached."""
    tokens_used: int = 0
    """Tokens charged to the scope."""
    token_limit: int | None = None
    """Its token limit."""
    usd_used: float = 0.0
    """USD charged to the scope."""
    usd_limit: float | None = None
    """Its USD limit."""
    cost_used: int = 0
    """Cost units charged to the scope."""
    cost_limit: int | None = None
    """Its limit in cost units."""
    origin: Literal["local", "remote"] = "local"
    """Who refused: this process or the gateway."""


class BudgetLimitExceeded(BudgetBlocked):
    """The same crossing, reported by the user through ``emit_violation``."""

    name: Literal["limit_exceeded"] = "limit_exceeded"  # type: ignore[assignment]
    severity: Severity = "error"


class BudgetReserved(ScopedEvent):
    """The gateway reserved a root's budget. The gateway's own: never exported."""

    category: Literal["budget"] = "budget"
    name: Literal["reserved"] = "reserved"
    lifecycle: ClassVar[bool] = True
    reserve_id: str
    """The gateway's name of the reservation."""


class BudgetSettled(ScopedEvent):
    """The gateway settled a root's budget. The gateway's own: never exported."""

    category: Literal["budget"] = "budget"
    name: Literal["settled"] = "settled"
    lifecycle: ClassVar[bool] = True
    reserve_id: str
    """The gateway's name of the reservation."""


# --- tools ----------------------------------------------------------------------------------------------------------


class GuardBlocked(ScopedEvent):
    """A guard refused a call; once per refusal."""

    category: Literal["guard"] = "guard"
    name: Literal["blocked"] = "blocked"
    severity: Severity = "warning"
    outcome: Outcome = "blocked"
    guard_name: str
    """"rate_limit", "circuit_breaker", "max_attempts", "idempotent", "prove", "enforce", "policy"; "budget" for a
    model call whose cost is not known or not bounded."""
    error_type: str
    """Class name of the refusal."""
    error_message: str = ""
    """Its message, without argument values."""
    figures: Mapping[str, Any] = Field(default_factory=dict)
    """The guard's own figures: ``max_calls, period, scope_value, retry_after``; ``dependency_name, reset_at``; …"""


class GuardIntervention(ScopedEvent):
    """A guard changed how a call ended: a timeout, or a stored result in place of a second call."""

    category: Literal["guard"] = "guard"
    name: Literal["intervention"] = "intervention"
    severity: Severity = "warning"
    outcome: Outcome = "intervened"
    guard_name: str
    """"timeout" or "idempotent"."""
    figures: Mapping[str, Any] = Field(default_factory=dict)
    """``timeout_s`` of a timeout; ``action="return_cached"`` of a replay."""


class ToolInvoke(ScopedEvent):
    """A guarded tool ran and returned."""

    category: Literal["tool"] = "tool"
    name: Literal["invoke"] = "invoke"
    outcome: Outcome = "success"
    duration_s: float | None = None
    """How long the body took, in seconds."""


class ToolFailure(ScopedEvent):
    """A guarded tool raised an exception that is not ActGuard's."""

    category: Literal["tool"] = "tool"
    name: Literal["failure"] = "failure"
    severity: Severity = "error"
    outcome: Outcome = "failed"
    error_type: str
    """Class name of the exception."""
    error_message: str = ""
    """At most 256 characters of its message."""


# --- the user's own -------------------------------------------------------------------------------------------------


class CustomEvent(ScopedEvent):
    """What the user published with ``actguard.emit_event``."""

    severity: Severity = ""
    payload: Mapping[str, Any] = Field(default_factory=dict)
    """Whatever the user put in; exported as it is."""


# --- requests: events that want a verdict ---------------------------------------------------------------------------


class Request(Event):
    """An event that somebody is asked to answer. What may answer it is said by each class."""

    lifecycle: ClassVar[bool] = True

    asked_at: float = Field(default_factory=time.monotonic, repr=False)
    """``time.monotonic()`` when it was asked: what is left of the asker's patience counts from here."""


class ReserveRequested(Request):
    """A root budget scope is being opened; answered with a `Reserved`, or with an error that refuses it. Its ``id``
    is the key under which the gateway recognises a retry.
    """

    category: Literal["budget"] = "budget"
    name: Literal["reserve_requested"] = "reserve_requested"
    scope_id: str
    """The root being opened."""
    usd_limit: Decimal | None = None
    """The user's limit in USD."""
    cost_limit: int | None = None
    """The user's limit in cost units."""
    plan_key: str | None = None
    """The plan to reserve from."""


class Reserved(BaseModel):
    """The answer to a `ReserveRequested`: what the gateway granted. A limit here applies when the user set none."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    reserve_id: str | None = None
    """The gateway's name of the reservation; None when it could not be asked and the run goes on locally."""
    usd_limit: Decimal | None = None
    """In USD."""
    cost_limit: int | None = None
    """In cost units."""
    cost_of: Any = None
    """``(provider, model, usage) -> int`` cost units by the gateway's tariff; None: a call's USD × 1,000."""
    cu_per_usd: int | None = None
    """Cost units to the dollar of an outside cost, by the tariff; None: 1,000."""


class CallEntry(BaseModel):
    """One provider call or outside cost of a settlement."""

    model_config = ConfigDict(frozen=True)

    provider: str = "none"
    """The provider, or "none" for an outside cost."""
    model: str = "none"
    """The model that answered, or the name of the outside cost."""
    input_tokens: int = 0
    """All billed input tokens."""
    cached_input_tokens: int = 0
    """Input tokens read from the cache."""
    cache_write_tokens_5m: int = 0
    """Input tokens written to the cache for five minutes."""
    cache_write_tokens_1h: int = 0
    """Input tokens written to the cache for one hour."""
    output_tokens: int = 0
    """All output tokens."""
    web_searches: int = 0
    """Server-side searches."""
    reasoning_effort: str | None = None
    """How hard the model was asked to think; None: the request does not say."""
    cost_cu: int | None = None
    """Cost units of an outside cost; None for a provider call."""
    scope_name: str | None = None
    """The innermost scope it was charged to."""


class SettleRequested(Request):
    """The last path left a root: everything it used. Answered with None when done, or with the gateway's error. Its
    ``id`` is the key under which the gateway recognises a retry.
    """

    category: Literal["budget"] = "budget"
    name: Literal["settle_requested"] = "settle_requested"
    scope_id: str
    """The root that was left."""
    reserve_id: str | None = None
    """What the reservation is called."""
    entries: tuple[CallEntry, ...] = ()
    """One per provider call or outside cost, in the order of charging."""


class ApprovalRequested(Request):
    """A policy said "ask": somebody decides whether the tool may run. Answered with True, False or a reason to deny."""

    category: Literal["tool"] = "tool"
    name: Literal["approval_requested"] = "approval_requested"
    tool_name: str
    """The tool that wants to run, ``module:qualname``."""
    arguments: Mapping[str, Any] = Field(default_factory=dict, repr=False)
    """Its arguments, for the eyes of the one who decides: a request is never exported."""
    reason: str = ""
    """Why the policy asks."""
    session_id: str | None = None
    """The session it runs in."""


def _kinds(of: type[Event]) -> set[str]:
    category, name = (of.model_fields[field].default for field in ("category", "name"))
    own = {f"{category}.{name}"} if isinstance(category, str) and isinstance(name, str) else set()
    return own.union(*map(_kinds, of.__subclasses__()))


OWN_KINDS = frozenset(_kinds(Event))
"""The identities that ActGuard's own events have: no other event may pass for one of them."""
