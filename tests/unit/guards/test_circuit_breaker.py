"""Breakers around real calls: what is shared, what is counted, and that every permit comes back."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from conftest import Runner
from guarding import fresh, hand_clock, of_kind, outcome, published

import actguard
from actguard import FAIL_ON_STRICT, FailureKind, circuit_breaker, rate_limit, timeout
from actguard.client import Client
from actguard.events import GuardBlocked
from actguard.exceptions import CircuitBreakerConfigurationError, CircuitOpenError, RateLimitExceeded, ToolTimeoutError
from actguard.guards.circuit_breaker import CircuitBreaker
from actguard.guards.state import shared
from actguard.rules.breaker import BreakerState


class Answer:
    def __init__(self, status_code: int) -> None:
        self.status_code = status_code


def failing(breaker: CircuitBreaker, error: BaseException | None = None) -> Any:
    def body() -> None:
        raise error or ConnectionError("down")

    return breaker(of_kind("function", body))


def open_it(breaker: CircuitBreaker) -> None:
    for _ in range(breaker.breaker.max_fails):
        with pytest.raises(ConnectionError):
            failing(breaker)()


def state_of(breaker: CircuitBreaker) -> BreakerState | None:
    return shared.apply(breaker.state_key, lambda state: (state, state))


def test_tools_that_name_a_dependency_share_its_breaker() -> None:
    name = fresh("crm")
    with hand_clock() as now:
        open_it(circuit_breaker(name))
        other = circuit_breaker(name)(of_kind("function", lambda: "ran"))
        with pytest.raises(CircuitOpenError) as refused:
            other()
        error = refused.value
        assert (error.dependency_name, error.retry_after) == (name, 60)
        assert error.reset_at == 1_700_000_000 + now.now + 60
        now.advance(60)
        assert [other(), other()] == ["ran", "ran"]


def test_an_answer_can_say_that_it_failed() -> None:
    breaker = circuit_breaker(fresh("crm"), max_fails=1)
    with hand_clock():
        assert breaker(of_kind("function", lambda: Answer(404)))().status_code == 404
        assert breaker(of_kind("function", lambda: Answer(503)))().status_code == 503
        with pytest.raises(CircuitOpenError):
            breaker(of_kind("function", lambda: Answer(200)))()


@pytest.mark.parametrize(
    ("error", "counted"),
    [
        (ConnectionError(), True),
        (TimeoutError(), True),
        (ToolTimeoutError(tool_name="t", timeout_s=1), True),
        (ValueError(), False),
        (KeyboardInterrupt(), False),
        (actguard.GuardError("NO", "no"), False),
        (RateLimitExceeded(tool_name="t", max_calls=1, period=1, retry_after=1), False),
    ],
)
def test_what_is_counted(error: BaseException, counted: bool) -> None:
    breaker = circuit_breaker(fresh("crm"), max_fails=1)
    with hand_clock():
        with pytest.raises(type(error)):
            failing(breaker, error)()
        state = state_of(breaker)
        assert (state is not None and not state.closed) is counted


def test_a_timeout_inside_counts(on_loop: Runner) -> None:
    breaker = circuit_breaker(fresh("crm"), max_fails=1)

    async def main() -> None:
        tool = breaker(timeout(0.01)(forever))
        with pytest.raises(ToolTimeoutError):
            await tool()
        with pytest.raises(CircuitOpenError):
            await tool()

    async def forever() -> None:
        await anyio.sleep_forever()

    on_loop(main)


def half_open(breaker: CircuitBreaker, now: Any) -> None:
    open_it(breaker)
    now.advance(60)


def probe_is_free(breaker: CircuitBreaker) -> bool:
    state = state_of(breaker)
    assert state is not None
    return not state.closed and state.probe == 0


def test_a_probe_refused_by_an_inner_guard_is_free_again() -> None:
    breaker = circuit_breaker(fresh("crm"))
    with hand_clock() as now:
        half_open(breaker, now)
        tool = breaker(rate_limit(max_calls=1, period=1000, scope="key")(lambda key="k": 1 / 0))
        with pytest.raises(ZeroDivisionError):  # uncounted: the probe is free
            tool()
        assert probe_is_free(breaker)
        with pytest.raises(RateLimitExceeded):
            tool()
        assert probe_is_free(breaker)


@pytest.mark.parametrize("how", ["close", "drop"])
def test_a_probe_of_a_stream_left_early_is_free_again(how: str) -> None:
    breaker = circuit_breaker(fresh("crm"))

    def stream() -> Iterator[int]:
        yield 1
        yield 2

    with hand_clock() as now:
        half_open(breaker, now)
        items: Any = breaker(stream)()
        assert next(items) == 1
        assert not probe_is_free(breaker)
        if how == "close":
            items.close()
        else:
            del items
            gc.collect()
        assert probe_is_free(breaker)


def test_exactly_one_probe_among_fifty_concurrent_callers(on_loop: Runner) -> None:
    breaker = circuit_breaker(fresh("crm"))
    running = refused = 0

    async def main() -> None:
        nonlocal running, refused
        go = anyio.Event()

        @breaker
        async def tool() -> None:
            nonlocal running
            running += 1
            await go.wait()

        async def call() -> None:
            nonlocal refused
            try:
                await tool()
            except CircuitOpenError:
                refused += 1
                if refused == 49:
                    go.set()

        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(call)
        assert (running, refused) == (1, 49)
        await tool()
        assert running == 2

    with hand_clock() as now:
        half_open(breaker, now)
        on_loop(main)


async def test_direct_use_async_and_sync() -> None:
    breaker = circuit_breaker(fresh("crm"), max_fails=2)
    with hand_clock():
        with pytest.raises(ConnectionError):
            async with breaker:
                raise ConnectionError
        with pytest.raises(ConnectionError), breaker:
            raise ConnectionError
        with pytest.raises(CircuitOpenError):
            breaker.__enter__()


def test_the_refusal_is_announced_once_with_its_figures(client: Client) -> None:
    breaker = circuit_breaker(fresh("crm"))
    with hand_clock(), client.run(), published(client, GuardBlocked) as events:
        open_it(breaker)
        with pytest.raises(CircuitOpenError):
            failing(breaker)()
    (event,) = events
    assert (event.guard_name, event.figures["dependency_name"]) == ("circuit_breaker", breaker.dependency)
    assert event.figures["reset_at"] == 1_700_001_060


async def test_a_generator_in_a_breaker_counts_when_it_ends(on_loop: Runner) -> None:
    breaker = circuit_breaker(fresh("crm"), max_fails=1)
    with pytest.raises(ConnectionError):
        await outcome(breaker(of_kind("async generator", lambda: (_ for _ in ()).throw(ConnectionError)))().__aiter__())


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": 7}, "name"),
        ({"name": "x", "max_fails": 0}, "max_fails"),
        ({"name": "x", "reset_timeout": -1}, "reset_timeout"),
        ({"name": "x", "fail_on": "timeout"}, "fail_on"),
        ({"name": "x", "ignore_on": {"timeout", 7}}, "ignore_on"),
        ({"name": "x", "ignore_on": {FailureKind.TIMEOUT}}, "ignore_on"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(CircuitBreakerConfigurationError) as refused:
        circuit_breaker(**settings)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_fails", 5), ("reset_timeout", 1.0), ("fail_on", FAIL_ON_STRICT), ("ignore_on", frozenset())],
)
def test_two_definitions_of_one_dependency_must_agree(field: str, value: Any) -> None:
    name = fresh("crm")
    circuit_breaker(name)
    circuit_breaker(name, max_fails=3, reset_timeout=60)
    with pytest.raises(CircuitBreakerConfigurationError, match="is defined twice") as refused:
        circuit_breaker(name, **{field: value})
    assert refused.value.field == field


def test_a_dependency_that_has_not_failed_has_no_state() -> None:
    breaker = circuit_breaker(fresh("crm"))
    with hand_clock():
        breaker(of_kind("function", lambda: "ran"))()
        assert shared.is_free(breaker.state_key)
        with pytest.raises(ConnectionError):
            failing(breaker)()
        assert not shared.is_free(breaker.state_key)
        breaker(of_kind("function", lambda: "ran"))()  # a success resets the count
        assert shared.is_free(breaker.state_key)
