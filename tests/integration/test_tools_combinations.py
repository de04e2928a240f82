"""Every combination of the parts of `@tool`, for every kind of function, in the documented order."""

from __future__ import annotations

import itertools
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest
from conftest import Runner
from guarding import KINDS, fresh, outcome, published

from actguard import circuit_breaker, tool
from actguard.client import Client
from actguard.events import GuardBlocked, GuardIntervention, ToolInvoke
from actguard.exceptions import (
    CircuitOpenError,
    DuplicateIdempotencyKey,
    MaxAttemptsExceeded,
    RateLimitExceeded,
    ToolTimeoutError,
)

REFUSALS = {
    "idempotent": DuplicateIdempotencyKey,
    "max_attempts": MaxAttemptsExceeded,
    "circuit_breaker": CircuitOpenError,
    "rate_limit": RateLimitExceeded,
    "timeout": ToolTimeoutError,
}
ORDER = tuple(REFUSALS)
COMBINATIONS = [parts for count in range(len(ORDER) + 1) for parts in itertools.combinations(ORDER, count)]
CASES = [
    pytest.param(kind, parts, id=f"{kind}: {' '.join(parts) or 'nothing'}")
    for kind in KINDS
    for parts in COMBINATIONS
    if not ("generator" in kind and "idempotent" in parts)
]


def function_of(kind: str, hang: threading.Event) -> Any:
    """A tool that returns at once, or hangs when its argument says so."""

    def function(hangs: bool = False, *, idempotency_key: str = "k") -> str:
        if hangs:
            hang.wait(30)
        return "ran"

    async def coroutine(hangs: bool = False, *, idempotency_key: str = "k") -> str:
        if hangs:
            await anyio.sleep_forever()
        return "ran"

    def generator(hangs: bool = False, *, idempotency_key: str = "k") -> Iterator[str]:
        yield function(hangs)

    async def async_generator(hangs: bool = False, *, idempotency_key: str = "k") -> AsyncIterator[str]:
        yield await coroutine(hangs)

    made = {"function": function, "coroutine": coroutine, "generator": generator, "async generator": async_generator}
    chosen: Any = made[kind]
    chosen.__qualname__ = fresh(kind)  # tools of one name share their limits
    return chosen


@pytest.mark.parametrize(("kind", "parts"), CASES)
def test_the_outermost_part_that_has_a_reason_refuses(
    kind: str, parts: tuple[str, ...], client: Client, on_loop: Runner
) -> None:
    """Every part is given a reason to refuse the second call: the first one of the documented order does.

    That every combination is tried shows the order of every pair.
    """
    dependency = fresh("dependency")
    settings: dict[str, Any] = {
        "idempotent": {"on_duplicate": "raise"},
        "max_attempts": {"calls": 1},
        "circuit_breaker": {"name": dependency, "max_fails": 1},
        "rate_limit": {"max_calls": 1, "period": 3_600},
        "timeout": 0.05,
    }
    hang = threading.Event()
    # Written the wrong way round: the order of the arguments does not matter.
    guarded = tool(**{part: settings[part] for part in reversed(parts)})(function_of(kind, hang))

    async def main() -> None:
        with client.run(), published(client, GuardBlocked, GuardIntervention, ToolInvoke) as events:
            assert await outcome(guarded()) == "ran"
            if "circuit_breaker" in parts:
                with pytest.raises(ConnectionError), circuit_breaker(dependency, max_fails=1):
                    raise ConnectionError
            if parts:
                with pytest.raises(REFUSALS[parts[0]]):
                    # Other arguments would be another reason for idempotent to refuse.
                    await outcome(guarded(hangs="idempotent" not in parts))
            else:
                assert await outcome(guarded()) == "ran"
        kinds = [event.guard_name for event in events if not isinstance(event, ToolInvoke)]
        assert kinds == list(parts[:1])
        assert sum(isinstance(event, ToolInvoke) for event in events) == (1 if parts else 2)

    try:
        on_loop(main)
    finally:
        hang.set()


@pytest.mark.parametrize(("kind", "parts"), CASES)
def test_all_of_them_let_a_good_call_through(
    kind: str, parts: tuple[str, ...], client: Client, on_loop: Runner
) -> None:
    settings: dict[str, Any] = {
        "idempotent": {},
        "max_attempts": {"calls": 5},
        "circuit_breaker": {"name": fresh("dependency")},
        "rate_limit": {"max_calls": 5, "period": 3_600, "on_limit": "wait"},
        "timeout": 30,
    }
    guarded = tool(**{part: settings[part] for part in parts})(function_of(kind, threading.Event()))

    async def main() -> None:
        with client.run(), published(client, ToolInvoke) as events:
            for number in range(3):
                assert await outcome(guarded(idempotency_key=f"key {number}")) == "ran"
            repeat = await outcome(guarded(idempotency_key="key 0"))
        assert repeat == "ran"
        assert len(events) == (3 if "idempotent" in parts else 4)

    on_loop(main)
