"""Budgets with a gateway, through real HTTP: what it grants, what it refuses, and what is settled in the end."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest
from gateway_tools import HASTY, Caller, certificate, client_of, recorded

import actguard
from actguard.events import BudgetReserved, BudgetSettled
from actguard.exceptions import (
    ActGuardMonitoringWarning,
    ActGuardPaymentRequired,
    ActGuardUsageError,
    BudgetExceededError,
    BudgetTransportError,
)
from actguard.guards.admission import Asked
from actguard.money.usage import Usage
from actguard.testing.gateway import Fault, LoopbackGateway

TARIFF = {
    "tariff_version": "t1",
    "cu_per_usd": 100,
    "registry_version": "r1",
    "llm": {
        "default": {"input_cu_per_1k": 10, "output_cu_per_1k": 20, "cached_cu_per_1k": 1},
        "providers": {"openai": {"models": {"gpt-x": {"input_cu_per_1m": 5000, "output_cu_per_1k": 2}}}},
    },
    "tools": {},
}


@pytest.fixture
def gateway() -> Iterator[LoopbackGateway]:
    with LoopbackGateway() as gateway:
        yield gateway


@pytest.fixture
def make(gateway: LoopbackGateway) -> Iterator[Callable[..., actguard.Client]]:
    clients: list[actguard.Client] = []

    def client(**settings: Any) -> actguard.Client:
        clients.append(client_of(gateway, **settings))
        return clients[-1]

    yield client
    with recorded():  # what is left over was to be expected
        gateway.__exit__(None, None, None)  # nobody waits for answers that will not come
        for each in clients:
            each.close()


@pytest.fixture(params=["async", "sync", "trio"])
def caller(request: pytest.FixtureRequest) -> Caller:
    return Caller(request.param)


def call(budget: Any, tokens: int = 1000, model: str = "gpt-x") -> None:
    """One provider call, as an integration charges it."""
    usage = Usage(uncached_input_tokens=tokens, output_tokens=tokens)
    ticket = budget.admit(Asked(provider="openai", model=model, api="chat", estimate=usage))
    error = ticket.charge(usage)
    if error is not None:
        raise error


# --- reserving --------------------------------------------------------------------------------------------------------


def test_a_run_is_reserved_and_settled_once(
    gateway: LoopbackGateway, make: Callable[..., actguard.Client], caller: Caller
) -> None:
    client = make()
    with client.bus.subscribe(BudgetReserved, BudgetSettled) as told:
        caller.spend(client, usd_limit="0.5", plan_key="pro")
        assert client.flush()
    (reservation,) = gateway.reservations
    assert reservation.body == {
        "run_id": reservation.body["run_id"],
        "usd_limit_micros": 500_000,
        "plan_key": "pro",
        "user_id": "alice",
    }
    (settlement,) = reservation.settlements
    assert settlement["usage_breakdown"] == [{"type": "custom_cost", "name": "lookup", "cost_cu": 1}]
    assert [type(event) for event in told.pending()] == [BudgetReserved, BudgetSettled]
    assert all(request.authorized for request in gateway.requests)
    assert {request.headers["content-type"] for request in gateway.requests} == {"application/json"}


def test_a_limit_of_the_gateway_applies_where_the_user_set_none(
    gateway: LoopbackGateway, make: Callable[..., actguard.Client], caller: Caller
) -> None:
    gateway.grants = {"usd_limit_micros": 1000, "cost_limit": 5_000_000}
    client = make()
    with recorded(), pytest.raises(BudgetExceededError) as refused:  # there is no tariff, which is warned about
        caller.spend(client)
    assert (refused.value.origin, refused.value.limit_type, refused.value.usd_limit) == ("local", "usd", 0.001)
    budget = caller.spend(client, usd_limit=3, cost_limit=70)
    assert (budget.usd_limit, budget.cost_limit) == (3.0, 70)


def test_nothing_granted_is_nothing_to_spend(gateway: LoopbackGateway, make: Callable[..., actguard.Client]) -> None:
    gateway.grants = {"usd_limit_micros": 0}
    with make() as client, client.run(), client.budget_guard() as budget, pytest.raises(BudgetExceededError):
        call(budget)


def test_a_path_that_joins_waits_for_the_one_reservation(
    gateway: LoopbackGateway, make: Callable[..., actguard.Client]
) -> None:
    client = make()

    async def path() -> float | None:
        async with client.budget_guard(usd_limit=1) as budget:
            actguard.add_cost("step", usd="0.01")
            await asyncio.sleep(0)
            return budget.usd_limit

    async def main() -> None:
        async with client.run():
            assert await asyncio.gather(*(path() for _ in range(20))) == [1.0] * 20

    asyncio.run(main())
    assert len(gateway.reservations) >= 1  # paths that came after all others had left open a root of their own
    settled = [entry for each in gateway.reservations for one in each.settlements for entry in one["usage_breakdown"]]
    assert len(settled) == 20
    assert all(len(each.settlements) == 1 for each in gateway.reservations)


@pytest.mark.parametrize("status", [402, 409])
def test_all_paths_hear_the_refusal(
    status: int, gateway: LoopbackGateway, make: Callable[..., actguard.Client]
) -> None:
    gateway.fail("reserve", Fault(status=status, body={}))
    client = make()

    async def path() -> None:
        async with client.budget_guard(usd_limit=1):
            raise AssertionError("the root must not open")

    async def main() -> list[Any]:
        async with client.run():
            return await asyncio.gather(*(path() for _ in range(5)), return_exceptions=True)

    kind = ActGuardPaymentRequired if status == 402 else BudgetExceededError
    assert [type(error) for error in asyncio.run(main())] == [kind] * 5


def test_after_a_refusal_the_same_guard_may_ask_again_as_a_new_request(
    gateway: LoopbackGateway, make: Callable[..., actguard.Client]
) -> None:
    gateway.fail("reserve", Fault(status=402), times=1)
    client = make()
    with client.run():
        guard = client.budget_guard(usd_limit=1)
        with pytest.raises(ActGuardPaymentRequired):
            guard.__enter__()
        with guard:  # the account was topped up meanwhile
            pass
    first, second = gateway.received("reserve")
    assert first.key != second.key  # a key that was refused would be refused for ever


def test_one_warning_for_one_kind_of_failure(
    gateway: LoopbackGateway, make: Callable[..., actguard.Client], caller: Caller
) -> None:
    client = make(budget_max_retries=0)
    gateway.fail("reserve", Fault(status=500), times=3)
    gateway.fail("reserve", Fault(status=503), times=2)
    with recorded() as warned:
        for _ in range(5):
            caller.spend(client, usd_limit=1)
    assert [(each.operation, each.status_code) for each in warned] == [("reserve", 500), ("reserve", 503)]
    with recorded() as warned:
        gateway.fail("reserve", Fault(status=500), times=1)
        caller.spend(client, usd_limit=1)
        other = make(budget_max_retries=0)
        gateway.fail("reserve", Fault(status=500), times=1)
        caller.spend(other, usd_limit=1)
    assert len(warned) == 1  # the other client's first


def test_warnings_as_errors_do_not_break_the_run(
    gateway: LoopbackGateway, make: Callable[..., actguard.Client], caller: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.fail("reserve", Fault(status=500))
    caller.spend(make(), usd_limit=1)  # pytest turns warnings into errors
    assert "reserve failed" in caplog.text


@pytest.mark.parametrize("fault", [Fault(status=500), Fault(status=401), Fault(hang=True), Fault(body={})])
def test_a_client_that_fails_closed_opens_nothing(
    fault: Fault, gateway: LoopbackGateway, make: Callable[..., actguard.Client], caller: Caller
) -> None:
    gateway.fail("reserve", fault)
    client = make(**HASTY, on_gateway_failure="closed")
    with pytest.raises(BudgetTransportError) as refused:
        caller.spend(client, usd_limit=1)
    error = refused.value
    assert (error.path, error.status_code) == ("/api/v1/reserve", fault.status if fault.body is None else 200)
    assert error.__cause__ is None
    assert error.__context__ is None or isinstance(error.__context__, BudgetTransportError)


def test_a_grant_that_cannot_be_read_is_given_back_when_the_client_fails_closed(
    gateway: LoopbackGateway, make: Callable[..., actguard.Client]
) -> None:
    gateway.grants = {"usd_limit_micros": "plenty"}
    client = make(on_gateway_failure="closed")
    with pytest.raises(BudgetTransportError), client.run(), client.budget_guard(usd_limit=1):
        pass
    assert client.flush()
    assert [each["usage_breakdown"] for each in gateway.reservations[0].settlements] == [[]]


def test_a_grant_that_cannot_be_read_is_settled_all_the_same(
    gateway: LoopbackGateway, make: Callable[..., actguard.Client], caller: Caller
) -> None:
    gateway.grants = {"usd_limit_micros": "plenty"}
    with recorded() as warned:
        budget = caller.spend(make())
    assert budget.usd_limit is None
    assert [each.failure_kind for each in warned] == ["malformed"]
    assert "usd_limit_micros" in warned[0].summary
    assert "plenty" not in str(warned[0])
    assert len(gateway.reservations[0].settlements) == 1


# --- late, cancelled, closed ------------------------------------------------------------------------------------------


def test_a_grant_that_comes_too_late_is_settled_with_what_the_run_used(
    gateway: LoopbackGateway, make: Callable[..., actguard.Client], caller: Caller
) -> None:
    gateway.fail("reserve", Fault(delay_s=0.45))
    client = make(**{**HASTY, "budget_timeout_s": 0.4})
    with recorded() as warned:
        caller.spend(client, usd_limit=1)
        gateway.wait_for(lambda: gateway.reservations and gateway.reservations[0].settlements)
    assert [each.failure_kind for each in warned] == ["timeout"]
    (settlement,) = gateway.reservations[0].settlements
    assert settlement["usage_breakdown"] == [{"type": "custom_cost", "name": "lookup", "cost_cu": 1}]


def test_a_cancelled_entry_is_settled_with_zero(gateway: LoopbackGateway, make: Callable[..., actguard.Client]) -> None:
    gateway.delay_s = 0.1
    client = make()

    async def enter() -> None:
        async with client.run(), client.budget_guard(usd_limit=1):
            raise AssertionError("the entry was cancelled")

    async def main() -> None:
        entering = asyncio.create_task(enter())
        await asyncio.to_thread(gateway.wait_for, lambda: gateway.received("reserve"))
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        await asyncio.to_thread(gateway.wait_for, lambda: gateway.reservations[0].settlements)

    asyncio.run(main())
    assert client.flush()
    assert [each["usage_breakdown"] for each in gateway.reservations[0].settlements] == [[]]
    assert [each["provider"] for each in gateway.reservations[0].settlements] == ["none"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_cancelled_exit_is_settled_all_the_same(
    backend: str, gateway: LoopbackGateway, make: Callable[..., actguard.Client]
) -> None:
    client = make()

    async def main() -> None:
        with anyio.CancelScope() as scope:
            async with client.run(), client.budget_guard(usd_limit=1):
                actguard.add_cost("step", usd="0.01")
                scope.cancel()
                await anyio.sleep_forever()

    anyio.run(main, backend=backend)
    gateway.wait_for(lambda: gateway.reservations[0].settlements)
    (settlement,) = gateway.reservations[0].settlements
    assert settlement["usage_breakdown"][0]["cost_cu"] == 10


def test_a_refusal_of_a_settlement_that_nobody_heard_is_a_warning(
    gateway: LoopbackGateway, make: Callable[..., actguard.Client]
) -> None:
    gateway.fail("settle", Fault(status=402, delay_s=0.05))
    client = make()

    async def main() -> None:
        with anyio.CancelScope() as scope:
            async with client.run(), client.budget_guard(usd_limit=1):
                scope.cancel()
                await anyio.sleep_forever()

    with recorded() as warned:
        anyio.run(main)
        assert client.flush()
    assert [(each.operation, each.failure_kind, each.status_code) for each in warned] == [
        ("settle", "payment_required", 402)
    ]


def test_an_exception_of_the_body_is_not_hidden_by_a_refused_settlement(
    gateway: LoopbackGateway, make: Callable[..., actguard.Client], caller: Caller
) -> None:
    gateway.fail("settle", Fault(status=409))

    def body() -> None:
        raise LookupError("the body's own")

    with recorded() as warned, pytest.raises(LookupError, match="the body's own"):
        caller.spend(make(), body, usd_limit=1)
    assert [(each.operation, each.status_code) for each in warned] == [("settle", 409)]


def test_a_scope_that_outlives_its_client_says_that_it_is_not_settled(
    gateway: LoopbackGateway, make: Callable[..., actguard.Client]
) -> None:
    client = make()
    with recorded() as warned, client.run(), client.budget_guard(usd_limit=1):
        client.close()
    assert [each.operation for each in warned] == ["settle"]
    assert gateway.reservations[0].settlements == []


def test_a_settlement_that_fails_goes_on_in_the_background_under_the_same_key(
    gateway: LoopbackGateway, make: Callable[..., actguard.Client], caller: Caller
) -> None:
    gateway.fail("settle", Fault(status=503), times=6)
    client = make()
    with recorded() as warned:
        caller.spend(client, usd_limit=1)
        assert caller.flush(client)
    assert [each.operation for each in warned] == ["settle"]
    assert len({request.key for request in gateway.received("settle")}) == 1
    assert len(gateway.received("settle")) == 7
    assert len(gateway.reservations[0].settlements) == 1
    assert client.stats()["settlements_waiting"] == 0


def test_a_settlement_that_took_effect_before_its_answer_was_lost_counts_once(
    gateway: LoopbackGateway, make: Callable[..., actguard.Client], caller: Caller
) -> None:
    gateway.fail("settle", Fault(reset=True), times=3)
    client = make()
    with recorded():
        caller.spend(client, usd_limit=1)
        assert caller.flush(client)
    assert len(gateway.received("settle")) == 4
    assert len(gateway.reservations[0].settlements) == 1


def test_retry_after_is_waited_for_when_it_fits(
    gateway: LoopbackGateway, make: Callable[..., actguard.Client], caller: Caller
) -> None:
    gateway.fail("reserve", Fault(status=429, headers={"Retry-After": "0.2"}), times=1)
    caller.spend(make(), usd_limit=1)
    first, second = gateway.received("reserve")
    assert second.at - first.at >= 0.2
    assert first.key == second.key


# --- cost units -------------------------------------------------------------------------------------------------------


def test_the_tariff_counts_cost_units_and_is_fetched_once(
    gateway: LoopbackGateway, make: Callable[..., actguard.Client], caller: Caller
) -> None:
    gateway.tariff = TARIFF
    client = make(prices={"*": {"input_per_mtok": 1, "output_per_mtok": 1}})
    for _ in range(3):
        with client.run(), client.budget_guard(cost_limit=1000) as budget:
            call(budget, 1000)  # 5 CU for a thousand tokens in, 2 for a thousand out
            assert budget.cost_used == 7
            call(budget, 1001)  # each part is rounded up
            assert budget.cost_used == 7 + 6 + 3
            call(budget, 1000, model="gpt-unknown")
            assert budget.cost_used == 7 + 9 + 30
            actguard.add_cost("lookup", usd="0.03")
            assert budget.cost_used == 7 + 9 + 30 + 3
    assert len(gateway.received("tariff")) == 1
    assert gateway.reservations[0].settlements[0]["usage_breakdown"][-1]["cost_cu"] == 3


def test_no_cost_limit_no_tariff(gateway: LoopbackGateway, make: Callable[..., actguard.Client]) -> None:
    gateway.tariff = TARIFF
    with make() as client, client.run(), client.budget_guard(usd_limit=1):
        pass
    assert gateway.received("tariff") == []


def test_a_cost_limit_of_the_gateway_asks_for_the_tariff_too(
    gateway: LoopbackGateway, make: Callable[..., actguard.Client]
) -> None:
    gateway.tariff, gateway.grants = TARIFF, {"cost_limit": 2}
    with make() as client, client.run(), pytest.raises(BudgetExceededError) as refused, client.budget_guard():
        actguard.add_cost("lookup", usd="0.02")
    assert (refused.value.limit_type, refused.value.cost_used) == ("cost", 2)


BAD_RATES = {**TARIFF, "llm": {"default": {"input_cu_per_1k": "10", "output_cu_per_1k": 1, "cached_cu_per_1k": 1}}}


@pytest.mark.parametrize(
    ("fault", "kind", "asked"),
    [
        (Fault(status=404), "rejected", 1),
        (Fault(status=200, body={"tariff_version": "x"}), "malformed", 1),
        (Fault(status=200, body=BAD_RATES), "malformed", 1),
        (Fault(status=500), "server_error", 4),
    ],
)
def test_without_a_tariff_cost_units_are_dollars_times_a_thousand(
    fault: Fault, kind: str, asked: int, gateway: LoopbackGateway, make: Callable[..., actguard.Client]
) -> None:
    gateway.fail("tariff", fault)
    client = make()
    with recorded() as warned:
        for _ in range(2):
            with client.run(), client.budget_guard(cost_limit=100) as budget:
                actguard.add_cost("lookup", usd="0.03")
                assert budget.cost_used == 30
    assert [(each.operation, each.failure_kind) for each in warned] == [("tariff", kind)]
    assert len(gateway.received("tariff")) == asked  # a failure that may pass is asked about again, another is not
    assert [len(each.settlements) for each in gateway.reservations] == [1, 1]


def test_a_tariff_that_hangs_costs_no_more_than_the_entry_may_take_and_loses_no_reservation(
    gateway: LoopbackGateway, make: Callable[..., actguard.Client], caller: Caller
) -> None:
    gateway.fail("tariff", Fault(hang=True))
    with recorded() as warned:
        caller.spend(make(**HASTY), cost_limit=100)
    assert {each.operation for each in warned} <= {"tariff"}
    assert len(gateway.reservations[0].settlements) == 1


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_reserve_and_settle_by_hand(gateway: LoopbackGateway, make: Callable[..., actguard.Client]) -> None:
    gateway.grants = {"usd_limit_micros": 5}
    client = make()
    answer = client.reserve_budget(run_id="r", usd_limit_micros=7, idempotency_key="mine")
    assert answer == {"reserve_id": "reserve-1", "status": "reserved", "usd_limit_micros": 5}
    assert client.reserve_budget(run_id="r", usd_limit_micros=7, idempotency_key="mine") == answer
    assert gateway.requests[0].key == "mine"
    usage = {
        "provider": "openai",
        "provider_model_id": "m",
        "input_tokens": 3,
        "cached_input_tokens": 0,
        "output_tokens": 1,
    }
    assert client.settle_budget(reserve_id="reserve-1", **usage, usage_breakdown=[usage]) == {"status": "settled"}
    assert gateway.reservations[0].settlements == [{"reserve_id": "reserve-1", **usage, "usage_breakdown": [usage]}]


async def test_reserve_and_settle_by_hand_on_a_loop(
    gateway: LoopbackGateway, make: Callable[..., actguard.Client]
) -> None:
    client = make()
    answer = await client.areserve_budget(run_id="r", cost_limit=3)
    assert gateway.requests[0].body == {"run_id": "r", "cost_limit": 3}
    assert await client.asettle_budget(reserve_id=answer["reserve_id"]) == {"status": "settled"}


@pytest.mark.parametrize(
    ("fault", "error", "tries"),
    [
        (Fault(status=402, body={"Shortfall": 2}), ActGuardPaymentRequired, 1),
        (Fault(status=409), BudgetExceededError, 1),
        (Fault(status=403), BudgetTransportError, 1),
        (Fault(status=503), BudgetTransportError, 2),
        (Fault(body={"id": "x"}), BudgetTransportError, 1),
        (Fault(body=b"<"), BudgetTransportError, 2),
    ],
)
def test_by_hand_every_failure_is_an_error(
    fault: Fault, error: type[Exception], tries: int, gateway: LoopbackGateway, make: Callable[..., actguard.Client]
) -> None:
    gateway.fail("reserve", fault)
    with pytest.raises(error) as caught:
        make().reserve_budget(run_id="r")
    assert caught.value.__cause__ is None
    assert getattr(caught.value, "path", None) == "/api/v1/reserve"
    assert len(gateway.requests) == tries


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"run_id": ""}, "run_id"), ({"run_id": "r", "cost_limit": 0}, "cost_limit"), ({"run_id": 5}, "run_id")],
)
def test_by_hand_wrong_arguments_are_named_and_not_sent(
    fields: dict[str, Any], field: str, gateway: LoopbackGateway, make: Callable[..., actguard.Client]
) -> None:
    with pytest.raises(ActGuardUsageError, match=field) as caught:
        make().reserve_budget(**fields)
    assert caught.value.field == field
    assert gateway.requests == []


def test_by_hand_without_a_gateway() -> None:
    with actguard.Client() as client, pytest.raises(ActGuardUsageError, match="gateway_url"):
        client.reserve_budget(run_id="r")


# --- the connection ---------------------------------------------------------------------------------------------------


def test_connections_are_kept_and_shared_by_all_runs(
    gateway: LoopbackGateway, make: Callable[..., actguard.Client]
) -> None:
    client = make(event_mode="off")
    for _ in range(5):
        with client.run(), client.budget_guard(usd_limit=1):
            pass
    worker = threading.Thread(target=lambda: Caller("async").spend(client, usd_limit=1))
    worker.start()
    worker.join()
    assert gateway.connections == 1


def test_the_key_does_not_follow_a_redirect(gateway: LoopbackGateway, make: Callable[..., actguard.Client]) -> None:
    with LoopbackGateway() as elsewhere:
        gateway.fail("reserve", Fault(status=307, headers={"Location": f"{elsewhere.url}/api/v1/reserve"}))
        with recorded() as warned, make() as client, client.run(), client.budget_guard(usd_limit=1):
            pass
        assert elsewhere.requests == []
    assert elsewhere.url in warned[0].summary


@pytest.mark.parametrize(
    ("host", "valid_days", "trusted", "advice"),
    [
        ("127.0.0.1", 1, False, "SSL_CERT_FILE"),
        ("127.0.0.1", -1, True, "expired"),
        ("gateway.example", 1, True, "another host"),
    ],
)
def test_a_certificate_that_is_not_accepted_is_explained(
    host: str, valid_days: int, trusted: bool, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls, public = certificate(tmp_path, host=host, valid_days=valid_days)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(public))
    with LoopbackGateway(tls=tls) as gateway, recorded() as warned, client_of(gateway, event_mode="off") as client:
        with client.run(), client.budget_guard(usd_limit=1):
            pass
        assert gateway.requests == []
    assert [each.failure_kind for each in warned] == ["certificate"]
    assert advice in warned[0].summary


def test_a_certificate_of_an_own_authority_is_accepted_once_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls, public = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(public))
    with LoopbackGateway(tls=tls) as gateway, client_of(gateway) as client, client.run(), client.budget_guard():
        pass
    assert len(gateway.reservations[0].settlements) == 1


def test_certificates_that_cannot_be_read_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls, _ = certificate(tmp_path)
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    monkeypatch.setenv("SSL_CERT_FILE", str(nonsense))
    with LoopbackGateway(tls=tls) as gateway, recorded() as warned, client_of(gateway, event_mode="off") as client:
        Caller("sync").spend(client)
    assert [each.failure_kind for each in warned] == ["certificate"]


def test_https_to_a_server_that_does_not_speak_it(gateway: LoopbackGateway) -> None:
    url = gateway.url.replace("http:", "HTTPS:")
    with recorded() as warned, client_of(gateway, gateway_url=url, event_mode="off") as client:
        Caller("sync").spend(client)
    assert [each.failure_kind for each in warned] == ["tls"]
    assert "https" in warned[0].summary


def test_debug_shows_the_conversation_without_its_secrets(
    gateway: LoopbackGateway, make: Callable[..., actguard.Client], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="actguard.gateway")
    topup = "https://pay.example/session"
    gateway.fail("settle", Fault(status=402, body={"topup_url": topup, "echo": gateway.api_key, "shortfall": 3}))
    gateway.fail("events", Fault(status=422, body={"detail": "no such field"}))
    client = make(debug=True)
    with recorded(), pytest.raises(ActGuardPaymentRequired), client.run(user_id="alice"), client.budget_guard():
        pass
    with recorded():
        client.close()
    text = caplog.text
    assert "POST http://127.0.0.1" in text
    for shown in (
        "/api/v1/reserve answered 200",
        "reserve-1",
        "alice",
        "payment_required (402)",
        "shortfall",
        "no such field",
    ):
        assert shown in text
    for hidden in (gateway.api_key, topup, "Bearer"):
        assert hidden not in text


def test_a_gateway_that_repeats_the_key_does_not_bring_it_into_errors_and_warnings(
    gateway: LoopbackGateway, make: Callable[..., actguard.Client]
) -> None:
    said = {"user_message": f"no credit on {gateway.api_key}", "current_balance": {"of": [gateway.api_key]}}
    gateway.fail("reserve", Fault(status=402, body=said))
    client = make()
    with pytest.raises(ActGuardPaymentRequired) as caught, client.run(), client.budget_guard():
        pass
    assert caught.value.user_message == "no credit on ***"
    assert gateway.api_key not in f"{caught.value} {caught.value.to_prompt()} {vars(caught.value)}"
    gateway.heal()
    gateway.fail("reserve", Fault(status=307, headers={"Location": f"https://there.example/?key={gateway.api_key}"}))
    with recorded() as warned, client.run(), client.budget_guard():
        pass
    assert [each.failure_kind for each in warned] == ["redirect"]
    assert "there.example/?key=***" in str(warned[0])
    assert gateway.api_key not in f"{warned[0]} {vars(warned[0])}"


def test_without_debug_nothing_is_logged(
    gateway: LoopbackGateway, make: Callable[..., actguard.Client], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with make() as client, client.run(), client.budget_guard():
        pass
    assert [record for record in caplog.records if record.name.startswith("actguard")] == []


def test_amounts_are_exact(gateway: LoopbackGateway, make: Callable[..., actguard.Client]) -> None:
    gateway.grants = {"usd_limit_micros": 1}
    with make() as client, client.run(), client.budget_guard() as budget:
        assert budget.account.limits.usd == Decimal("0.000001")


def test_the_warning_carries_its_facts(gateway: LoopbackGateway, make: Callable[..., actguard.Client]) -> None:
    gateway.fail("reserve", Fault(status=403))
    client = make()
    with pytest.warns(ActGuardMonitoringWarning, match="api_key") as caught, client.run(), client.budget_guard():
        pass
    error = caught[0].message.error  # type: ignore[union-attr]
    assert (error.subsystem, error.operation, error.failure_kind) == ("budget", "reserve", "unauthorized")
    assert (error.path, error.status_code) == ("/api/v1/reserve", 403)
    assert gateway.api_key not in str(caught[0].message)
