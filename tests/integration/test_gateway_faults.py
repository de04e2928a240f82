"""The fault matrix: whatever a gateway does to a reserve, a settle or a batch of events, and from whichever kind of
caller they come: the outcome is the one of the contract, nobody waits longer than they should, and nothing counts
twice.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from gateway_tools import HASTY, PATIENT, Caller, certificate, client_of, recorded

from actguard.events import CallEntry, SettleRequested
from actguard.exceptions import ActGuardPaymentRequired, BudgetExceededError
from actguard.testing.gateway import Fault, LoopbackGateway

Outcome = Literal["done", "degraded", "payment", "exceeded"]

SLACK_S = 5.0
"""How much longer than it may a busy machine takes. The bound itself is in the settings of each cell."""


@dataclass(frozen=True)
class Cell:
    """One way to misbehave, and what follows from it."""

    fault: Fault | Literal["refused", "dns", "certificate"]
    kind: str | None = None
    """The failure_kind of the warning; None: there is none."""
    status: int | None = None
    budget: Outcome = "degraded"
    tries: int = 2
    """Requests of a reserve or settle that reach the gateway before the caller goes on."""
    settle: Outcome | None = None
    """Where a settle ends otherwise than a reserve."""
    events: Literal["done", "retried", "dropped"] = "retried"
    event_fault: Fault | None = None
    """The fault for events, where that of reserve and settle would take too long."""
    settings: Any = None


PAYMENT = {"UserMessage": "Top up", "CurrentBalance": 1.5, "RequiredAmount": 2, "TopupUrl": "https://pay.example/x"}
SNAKE_PAYMENT = {
    "user_message": "Top up",
    "current_balance": 1.5,
    "required_amount": 2,
    "topup_url": "https://pay.example/x",
}
BUSY = Fault(status=429, headers={"Retry-After": "60"})
SLOW_DOWN = Fault(status=429, headers={"Retry-After": "0.01"})

CELLS: dict[str, Cell] = {
    "refused": Cell("refused", kind="refused", tries=0),
    "reset before the answer": Cell(Fault(reset=True), kind="reset"),
    "reset in the body": Cell(Fault(cut_after=5), kind="truncated", status=200, events="done"),
    "accepted, never answered": Cell(Fault(hang=True), kind="timeout", tries=1, settings=HASTY),
    "slow drip": Cell(Fault(drip_s=0.1), kind="timeout", tries=1, events="done", settings=HASTY),
    "301": Cell(
        Fault(status=301, headers={"Location": "http://127.0.0.1:1/"}), "redirect", 301, tries=1, events="dropped"
    ),
    "400": Cell(Fault(status=400), kind="rejected", status=400, tries=1, events="dropped"),
    "401": Cell(Fault(status=401), kind="unauthorized", status=401, tries=1, events="dropped"),
    "402": Cell(Fault(status=402, body=PAYMENT), "payment_required", 402, budget="payment", tries=1),
    "402 in snake case": Cell(
        Fault(status=402, body=SNAKE_PAYMENT), "payment_required", 402, budget="payment", tries=1
    ),
    "402 with half of it": Cell(
        Fault(status=402, body={"Shortfall": 3}), "payment_required", 402, budget="payment", tries=1
    ),
    "402 without JSON": Cell(Fault(status=402, body=b"<html>"), "payment_required", 402, budget="payment", tries=1),
    "403": Cell(Fault(status=403), kind="unauthorized", status=403, tries=1, events="dropped"),
    "404": Cell(Fault(status=404), kind="rejected", status=404, tries=1, events="dropped"),
    "409": Cell(Fault(status=409), kind="conflict", status=409, budget="exceeded", tries=1),
    "422": Cell(Fault(status=422), kind="rejected", status=422, tries=1, events="dropped"),
    "429, wait too long": Cell(BUSY, kind="rate_limited", status=429, tries=1, event_fault=SLOW_DOWN),
    "429, wait a little": Cell(SLOW_DOWN, kind="rate_limited", status=429),
    "500": Cell(Fault(status=500), kind="server_error", status=500),
    "503": Cell(Fault(status=503, headers={"Retry-After": "0"}), kind="server_error", status=503),
    "not JSON": Cell(Fault(body=b"<html>"), kind="not_json", status=200, events="done"),
    "truncated JSON": Cell(Fault(body=b'{"reserve_id": "r'), kind="not_json", status=200, events="done"),
    "wrong types": Cell(
        Fault(body={"reserve_id": 5, "status": 5}), "malformed", 200, tries=1, settle="done", events="done"
    ),
    "a list": Cell(Fault(body=[1]), "malformed", 200, tries=1, settle="done", events="done"),
    "no reserve_id": Cell(Fault(body={}), "malformed", 200, tries=1, settle="done", events="done"),
    "10 MB": Cell(Fault(body=b" " * 10_000_000 + b"{}"), kind="truncated", status=200, events="done"),
    "bad certificate": Cell("certificate", kind="certificate", tries=0, events="dropped"),
    "no such name": Cell(
        "dns", kind="dns", tries=0, settings={**PATIENT, "budget_timeout_s": 0.5, "event_timeout_s": 0.5}
    ),
}

cells = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS.keys())


@pytest.fixture(params=["async", "sync"])
def caller(request: pytest.FixtureRequest) -> Caller:
    return Caller(request.param)


class Scene:
    """A gateway, a client of it, and the fault of a cell that can be switched on."""

    def __init__(self, cell: Cell, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cell = cell
        self._patch = monkeypatch
        tls = certificate(folder)[0] if cell.fault == "certificate" else None
        self.gateway = LoopbackGateway(tls=tls)
        self._stack = ExitStack()
        self._stack.enter_context(self.gateway)
        settings = {**PATIENT, **(cell.settings or {}), "flush_interval_ms": 10_000}
        self.patience_s: float = settings["budget_timeout_s"]
        if cell.fault == "dns":
            port = self.gateway.url.rpartition(":")[2]
            settings |= {"gateway_url": f"http://gateway.test:{port}", "allow_insecure_gateway": True}
            monkeypatch.setattr(socket, "getaddrinfo", _no_such_name)
        self.client = client_of(self.gateway, **settings)

    def begin(self, operation: Any, fault: Fault | None = None, times: int | None = None) -> None:
        if self.cell.fault == "refused":
            self.gateway.__exit__(None, None, None)
        elif isinstance(self.cell.fault, Fault):
            self.gateway.fail(operation, fault or self.cell.fault, times)

    def end(self) -> None:
        if self.cell.fault == "refused" and not self.gateway.running:
            self.gateway.__enter__()

    def close(self) -> None:
        self.gateway.heal()
        self.end()
        self.client.close()
        self._stack.close()


def _no_such_name(*_: Any, **__: Any) -> Any:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.fixture
def scene_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Cell], Scene]]:
    scenes: list[Scene] = []

    def make(cell: Cell) -> Scene:
        scenes.append(Scene(cell, tmp_path, monkeypatch))
        return scenes[0]

    yield make
    with recorded():  # what is left over was to be expected
        for scene in scenes:
            scene.close()


def facts(warned: list[Any], operation: str) -> list[tuple[str, int | None]]:
    return [(each.failure_kind, each.status_code) for each in warned if each.operation == operation]


@cells
def test_reserve(cell: Cell, caller: Caller, scene_of: Callable[[Cell], Scene]) -> None:
    scene = scene_of(cell)
    scene.begin("reserve")
    started = time.monotonic()
    with recorded() as warned:
        if cell.budget == "degraded":
            budget = caller.spend(scene.client, usd_limit=0.5)
            assert (budget.usd_used, budget.usd_limit) == (0.001, 0.5)
        else:
            error = ActGuardPaymentRequired if cell.budget == "payment" else BudgetExceededError
            with pytest.raises(error) as refused:
                caller.spend(scene.client, usd_limit=0.5)
            check_refusal(refused.value, cell)
    assert time.monotonic() - started < scene.patience_s + SLACK_S
    requests = scene.gateway.received("reserve")
    assert len(requests) == cell.tries
    assert len({request.key for request in requests}) == min(cell.tries, 1)
    assert len(scene.gateway.reservations) <= 1
    assert facts(warned, "reserve") == ([(cell.kind, cell.status)] if cell.budget == "degraded" else [])
    assert scene.client.flush()
    assert scene.gateway.received("settle") == []


@cells
def test_settle(cell: Cell, caller: Caller, scene_of: Callable[[Cell], Scene]) -> None:
    scene = scene_of(cell)
    outcome = cell.settle or cell.budget
    started = 0.0

    def misbehave() -> None:
        nonlocal started
        scene.begin("settle", times=cell.tries)
        started = time.monotonic()

    def settle() -> None:
        if cell.fault in ("dns", "certificate"):  # which no reservation survives to be settled
            entry = CallEntry(model="lookup", cost_cu=1)
            caller.ask(scene.client, SettleRequested(run_id="r", scope_id="s", reserve_id="x", entries=(entry,)))
        else:
            caller.spend(scene.client, misbehave, usd_limit=0.5)

    with recorded() as warned:
        if outcome in ("degraded", "done"):
            settle()
        else:
            with pytest.raises(ActGuardPaymentRequired if outcome == "payment" else BudgetExceededError) as refused:
                settle()
            check_refusal(refused.value, cell)
        assert time.monotonic() - started < scene.patience_s + SLACK_S or not started
        scene.end()
        goes_on = outcome == "degraded" and cell.kind in RETRIED
        if cell.fault != "dns":
            assert caller.flush(scene.client)  # which waits until it is delivered
    assert facts(warned, "settle") == ([(cell.kind, cell.status)] if outcome == "degraded" else [])
    requests = scene.gateway.received("settle")
    assert len(requests) == cell.tries + (goes_on and cell.fault != "dns")
    assert len({request.key for request in requests}) <= 1
    effects = [len(each.settlements) for each in scene.gateway.reservations]
    refused_there = isinstance(cell.fault, Fault) and not cell.fault.takes_effect and not goes_on
    assert effects == ([] if cell.fault in ("dns", "certificate") else [0] if refused_there else [1])
    assert scene.client.stats()["settlements_waiting"] == (cell.fault == "dns")


@cells
def test_events(cell: Cell, caller: Caller, scene_of: Callable[[Cell], Scene]) -> None:
    scene = scene_of(cell)
    scene.begin("events", cell.event_fault)
    started = time.monotonic()
    with recorded() as warned:
        with scene.client.run():
            pass
        entered_and_left = time.monotonic() - started
        assert caller.flush(scene.client)
    assert entered_and_left < SLACK_S  # publishing never waits for the gateway
    requests = scene.gateway.received("events")
    retries = (cell.settings or PATIENT)["event_max_retries"]
    reached = cell.fault not in ("refused", "dns", "certificate")
    assert len(requests) == {"done": 1, "dropped": 1, "retried": 1 + retries}[cell.events] * reached
    assert len({request.key for request in requests}) == reached
    assert [f"{event['category']}.{event['name']}" for event in scene.gateway.events] == (
        ["run.start", "run.end"] if isinstance(cell.fault, Fault) and cell.fault.takes_effect else []
    )
    assert facts(warned, "export") == ([] if cell.events == "done" else [(cell.kind, cell.status)])
    stats = scene.client.stats()
    delivered = 2 if cell.events == "done" else 0
    assert (stats["events_exported"], stats["events_dropped"], stats["events_waiting"]) == (delivered, 2 - delivered, 0)


RETRIED = {
    "refused", "reset", "truncated", "timeout", "rate_limited", "server_error", "not_json", "dns"
}  # fmt: skip


def check_refusal(error: Exception, cell: Cell) -> None:
    """The refusal says what the gateway said, in whichever style."""
    if isinstance(error, BudgetExceededError):
        assert (error.origin, error.status_code, error.user_id) == ("remote", 409, "alice")
        return
    assert isinstance(error, ActGuardPaymentRequired)
    assert isinstance(cell.fault, Fault)
    body = cell.fault.body if isinstance(cell.fault.body, dict) else {}
    assert error.response_payload == body
    full = len(body) == 4
    assert (error.user_message, error.current_balance, error.required_amount, error.topup_url) == (
        ("Top up", 1.5, 2, "https://pay.example/x") if full else (None, None, None, None)
    )
    assert error.shortfall == body.get("Shortfall")


# --- what the README says ---------------------------------------------------------------------------------------


OWN_LINES = {
    "payment_required": "answers 402",
    "conflict": "answers 409",
    "certificate": "has a certificate",
    "malformed": "answers 2xx with JSON",
    **dict.fromkeys(("redirect", "rejected", "unauthorized"), "answers another 4xx, or a redirect"),
    **dict.fromkeys(("rate_limited", "server_error"), "answers 429 or 5xx"),
}
"""How the line of the README begins, by the kind of failure."""


def line_of(cell: Cell) -> str:
    # For events the status alone decides: with a 2xx they are done, whatever becomes of the text.
    rest = "answers 2xx with a text" if cell.events == "done" else "cannot be looked up, refuses or resets"
    return OWN_LINES.get(cell.kind or "", rest)


def told_by(cell: Cell) -> list[str]:
    """What the line must say about entering, leaving and events."""
    retried = cell.kind in RETRIED
    refusals = {"payment": "`ActGuardPaymentRequired`", "exceeded": "`BudgetExceededError`"}
    entering = refusals.get(cell.budget, "tried again, then local limits" if retried else "local limits")
    leaving = refusals.get(cell.budget, "tried again, then" if retried else "given up")
    events = {"done": "done", "dropped": "the batch is dropped", "retried": "sent again"}[cell.events]
    return [entering, "done" if cell.settle == "done" else leaving, events]


def test_the_readme_says_so_cell_by_cell() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    lines = readme.split("### When the gateway fails")[1].split("\n\n")[2].splitlines()[2:]
    table = [[column.strip() for column in line.strip("|").split(" | ")] for line in lines]
    told = set()
    for name, cell in CELLS.items():
        (line,) = [line for line in table if line[0].lstrip("| ").startswith(line_of(cell))]
        told.add(line[0])
        for said, expected in zip(line[1:], told_by(cell), strict=True):
            assert said.startswith(expected), (name, said)
    assert [line[0] for line in table if line[0] not in told] == ["answers 2xx"]
