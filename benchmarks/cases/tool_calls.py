"""Calls of guarded tools. Runs with ActGuard and with ActGuard 1.0.2."""

from __future__ import annotations

import inspect
import itertools
import warnings
from collections.abc import Callable
from typing import Any

from timed import Block, async_block, sync_block

import actguard

warnings.simplefilter("ignore")

CLIENT = actguard.Client()
MANY = 10**9
LIVE = {"max_calls": MANY, "period": 0.0001}
"""About ten admissions are alive at any time, as with the default of ten calls: 1.0.2 copies those that are."""
ALL = {
    "idempotent": {},
    "max_attempts": {"calls": MANY},
    "circuit_breaker": {"name": "bench-all"},
    "rate_limit": LIVE,
    "timeout": 30,
}
DECORATORS: dict[str, Callable[[], Any]] = {
    "bare": lambda: lambda function: function,
    "name only": lambda: name_only,
    "tool, five guards": lambda: actguard.tool(**ALL),
    "tool, no guard": lambda: actguard.tool(),
    "rate_limit": lambda: actguard.rate_limit(**LIVE),
    "rate_limit, scope": lambda: actguard.rate_limit(scope="user", **LIVE),
    "rate_limit, window": lambda: actguard.rate_limit(max_calls=MANY, period=3600),
    "circuit_breaker": lambda: actguard.circuit_breaker(name="bench"),
    "max_attempts": lambda: actguard.max_attempts(calls=MANY),
    "timeout": lambda: actguard.timeout(30),
    "idempotent": lambda: actguard.idempotent(),
    "prove": lambda: actguard.prove(kind="order", extract="id"),
    "enforce": lambda: actguard.enforce([actguard.Threshold("amount", 100)]),
}


def name_only(function: Any) -> Any:
    """The floor of every guard: a wrapper whose body, and what it starts, can tell which tool runs."""
    from actguard.context import current_tool  # ActGuard 1.0.2 has none

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        outer = current_tool.set("module:tool")
        try:
            return function(*args, **kwargs)
        finally:
            current_tool.reset(outer)

    async def awrapper(*args: Any, **kwargs: Any) -> Any:
        outer = current_tool.set("module:tool")
        try:
            return await function(*args, **kwargs)
        finally:
            current_tool.reset(outer)

    return awrapper if inspect.iscoroutinefunction(function) else wrapper


def guarded(guard: str, is_async: bool) -> Block:
    """Calls of one tool under one guard, inside one run for each block; in a session where the guard needs one."""
    block = _calls(guard, is_async)
    return _inside_session(block) if guard in {"prove", "enforce"} else block


def _calls(guard: str, is_async: bool) -> Block:
    number = itertools.count()
    users = itertools.cycle([f"user-{n}" for n in range(100)])
    decorator = DECORATORS[guard]()
    result = {"id": "o-1"}
    wall = not is_async and guard in {"timeout", "tool, five guards"}  # these wait for a worker thread
    if is_async:

        async def atool(user: str = "u", amount: int = 1, *, idempotency_key: str = "") -> Any:
            return result

        acall = decorator(atool)
        if guard == "rate_limit, scope":
            return async_block(lambda: acall(next(users)), around=_inside_async)
        if guard == "rate_limit, window":
            return async_block(lambda: acall(), around=_inside_async)
        return async_block(lambda: acall(idempotency_key=f"k{next(number)}"), around=_inside_async)

    def tool(user: str = "u", amount: int = 1, *, idempotency_key: str = "") -> Any:
        return result

    call = decorator(tool)
    if guard == "rate_limit, scope":
        return sync_block(lambda: call(next(users)), around=_inside)
    if guard == "rate_limit, window":
        return sync_block(lambda: call(), around=_inside)
    return sync_block(lambda: call(idempotency_key=f"k{next(number)}"), wall=wall, around=_inside)


def live_entries(entries: int) -> Block:
    """A rate limit with so many admissions alive."""

    @actguard.rate_limit(max_calls=MANY, period=3600)
    def tool() -> None: ...

    for _ in range(entries):
        tool()
    return sync_block(tool, around=_inside)


def live_keys(keys: int) -> Block:
    """A rate limit with so many values of its scope alive; calls are spread over 1,000 of them."""

    @actguard.rate_limit(max_calls=MANY, period=3600, scope="user")
    def tool(user: int) -> None: ...

    for user in range(keys):
        tool(user)
    users = itertools.cycle(range(0, keys, max(1, keys // 1000)))
    return sync_block(lambda: tool(next(users)), around=_inside)


def _inside(block: Block) -> Block:
    def inside(count: int) -> float:
        with CLIENT.run():
            return block(count)

    return inside


def _inside_async(calls: Any) -> Any:
    async def inside(count: int) -> float:
        async with CLIENT.run():
            return float(await calls(count))

    return inside


def _inside_session(block: Block) -> Block:
    def inside(count: int) -> float:
        with actguard.session("s"):
            return block(count)

    return inside
