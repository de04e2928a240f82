"""The event classes: the taxonomy, frozen, with an identity, a time, and nothing that is not meant for others."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from actguard import events
from actguard.events import (
    ApprovalRequested,
    BudgetBlocked,
    CustomEvent,
    Event,
    GuardBlocked,
    LlmUsage,
    Request,
    ScopedEvent,
    ToolFailure,
    new_id,
)

CLASSES: list[type[Event]] = [
    each for _, each in inspect.getmembers(events, inspect.isclass) if issubclass(each, Event) and each is not Event
]
ABSTRACT = {ScopedEvent, Request}
CONCRETE = [each for each in CLASSES if each not in ABSTRACT]

IDENTITIES = {
    "RunStart": "run.start",
    "RunEnd": "run.end",
    "LlmUsage": "llm.usage",
    "BudgetBlocked": "budget.blocked",
    "BudgetLimitExceeded": "budget.limit_exceeded",
    "BudgetReserved": "budget.reserved",
    "BudgetSettled": "budget.settled",
    "GuardBlocked": "guard.blocked",
    "GuardIntervention": "guard.intervention",
    "ToolInvoke": "tool.invoke",
    "ToolFailure": "tool.failure",
    "ReserveRequested": "budget.reserve_requested",
    "SettleRequested": "budget.settle_requested",
    "ApprovalRequested": "tool.approval_requested",
}

REQUIRED: dict[str, Any] = {
    "category": "billing",
    "name": "note",
    "provider": "openai",
    "model": "gpt",
    "guard_name": "rate_limit",
    "error_type": "ValueError",
    "reserve_id": "r",
    "scope_id": "s",
    "tool_name": "module:tool",
}


def made(cls: type[Event], **more: Any) -> Event:
    needed = {name: REQUIRED[name] for name, field in cls.model_fields.items() if field.is_required()}
    return cls(**needed, **more)


def test_the_taxonomy() -> None:
    found = {cls.__name__: made(cls).kind for cls in CONCRETE if cls is not CustomEvent}
    assert found == IDENTITIES


@pytest.mark.parametrize("cls", CONCRETE, ids=lambda cls: cls.__name__)
def test_every_event_is_frozen_and_knows_itself(cls: type[Event]) -> None:
    one, other = made(cls, run_id="r"), made(cls)
    assert one.id != other.id
    assert one.run_id == "r"
    assert one.kind == f"{one.category}.{one.name}"
    assert one.ts.tzinfo is UTC
    assert abs(datetime.now(UTC) - one.ts) < timedelta(minutes=1)
    for field in cls.model_fields:
        with pytest.raises(ValidationError):
            setattr(one, field, None)
    with pytest.raises(ValidationError):
        made(cls, surprise=1)


@pytest.mark.parametrize("cls", CONCRETE, ids=lambda cls: cls.__name__)
def test_an_identity_cannot_be_forged(cls: type[Event]) -> None:
    if cls is not CustomEvent:
        with pytest.raises(ValidationError):
            made(cls, category="llm" if cls is not LlmUsage else "run")
        with pytest.raises(ValidationError):
            made(cls, name="other")


@pytest.mark.parametrize("cls", [Event, *CLASSES, events.Reserved, events.CallEntry], ids=lambda cls: cls.__name__)
def test_every_class_and_field_says_what_it_is(cls: type[BaseModel]) -> None:
    assert cls.__doc__
    assert cls.__doc__.strip()
    source = inspect.getsource(cls).splitlines()
    for at, line in enumerate(source):
        name = line.strip().split(":")[0]
        own = name in cls.__annotations__ and line.startswith("    ") and not line.startswith("     ")
        if own and name not in Event.model_fields and name != "lifecycle":
            assert '"""' in source[at + 1], f"{cls.__name__}.{name} is not described"


def test_the_gateways_own_events_and_requests_are_never_exported() -> None:
    assert {cls.__name__ for cls in CONCRETE if cls.lifecycle} == {
        "BudgetReserved",
        "BudgetSettled",
        "ReserveRequested",
        "SettleRequested",
        "ApprovalRequested",
    }


def test_severity_and_outcome_are_words_of_the_taxonomy() -> None:
    for field in ("severity", "outcome"):
        with pytest.raises(ValidationError):
            made(events.RunEnd, **{field: "dreadful"})
    assert (made(BudgetBlocked).severity, made(BudgetBlocked).outcome) == ("warning", "blocked")
    assert (made(GuardBlocked).outcome, made(ToolFailure).outcome) == ("blocked", "failed")
    assert made(CustomEvent).severity == ""


def test_usage_keeps_exact_money_and_tells_unknown_from_zero() -> None:
    usage = LlmUsage(provider="p", model="m", usd=Decimal("0.1") * 3, usd_micros=300_000)
    assert usage.usd == Decimal("0.3")
    assert (usage.reasoning_tokens, LlmUsage(provider="p", model="m", reasoning_tokens=0).reasoning_tokens) == (None, 0)
    assert LlmUsage(provider="p", model="m").usd is None


def test_an_approval_does_not_show_the_arguments_it_is_about() -> None:
    request = ApprovalRequested(tool_name="m:pay", arguments={"iban": "DE00 secret"})
    assert "secret" not in repr(request)
    assert "secret" not in str(request)


def test_ids_are_unique() -> None:
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(each) == 32 and each.isalnum() for each in ids)
