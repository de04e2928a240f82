"""What type checkers see of guarded functions: exactly the function that was decorated. Checked, never run."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, assert_type

import actguard
from actguard import Ask, Deny, GuardError, Rule, ToolCall
from actguard.guards.idempotent import Outcome
from actguard.guards.rate_limit import RateLimit
from actguard.guards.session import Session


@actguard.tool
def bare(a: int, *, b: str = "b") -> bytes:
    return b""


@actguard.tool(timeout=5, rate_limit={"max_calls": 3}, policy=lambda call: "allow")
async def called(a: int, *, b: str = "b") -> bytes:
    return b""


@actguard.rate_limit
def limited(a: int) -> str:
    return ""


@actguard.rate_limit(max_calls=3, scope="a", on_limit="wait")
@actguard.circuit_breaker("x", fail_on=actguard.FAIL_ON_STRICT, ignore_on=frozenset())
@actguard.max_attempts(3)
@actguard.timeout(5)
async def stacked(a: int) -> str:
    return ""


@actguard.idempotent
async def paid(amount: int, *, idempotency_key: str) -> str:
    return ""


@actguard.idempotent(on_duplicate="raise", safe_exceptions=(ValueError, KeyError))
def paid_once(amount: int, *, idempotency_key: str) -> str:
    return ""


@actguard.prove("order", extract="id")
def stream(n: int) -> Iterator[dict[str, int]]:
    yield {}


@actguard.enforce([actguard.RequireFact("n", kind="order"), actguard.Threshold("n", max=5)])
async def async_stream(n: int) -> AsyncIterator[int]:
    yield n


class Shop:
    @actguard.tool(timeout=1)
    def method(self, item: str) -> int:
        return 1

    @classmethod
    @actguard.tool
    def make(cls, item: str) -> Shop:
        return cls()

    @actguard.tool
    @staticmethod
    def price(item: str) -> int:
        return 1


async def calls() -> None:
    assert_type(bare(1, b="x"), bytes)
    assert_type(await called(1), bytes)
    assert_type(limited(1), str)
    assert_type(await stacked(1), str)
    assert_type(await paid(1, idempotency_key="k"), str)
    assert_type(paid_once(1, idempotency_key="k"), str)
    assert_type(stream(1), Iterator[dict[str, int]])
    assert_type(async_stream(1), AsyncIterator[int])
    assert_type(Shop().method("tea"), int)
    assert_type(Shop.make("tea"), Shop)
    assert_type(actguard.rate_limit(max_calls=3), RateLimit)
    assert_type(actguard.timeout(5)(functools.partial(bare, 1)), functools.partial[bytes])


limited("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
bare(1, c=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


class Hours(Rule):
    def check(self, arguments: Mapping[str, Any], session: Any) -> None:
        raise GuardError("CLOSED", "closed", fix_hint="Tomorrow.")


def policy(call: ToolCall) -> Ask | Deny:
    assert_type(call.session, Session | None)
    return Ask("why") if call.arguments else Deny("no")


async def direct() -> None:
    async with actguard.session("s", scope={"a": "b"}) as session:
        assert_type(session, Session)
    with actguard.rate_limit(max_calls=3, key="alice"), actguard.circuit_breaker("x"):
        pass
    async with actguard.timeout(5):
        pass
    async with actguard.idempotent(key="k") as outcome:
        assert_type(outcome, Outcome)


handler: Callable[[int], str] = limited
