"""Rate limits: by real calls, and by virtual time where calls wait."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import trio
import trio.testing
from guarding import fresh, hand_clock, of_kind, published
from hypothesis import given, settings
from hypothesis import strategies as st

import actguard
from actguard import clock, rate_limit
from actguard.client import Client
from actguard.events import GuardBlocked
from actguard.exceptions import ActGuardUsageError, RateLimitExceeded, ScopeValidationError
from actguard.guards.state import shared
from actguard.guards.tools import name_of
from actguard.rules.window import Window


def test_no_more_than_max_calls_in_a_window() -> None:
    tool = rate_limit(max_calls=2, period=10)(of_kind("function", lambda: "ran"))
    with hand_clock() as now:
        assert [tool(), tool()] == ["ran", "ran"]
        with pytest.raises(RateLimitExceeded) as refused:
            tool()
        error = refused.value
        assert (error.max_calls, error.period, error.retry_after, error.scope_value) == (2, 10, 10, None)
        assert error.tool_name == name_of(tool)
        now.advance(9.99)
        with pytest.raises(RateLimitExceeded):
            tool()
        now.advance(0.01)
        assert tool() == "ran"


def test_each_value_of_the_scope_has_a_limit_of_its_own() -> None:
    @rate_limit(max_calls=1, period=10, scope="user")
    def send(text: str, user: Any = "alice") -> str:
        return f"{user} {text}"

    with hand_clock():
        assert send("hi") == "alice hi"
        assert send("hi", "bob") == "bob hi"
        assert send("hi", user=["un", "hashable"]) == "['un', 'hashable'] hi"
        for again in ("alice", "bob", ["un", "hashable"]):
            with pytest.raises(RateLimitExceeded):
                send("hi", again)


def test_bare_it_has_its_defaults_and_tools_do_not_share() -> None:
    one, other = rate_limit(of_kind("function", lambda: 1)), rate_limit(of_kind("function", lambda: 2))
    with hand_clock():
        assert [one() for _ in range(10)] == [1] * 10
        with pytest.raises(RateLimitExceeded):
            one()
        assert other() == 2


def test_direct_use_shares_by_key_and_without_one_by_object() -> None:
    key = fresh("key")

    def enter(**settings: Any) -> None:
        with rate_limit(max_calls=2, period=10, **settings):
            pass

    with hand_clock():
        enter(key=key)
        enter(key=key)
        with pytest.raises(RateLimitExceeded, match=r"^this block was called"):
            enter(key=key)
        enter(key=fresh("key"))
        limit = rate_limit(max_calls=2, period=10)
        with limit, limit, pytest.raises(RateLimitExceeded):  # re-entrant
            limit.__enter__()
        with pytest.raises(RateLimitExceeded):
            limit.__enter__()


def test_the_event_has_the_scope_value_among_its_figures_only(client: Client) -> None:
    @rate_limit(max_calls=1, period=10, scope="user")
    def send(user: str) -> None: ...

    with hand_clock(), client.run() as run, published(client, GuardBlocked) as events:
        send("secret-alice")
        with pytest.raises(RateLimitExceeded):
            send("secret-alice")
    (event,) = events
    assert (event.run_id, event.tool_name, event.guard_name) == (run.run_id, name_of(send), "rate_limit")
    assert event.error_type == "RateLimitExceeded"
    assert "secret-alice" not in event.error_message
    assert {name: event.figures[name] for name in ("max_calls", "period", "scope_value", "retry_after")} == {
        "max_calls": 1,
        "period": 10,
        "scope_value": "secret-alice",
        "retry_after": 10,
    }


@pytest.mark.parametrize(
    ("value", "shown"), [("x" * 10_000, "x" * 200), (7, 7), (None, None), (["a"] * 3, "['a', 'a', 'a']")]
)
def test_the_event_shows_so_much_of_a_scope_value(value: Any, shown: Any, client: Client) -> None:
    send = rate_limit(max_calls=1, period=10, scope="user")(lambda user: None)
    with client.run(), published(client, GuardBlocked) as events:
        send(value)
        with pytest.raises(RateLimitExceeded):
            send(value)
    assert events[0].figures.get("scope_value") == shown


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"max_calls": 0}, "max_calls"),
        ({"max_calls": True}, "max_calls"),
        ({"max_calls": 1.5}, "max_calls"),
        ({"period": 0}, "period"),
        ({"period": float("nan")}, "period"),
        ({"period": "60"}, "period"),
        ({"scope": ""}, "scope"),
        ({"scope": 7}, "scope"),
        ({"scope": "nobody"}, "scope"),
        ({"on_limit": "sleep"}, "on_limit"),
        ({"key": "alice"}, "key"),
    ],
)
def test_a_wrong_setting_fails_when_decorating_and_is_named(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(ScopeValidationError) as refused:
        rate_limit(**settings)(of_kind("function", lambda: None))
    assert refused.value.field == field
    assert isinstance(refused.value, ActGuardUsageError)


def test_idle_keys_are_freed() -> None:
    with hand_clock() as now:
        shared.sweep()
        before = len(shared)

        @rate_limit(max_calls=5, period=10, scope="user")
        def send(user: int) -> None: ...

        for user in range(100_000):
            send(user)
        assert len(shared) - before >= 100_000
        now.advance(11)
        for user in range(20_000):  # every call frees a few
            send(user)
        assert len(shared) - before <= 20_000
        now.advance(11)
        assert shared.sweep() <= before


# --- waiting, in virtual time ---------------------------------------------------------------------------------------


def in_virtual_time(main: Any) -> None:
    """Runs ``main`` on trio, where time jumps ahead whenever everyone waits."""

    async def with_clock() -> None:
        with clock.use(trio.current_time, trio.current_time):
            await main()

    trio.run(with_clock, clock=trio.testing.MockClock(autojump_threshold=0))


@settings(max_examples=40, deadline=None)
@given(
    max_calls=st.integers(1, 4),
    arrivals=st.lists(st.tuples(st.floats(0, 30), st.one_of(st.none(), st.floats(0.5, 20))), min_size=1, max_size=25),
)
def test_waiting_calls_never_exceed_the_limit_in_any_window(
    max_calls: int, arrivals: list[tuple[float, float | None]]
) -> None:
    """Arrivals at any time; some give up after a while. Nobody is let through too early, and nobody starves."""
    admitted: list[float] = []
    gave_up = 0

    async def main() -> None:
        @rate_limit(max_calls=max_calls, period=10, on_limit="wait", scope="key")
        async def tool(key: str) -> None:
            admitted.append(trio.current_time())

        key = fresh()

        async def arrive(at: float, patience: float | None) -> None:
            nonlocal gave_up
            await trio.sleep(at)
            with trio.move_on_after(float("inf") if patience is None else patience) as scope:
                await tool(key)
            gave_up += scope.cancelled_caught

        async with trio.open_nursery() as nursery:
            for at, patience in arrivals:
                nursery.start_soon(arrive, at, patience)

    in_virtual_time(main)
    assert len(admitted) + gave_up == len(arrivals)
    for first, last in zip(admitted, admitted[max_calls:], strict=False):
        assert last - first >= 10


def test_those_who_wait_go_on_in_the_order_in_which_they_came() -> None:
    order: list[int] = []

    async def main() -> None:
        @rate_limit(max_calls=1, period=10, on_limit="wait")
        async def tool(number: int) -> None:
            order.append(number)

        async def arrive(number: int) -> None:
            await trio.sleep(number / 100)
            await tool(number)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(arrive, number)

    in_virtual_time(main)
    assert order == list(range(20))


def test_a_plain_function_waits_within_the_deadline_around_it() -> None:
    @actguard.timeout(0.05)
    @rate_limit(max_calls=1, period=30, on_limit="wait")
    def tool() -> str:
        return "ran"

    assert tool() == "ran"
    with pytest.raises(actguard.exceptions.ToolTimeoutError):
        tool()


def test_waiting_in_a_plain_function_blocks_until_its_turn() -> None:
    tool = rate_limit(max_calls=1, period=0.02, on_limit="wait")(of_kind("function", clock.monotonic))
    begin = clock.monotonic()
    assert [tool() for _ in range(4)][-1] - begin >= 0.06


def steps_of(call: Any) -> int:
    """How many instructions of the interpreter ``call`` takes."""
    count = 0

    def trace(frame: Any, event: str, arg: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def test_a_call_costs_the_same_at_entry_10_and_at_entry_900_000() -> None:
    tool = rate_limit(max_calls=1_000_000, period=60)(of_kind("function", lambda: "ran"))
    key = ("rate_limit", name_of(tool), (1_000_000, 60.0), None)
    window = Window(1_000_000, 60.0)
    with hand_clock() as now:
        for _ in range(9):
            tool()
        steps_of(tool)  # Python 3.12 counts nothing the first time
        early = steps_of(tool)
        assert early
        state: Any = shared.apply(key, lambda state: (state, state))
        for _ in range(899_988):
            window.admit(state, now.now)
        assert steps_of(tool) == early
