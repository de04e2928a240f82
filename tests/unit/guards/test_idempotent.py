"""Idempotency around real calls: once, whoever calls, whatever happens half-way."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from conftest import Runner
from guarding import KINDS, PLAIN_KINDS, hand_clock, of_kind, outcome, published
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from actguard import idempotent, max_attempts, rate_limit, timeout
from actguard.client import Client
from actguard.events import GuardBlocked, GuardIntervention, ToolInvoke
from actguard.exceptions import (
    DuplicateIdempotencyKey,
    IdempotencyInProgress,
    IdempotencyKeyReused,
    IdempotencyOutcomeUnknown,
    InvalidIdempotentToolError,
    MaxAttemptsExceeded,
    MissingIdempotencyKeyError,
    MissingRuntimeContextError,
    ToolTimeoutError,
)
from actguard.guards.repeats import fingerprint
from actguard.rules import keys, values


class Bank:
    """What a tool does, counted."""

    def __init__(self) -> None:
        self.paid: list[int] = []

    def pay(self, amount: int = 1, *, idempotency_key: str) -> dict[str, int]:
        self.paid.append(amount)
        return {"receipt": len(self.paid)}


@pytest.fixture
def bank() -> Bank:
    return Bank()


@pytest.mark.parametrize("kind", PLAIN_KINDS)
def test_a_repeat_gets_the_stored_result(kind: str, bank: Bank, client: Client, on_loop: Runner) -> None:
    body = of_kind(kind, bank.pay)

    if kind == "coroutine":

        @idempotent
        async def pay(amount: int, idempotency_key: str) -> Any:
            return await body(amount, idempotency_key=idempotency_key)
    else:

        @idempotent
        def pay(amount: int, idempotency_key: str) -> Any:
            return body(amount, idempotency_key=idempotency_key)

    async def main() -> None:
        with client.run(), published(client, GuardIntervention, ToolInvoke) as events:
            first = await outcome(pay(5, "a"))
            assert await outcome(pay(5, idempotency_key="a")) is first
            assert await outcome(pay(amount=5, idempotency_key="a")) is first
            assert await outcome(pay(5, "b")) == {"receipt": 2}
        assert bank.paid == [5, 5]
        with client.run():  # keys belong to the run
            assert await outcome(pay(5, "a")) == {"receipt": 3}
        assert [event.kind for event in events].count("tool.invoke") == 2
        replays = [event for event in events if isinstance(event, GuardIntervention)]
        assert [event.figures for event in replays] == [{"action": "return_cached"}] * 2

    on_loop(main)


def test_other_arguments_under_the_same_key_are_refused(bank: Bank, client: Client) -> None:
    pay = idempotent(bank.pay)
    with client.run():
        pay(5, idempotency_key="a")
        with pytest.raises(IdempotencyKeyReused):
            pay(6, idempotency_key="a")
    assert bank.paid == [5]


def test_duplicates_can_be_refused(bank: Bank, client: Client) -> None:
    pay = idempotent(on_duplicate="raise")(bank.pay)
    with client.run(), published(client, GuardBlocked) as events:
        pay(5, idempotency_key="secret")
        with pytest.raises(DuplicateIdempotencyKey):
            pay(5, idempotency_key="secret")
    assert "secret" not in repr(events)
    assert [event.guard_name for event in events] == ["idempotent"]


def test_a_result_expires_and_a_running_call_does_not(bank: Bank, client: Client) -> None:
    with hand_clock() as now, client.run():

        @idempotent(ttl_s=10)
        def pay(*, idempotency_key: str) -> dict[str, int]:
            now.advance(100)
            with pytest.raises(IdempotencyInProgress):
                pay(idempotency_key=idempotency_key)  # re-entrant
            return bank.pay(idempotency_key=idempotency_key)

        pay(idempotency_key="a")
        now.advance(9.9)
        pay(idempotency_key="a")
        assert len(bank.paid) == 1
        now.advance(0.1)
        pay(idempotency_key="a")
        assert len(bank.paid) == 2


def test_a_call_that_failed_half_way_has_an_unknown_outcome(client: Client) -> None:
    calls: list[int] = []

    @idempotent(ttl_s=10)
    def pay(*, idempotency_key: str) -> None:
        calls.append(1)
        raise ConnectionError

    with hand_clock() as now, client.run():
        with pytest.raises(ConnectionError):
            pay(idempotency_key="a")
        with pytest.raises(IdempotencyOutcomeUnknown):
            pay(idempotency_key="a")
        now.advance(10)
        with pytest.raises(ConnectionError):
            pay(idempotency_key="a")
    assert len(calls) == 2


def test_safe_exceptions_free_the_key(bank: Bank, client: Client) -> None:
    fails = [LookupError(), KeyError(), ValueError()]

    @idempotent(safe_exceptions=(LookupError, ValueError))
    def pay(*, idempotency_key: str) -> dict[str, int]:
        if fails:
            raise fails.pop()
        return bank.pay(idempotency_key=idempotency_key)

    with client.run():
        for kind in (ValueError, KeyError, LookupError):
            with pytest.raises(kind):
                pay(idempotency_key="a")
        assert pay(idempotency_key="a") == {"receipt": 1}


def test_a_refusal_before_the_body_frees_the_key(bank: Bank, client: Client) -> None:
    pay = idempotent(max_attempts(1)(bank.pay))
    with client.run():
        pay(idempotency_key="a")
        for _ in range(2):
            with pytest.raises(MaxAttemptsExceeded):
                pay(idempotency_key="b")


def test_arguments_that_do_not_fit_free_the_key(bank: Bank, client: Client) -> None:
    pay: Any = idempotent(bank.pay)
    with client.run():
        for _ in range(2):
            with pytest.raises(TypeError):
                pay(1, 2, 3, idempotency_key="a")
        assert pay(1, idempotency_key="a") == {"receipt": 1}


def test_a_timeout_leaves_the_outcome_unknown(client: Client, on_loop: Runner) -> None:
    @idempotent
    @timeout(0.01)
    async def pay(*, idempotency_key: str) -> None:
        await anyio.sleep_forever()

    async def main() -> None:
        with client.run():
            with pytest.raises(ToolTimeoutError):
                await pay(idempotency_key="a")
            with pytest.raises(IdempotencyOutcomeUnknown):
                await pay(idempotency_key="a")

    on_loop(main)


def test_a_result_that_is_consumed_is_not_given_twice(client: Client) -> None:
    @idempotent
    def rows(*, idempotency_key: str) -> Iterator[int]:
        return iter([1, 2])

    with client.run():
        assert list(rows(idempotency_key="a")) == [1, 2]
        with pytest.raises(DuplicateIdempotencyKey):
            rows(idempotency_key="a")


@pytest.mark.parametrize("key", [None, "", 7, b"a", ["a"]])
def test_the_key_is_a_non_empty_text(key: Any, bank: Bank, client: Client) -> None:
    @idempotent
    def pay(idempotency_key: Any = None) -> None: ...

    with client.run():
        for call in (lambda: pay(key), lambda: pay(idempotency_key=key), lambda: idempotent(bank.pay)):
            with contextlib.suppress(MissingIdempotencyKeyError):
                call()
        with pytest.raises(MissingIdempotencyKeyError) as refused:
            pay(key)
    assert refused.value.field == "idempotency_key"


def test_without_a_run_it_says_so(bank: Bank) -> None:
    with pytest.raises(MissingRuntimeContextError) as refused:
        idempotent(bank.pay)(idempotency_key="a")
    assert refused.value.code == "runtime.context_missing"


@pytest.mark.parametrize("kind", KINDS[2:])
def test_generator_functions_are_refused_when_decorating(kind: str) -> None:
    with pytest.raises(InvalidIdempotentToolError, match="stream"):
        idempotent(of_kind(kind, lambda: 1))


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"ttl_s": 0}, "ttl_s"),
        ({"ttl_s": None}, "ttl_s"),
        ({"on_duplicate": "replay"}, "on_duplicate"),
        ({"on_in_progress": "queue"}, "on_in_progress"),
        ({"safe_exceptions": ("ValueError",)}, "safe_exceptions"),
        ({"safe_exceptions": ValueError()}, "safe_exceptions"),
        ({"key": "a"}, "key"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], field: str, bank: Bank) -> None:
    with pytest.raises(InvalidIdempotentToolError) as refused:
        idempotent(**settings)(bank.pay)
    assert refused.value.field == field


def test_the_parameter_must_be_there() -> None:
    with pytest.raises(InvalidIdempotentToolError, match="idempotency_key") as refused:
        idempotent(lambda key: key)
    assert refused.value.field == "idempotency_key"


# --- direct use -----------------------------------------------------------------------------------------------------


def test_direct_use_yields_an_outcome(client: Client, on_loop: Runner) -> None:
    async def once(number: int) -> tuple[bool, Any]:
        async with idempotent(key="a") as outcome:
            if not outcome.replayed:
                outcome.result = number
        return outcome.replayed, outcome.result

    async def main() -> None:
        with client.run():
            assert await once(1) == (False, 1)
            assert await once(2) == (True, 1)
            with idempotent(key="a") as outcome:
                assert (outcome.replayed, outcome.result) == (True, 1)
            with pytest.raises(ZeroDivisionError):
                async with idempotent(key="b"):
                    raise ZeroDivisionError
            with pytest.raises(IdempotencyOutcomeUnknown):
                await idempotent(key="b").__aenter__()
            with pytest.raises(ValueError, match="safe"):
                async with idempotent(key="c", safe_exceptions=ValueError):
                    raise ValueError("safe")
            async with idempotent(key="c") as outcome:
                assert not outcome.replayed

    on_loop(main)


def test_direct_use_is_re_entrant_without_deadlock(client: Client, on_loop: Runner) -> None:
    guard = idempotent(key="a", on_in_progress="wait")

    async def main() -> None:
        with client.run():
            async with guard:
                with pytest.raises(IdempotencyInProgress):
                    await guard.__aenter__()

    on_loop(main)


def test_direct_use_needs_a_key(client: Client) -> None:
    with client.run(), pytest.raises(MissingIdempotencyKeyError):
        idempotent(ttl_s=5).__enter__()


# --- waiting for the call that is running ---------------------------------------------------------------------------


def test_waiters_share_the_result_of_the_running_call(client: Client, on_loop: Runner) -> None:
    calls: list[int] = []

    async def main() -> None:
        calls.clear()
        go = anyio.Event()
        results: list[Any] = []

        @idempotent(on_in_progress="wait")
        async def pay(*, idempotency_key: str) -> object:
            calls.append(1)
            await go.wait()
            return calls

        async def call() -> None:
            results.append(await pay(idempotency_key="a"))

        with client.run():
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(call)
                await anyio.wait_all_tasks_blocked()
                go.set()
        assert results == [calls] * 20
        assert calls == [1]

    on_loop(main)


@pytest.mark.parametrize("safe", [True, False])
def test_when_the_running_call_fails_one_waiter_goes_on_or_all_are_refused(
    safe: bool, client: Client, on_loop: Runner
) -> None:
    async def main() -> None:
        go = anyio.Event()
        ends: list[Any] = []
        calls: list[int] = []

        @idempotent(on_in_progress="wait", safe_exceptions=ValueError if safe else ())
        async def pay(*, idempotency_key: str) -> str:
            calls.append(1)
            if len(calls) == 1:
                await go.wait()
                raise ValueError
            return "paid"

        async def call() -> None:
            try:
                ends.append(await pay(idempotency_key="a"))
            except Exception as error:
                ends.append(type(error))

        with client.run():
            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(call)
                await anyio.wait_all_tasks_blocked()
                go.set()
        expected = ["paid"] * 4 if safe else [IdempotencyOutcomeUnknown] * 4
        assert sorted(map(str, ends)) == sorted(map(str, [ValueError, *expected]))
        assert len(calls) == (2 if safe else 1)

    on_loop(main)


def test_a_call_inside_itself_is_refused_rather_than_waiting_for_itself(client: Client, on_loop: Runner) -> None:
    @idempotent(on_in_progress="wait")
    async def pay(depth: int = 1, *, idempotency_key: str) -> str:
        async with anyio.create_task_group() as group:
            group.start_soon(inner)
        return "paid"

    async def inner() -> None:
        with pytest.raises(IdempotencyInProgress):
            await pay(idempotency_key="a")

    async def main() -> None:
        with client.run():
            assert await pay(idempotency_key="a") == "paid"
            assert await pay(idempotency_key="a") == "paid"

    on_loop(main)


def test_plain_calls_wait_within_the_deadline_around_them(client: Client, on_loop: Runner) -> None:
    """A plain function waits for a coroutine of the same thread, which cannot go on meanwhile: the deadline ends it."""

    @timeout(0.02)
    @idempotent(on_in_progress="wait")
    def pay(go: Any = None, *, idempotency_key: str) -> str:
        if go is not None:
            go()
        return "paid"

    def again() -> None:
        with pytest.raises(ToolTimeoutError):
            pay(idempotency_key="b")

    with client.run() as run:
        name = f"{pay.__module__}:{pay.__qualname__}"
        arguments = fingerprint({"go": None})
        run.store.apply(("idempotent", name, values.scalar_key("b")), keys.begin, object(), arguments, 0.0)
        again()


# --- everything at once ---------------------------------------------------------------------------------------------


class Interleavings(RuleBasedStateMachine):
    """Calls under a few keys that begin, end, fail and are refused inside, in any order, while time goes on.

    A model of the promise stands beside it: never a second effect within ``ttl_s`` of the end of a call that may have
    had one, and never an effect under a key that is running.
    """

    TTL = 10.0

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.now = self.stack.enter_context(hand_clock())
        client = self.stack.enter_context(Client())
        self.stack.enter_context(client.run())
        self.running: dict[str, list[Any]] = {}
        self.blocked_until: dict[str, float] = {}

    def teardown(self) -> None:
        self.stack.close()

    @rule(key=st.sampled_from("abc"))
    def begin(self, key: str) -> None:
        guard = idempotent(key=key, ttl_s=self.TTL)
        try:
            outcome = guard.__enter__()
        except (IdempotencyInProgress, IdempotencyOutcomeUnknown):
            assert key in self.running or self.now.now < self.blocked_until[key]
            return
        if outcome.replayed:
            assert self.now.now < self.blocked_until[key]
            assert outcome.result == f"result {key}"
            guard.__exit__(None, None, None)
            return
        assert key not in self.running
        assert self.now.now >= self.blocked_until.get(key, 0)
        outcome.result = f"result {key}"
        self.running[key] = [guard]

    @rule(key=st.sampled_from("abc"), error=st.sampled_from([None, ValueError(), KeyboardInterrupt()]))
    def end(self, key: str, error: BaseException | None) -> None:
        if key in self.running:
            (guard,) = self.running.pop(key)
            guard.__exit__(None if error is None else type(error), error, None)
            self.blocked_until[key] = self.now.now + self.TTL

    @rule(seconds=st.sampled_from([1.0, 9.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.now.advance(seconds)


Interleavings.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestInterleavings = Interleavings.TestCase


def test_rate_limit_inside_refuses_without_using_the_key(bank: Bank, client: Client) -> None:
    pay = idempotent(rate_limit(max_calls=1, period=10)(bank.pay))
    with hand_clock() as now, client.run():
        pay(1, idempotency_key="a")
        with pytest.raises(Exception, match="more than once in"):
            pay(2, idempotency_key="b")
        now.advance(10)
        assert pay(3, idempotency_key="b") == {"receipt": 2}  # other arguments: the key was free


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.sampled_from([1.0, 0.5, "1", "", "x" * 300, "x" * 256, 2**60]),
    st.lists(st.integers(0, 1), max_size=2),
)


@settings(deadline=None)
@given(one=st.dictionaries(st.sampled_from("ab"), VALUES), two=st.dictionaries(st.sampled_from("ab"), VALUES))
def test_the_short_way_to_a_fingerprint_tells_what_the_long_way_tells(one: dict[str, Any], two: dict[str, Any]) -> None:
    same = keys.fingerprint(one) == keys.fingerprint(two)
    if same and all(type(value) is not float for value in (*one.values(), *two.values())):
        assert fingerprint(one) == fingerprint(two)
    if not same:
        assert fingerprint(one) != fingerprint(two)
