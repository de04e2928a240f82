"""The envelope, key by key, and what becomes of hostile payloads."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from actguard.events import (
    BudgetBlocked,
    BudgetReserved,
    CustomEvent,
    Event,
    GuardBlocked,
    LlmUsage,
    Request,
    ReserveRequested,
    RunEnd,
    RunStart,
    ToolFailure,
    ToolInvoke,
)
from actguard.gateway.envelope import envelope
from actguard.gateway.json_safe import json_safe, utc_text
from actguard.subscribers.exporter import EXPORTED, exported_kinds, is_exported
from actguard.subscribers.tool_runs import exports_tool_runs

ALWAYS = {
    "id", "ts", "ingested_at", "tenant_id", "run_id", "trace_id", "span_id", "category", "name", "version",
    "severity", "outcome", "digest", "digest_algo", "payload", "evidence", "meta",
}  # fmt: skip
SOMETIMES = {
    "agent_id", "user_id", "model", "provider", "usd_micros", "input_tokens", "cached_input_tokens", "output_tokens",
    "scope_id", "scope_name", "scope_kind", "parent_scope_id", "root_scope_id", "plan_key", "tool_name",
}  # fmt: skip
NOW = datetime(2030, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
CALL = LlmUsage(
    run_id="r",
    user_id="u",
    provider="openai",
    model="gpt",
    input_tokens=5,
    output_tokens=2,
    usd=Decimal("0.000012"),
    usd_micros=12,
    scope_id="s",
    scope_kind="root",
    root_scope_id="s",
    scope_name="",
)


def written(event: Event, taken_at: datetime = NOW) -> Any:
    return json.loads(envelope(event, utc_text(taken_at)))


def digest_of(payload: Any) -> str:
    """The digest as whoever receives ``payload`` can check it."""
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def test_an_event_without_anything_has_exactly_the_keys_that_are_always_there() -> None:
    start = RunStart(run_id="r", ts=NOW)
    content = written(start, NOW + timedelta(seconds=1))
    assert set(content) == ALWAYS
    assert content == {
        "id": start.id,
        "ts": "2030-01-02T03:04:05.000006Z",
        "ingested_at": "2030-01-02T03:04:06.000006Z",
        "tenant_id": None,
        "run_id": "r",
        "trace_id": None,
        "span_id": None,
        "category": "run",
        "name": "start",
        "version": 1,
        "severity": "info",
        "outcome": "",
        "digest": hashlib.sha256(b"{}").hexdigest(),
        "digest_algo": "sha256",
        "payload": {},
        "evidence": {},
        "meta": {},
    }


def test_what_is_known_stands_beside_it_and_what_is_empty_does_not() -> None:
    content = written(CALL)
    optional = {key: content[key] for key in content.keys() - ALWAYS}
    assert set(optional) <= SOMETIMES
    assert optional == {
        "user_id": "u",
        "model": "gpt",
        "provider": "openai",
        "usd_micros": 12,
        "input_tokens": 5,
        "cached_input_tokens": 0,
        "output_tokens": 2,
        "scope_id": "s",
        "scope_kind": "root",
        "root_scope_id": "s",
    }
    assert content["payload"]["usd"] == "0.000012"


def test_the_digest_is_that_of_the_payload_with_sorted_keys() -> None:
    content = written(CustomEvent(category="a", name="b", payload={"z": 1, "a": "ü"}))
    assert content["digest"] == hashlib.sha256('{"a":"ü","z":1}'.encode()).hexdigest()


@pytest.mark.parametrize(
    "event",
    [
        CALL,
        GuardBlocked(guard_name="g", error_type="E", figures={"z": 1.5, "a": None, "limit": (1, 2)}),
        ToolFailure(error_type="E", error_message='a "quoted" line\n\x00\x7fü😀'),
        CustomEvent(category="a", name="b", payload={"é": 1e16, "b": 1e-7, "a": [Decimal("1.10"), {"y": 1, "x": 2}]}),
        CustomEvent(category="a", name="b", payload={"n": float("nan"), "t": True, "none": None, "i": 10**30}),
    ],
    ids=lambda event: event.kind,
)
def test_whoever_receives_an_event_can_check_its_digest(event: Event) -> None:
    content = written(event)
    assert content["payload"]
    assert content["digest"] == digest_of(content["payload"])


def test_a_guards_figures_stand_in_the_payload() -> None:
    blocked = GuardBlocked(
        guard_name="rate_limit",
        error_type="RateLimitExceeded",
        error_message="too often",
        tool_name="m:search",
        figures={"max_calls": 5, "period": 60.0, "scope_value": "alice", "guard_name": "forged"},
    )
    content = written(blocked)
    assert content["tool_name"] == "m:search"
    assert content["payload"] == {
        "max_calls": 5,
        "period": 60.0,
        "scope_value": "alice",
        "tool_name": "m:search",
        "guard_name": "rate_limit",
        "error_type": "RateLimitExceeded",
        "error_message": "too often",
    }


def test_times_are_utc_whatever_zone_they_came_in() -> None:
    assert utc_text(NOW.astimezone(timezone(timedelta(hours=5)))) == "2030-01-02T03:04:05.000006Z"


class Colour(Enum):
    RED = "red"


class Model(BaseModel):
    x: int = 1


@dataclasses.dataclass
class Point:
    x: Any = 1


class Secretive:
    def __repr__(self) -> str:
        return "sk-secret"


class Shouting(str):
    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __str__


@pytest.mark.parametrize(
    ("value", "safe"),
    [
        (Decimal("0.10"), "0.10"),
        (float("nan"), None),
        (float("inf"), None),
        (True, True),
        (NOW, "2030-01-02T03:04:05.000006Z"),
        (date(2030, 1, 2), "2030-01-02"),
        (b"abc", "<3 bytes>"),
        ({1, }, [1]),
        ((1, [2]), [1, [2]]),
        (Colour.RED, "red"),
        (Model(), {"x": 1}),
        (Point(Point()), {"x": {"x": 1}}),
        (Secretive(), "<Secretive>"),
        (Secretive, "<type>"),
        (Shouting("quiet"), "quiet"),
        ({1: "a", None: "b", Colour.RED: "c", ("x",): "d"}, {"1": "a", "None": "b", "red": "c", "<too deep>": "d"}),
    ],
)  # fmt: skip
def test_values_that_json_does_not_know(value: Any, safe: Any) -> None:
    assert json_safe(value) == safe
    json.dumps(json_safe(value), allow_nan=False)


def test_a_payload_that_contains_itself_ends_somewhere() -> None:
    loop: dict[str, Any] = {}
    loop["self"] = [loop]
    content = written(CustomEvent.model_construct(category="a", name="b", payload=loop))
    assert "<too deep>" in json.dumps(content)


jsonish = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.decimals() | st.dates(),
    lambda children: st.lists(children) | st.dictionaries(st.text() | st.integers(), children),
    max_leaves=20,
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(), jsonish))
def test_whatever_a_user_puts_in_becomes_json(payload: dict[str, Any]) -> None:
    event = CustomEvent(category="a", name="b", payload=payload)
    content = written(event)
    assert set(content) == ALWAYS
    assert content["payload"] == json.loads(json.dumps(json_safe(payload)).encode("utf-8", "replace"))
    assert content["digest"] == digest_of(content["payload"])


# --- which events are exported ---------------------------------------------------------------------------------------

EVENTS: list[Event] = [
    RunStart(),
    RunEnd(),
    CALL,
    GuardBlocked(guard_name="g", error_type="E"),
    BudgetBlocked(),
    ToolFailure(error_type="E"),
]
USERS_OWN = CustomEvent(category="billing", name="note")


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.kind)
def test_what_operators_want_to_know_is_exported(event: Event) -> None:
    assert event.kind in EXPORTED
    for mode in ("significant", "verbose"):
        assert is_exported(event, mode)
        assert isinstance(event, exported_kinds(mode))
    assert not is_exported(event, "off")


def test_users_own_events_are_exported_in_verbose_only() -> None:
    assert is_exported(USERS_OWN, "verbose")
    assert not is_exported(USERS_OWN, "significant")


@pytest.mark.parametrize("mode", ["off", "significant", "verbose"])
@pytest.mark.parametrize(
    "event",
    [
        BudgetReserved(reserve_id="r"),
        ReserveRequested(scope_id="s"),
        CustomEvent(category="budget", name="reserved"),
        CustomEvent(category="budget", name="settled"),
    ],
    ids=lambda event: type(event).__name__,
)
def test_the_gateways_own_events_never_come_back_to_it(event: Event, mode: Any) -> None:
    assert not is_exported(event, mode)


def test_nothing_that_wants_a_verdict_is_exported() -> None:
    def descendants(kind: type[Event]) -> set[type[Event]]:
        return {kind}.union(*(descendants(child) for child in kind.__subclasses__()))

    assert all(kind.lifecycle for kind in descendants(Request))


@pytest.mark.parametrize("value", ["1", "true", "TRUE", "Yes", "on", " on "])
def test_the_gate_of_tool_runs_opens(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTGUARD_EMIT_ALL_TOOL_RUNS", value)
    assert is_exported(ToolInvoke(), "significant")


@pytest.mark.parametrize("value", ["", "0", "false", "no", "off", "maybe", "2"])
def test_the_gate_of_tool_runs_stays_closed(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTGUARD_EMIT_ALL_TOOL_RUNS", value)
    assert not is_exported(ToolInvoke(), "verbose")
    assert not is_exported(CustomEvent(category="tool", name="invoke"), "verbose")
    monkeypatch.delenv("ACTGUARD_EMIT_ALL_TOOL_RUNS")
    assert not exports_tool_runs()
