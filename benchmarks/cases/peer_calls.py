"""Calls of tools guarded by other libraries, each the way its documentation shows. All of them in memory."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from timed import LOOP, Block, async_block, sync_block

MANY = 10**9
HOUR = 3600


def tool() -> int:
    return 1


async def atool() -> int:
    return 1


def _pyrate(is_async: bool) -> Block:
    from pyrate_limiter import Limiter, Rate

    logging.disable(logging.CRITICAL)
    limit = Limiter(Rate(MANY, HOUR * 1000)).as_decorator(name="tool", weight=1)
    return async_block(limit(atool)) if is_async else sync_block(limit(tool))


def _limits(is_async: bool) -> Block:
    import limits

    item = limits.RateLimitItemPerHour(MANY)
    if is_async:
        alimiter = limits.aio.strategies.MovingWindowRateLimiter(limits.aio.storage.MemoryStorage())

        async def acall() -> int:
            if not await alimiter.hit(item, "tool"):
                raise RuntimeError("limit reached")
            return await atool()

        return async_block(acall, around=_until_timers_end)
    limiter = limits.strategies.MovingWindowRateLimiter(limits.storage.MemoryStorage())

    def call() -> int:
        if not limiter.hit(item, "tool"):
            raise RuntimeError("limit reached")
        return tool()

    return sync_block(call)


def _until_timers_end(calls: Any) -> Any:
    """Its storage starts a task to expire keys, which must not outlive the block."""

    async def inside(count: int) -> float:
        took = await calls(count)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        return float(took)

    return inside


def _purgatory(is_async: bool) -> Block:
    if is_async:
        from purgatory import AsyncCircuitBreakerFactory

        return async_block(AsyncCircuitBreakerFactory()("tool")(atool))
    from purgatory import SyncCircuitBreakerFactory

    return sync_block(SyncCircuitBreakerFactory()("tool")(tool))


def _aiobreaker(is_async: bool) -> Block:
    from aiobreaker import CircuitBreaker

    breaker = CircuitBreaker()
    return async_block(breaker(atool)) if is_async else sync_block(breaker(tool))


def _pybreaker(is_async: bool) -> Block:
    from pybreaker import CircuitBreaker

    if is_async:
        raise RuntimeError("its async form needs tornado")
    return sync_block(CircuitBreaker()(tool))


def _tenacity(is_async: bool) -> Block:
    import tenacity

    retry = tenacity.retry(stop=tenacity.stop_after_attempt(3))
    return async_block(retry(atool)) if is_async else sync_block(retry(tool))


def _stamina(is_async: bool) -> Block:
    import stamina

    retry = stamina.retry(on=ConnectionError, attempts=3)
    return async_block(retry(atool)) if is_async else sync_block(retry(tool))


def _agentguard_rate(is_async: bool) -> Block:
    from agentguard import RateLimitGuard

    guard = RateLimitGuard(max_calls_per_minute=MANY)

    def call() -> int:
        guard.check()
        return tool()

    async def acall() -> int:
        guard.check()
        return await atool()

    return async_block(acall) if is_async else sync_block(call)


PEERS: dict[str, Callable[[bool], Block]] = {
    "pyrate-limiter": _pyrate,
    "limits": _limits,
    "purgatory": _purgatory,
    "aiobreaker": _aiobreaker,
    "pybreaker": _pybreaker,
    "tenacity": _tenacity,
    "stamina": _stamina,
    "agentguard47": _agentguard_rate,
}


def peer(name: str, is_async: bool) -> Block:
    """Calls under another library."""
    asyncio.set_event_loop(LOOP)
    return PEERS[name](is_async)


def ours(guard: str, is_async: bool) -> Block:
    """The same calls under ActGuard, outside of any run."""
    import actguard

    guards: dict[str, Callable[[], Any]] = {
        "rate_limit": lambda: actguard.rate_limit(max_calls=MANY, period=HOUR),
        "circuit_breaker": lambda: actguard.circuit_breaker("tool"),
    }
    decorator = guards[guard]()
    return async_block(decorator(atool)) if is_async else sync_block(decorator(tool))
