"""What users' tests get: captured events, and a clock to move by hand."""

from __future__ import annotations

import math
import threading
import time
from typing import Any

import pytest
from calls import charged
from conftest import Runner

from actguard import clock, rate_limit
from actguard.client import Client
from actguard.events import BudgetBlocked, LlmUsage, RunEnd, RunStart
from actguard.exceptions import ActGuardUsageError, RateLimitExceeded
from actguard.testing import HandClock, capture_events


def agent(client: Client) -> None:
    with client.run(run_id="r"), client.budget_guard() as budget:
        charged(budget, 5)


def test_events_are_captured_in_order_and_can_be_read_later(client: Client) -> None:
    with capture_events(client) as events:
        assert list(events) == []
        agent(client)
        assert events.kinds == ["run.start", "llm.usage", "run.end"]
        assert len(events) == 3
    agent(client)
    assert [event.run_id for event in events] == ["r"] * 3
    assert isinstance(events[0], RunStart)
    assert isinstance(events[-1], RunEnd)
    assert events.of(LlmUsage)[0].input_tokens == 5
    assert events.of(BudgetBlocked) == []
    assert "llm.usage" in repr(events)
    events.clear()
    assert len(events) == 0


def test_only_the_named_classes_are_captured(client: Client) -> None:
    with capture_events(client, LlmUsage) as usage, capture_events(client, RunStart, RunEnd) as runs:
        agent(client)
    assert usage[0].input_tokens == 5
    assert runs.kinds == ["run.start", "run.end"]


def test_events_are_captured_on_any_loop_and_from_threads(client: Client, on_loop: Runner) -> None:
    async def main() -> None:
        async with capture_events(client) as events:
            async with client.run():
                thread = threading.Thread(target=agent, args=(client,))
                thread.start()
                thread.join()
            assert events.kinds == ["run.start", "run.start", "llm.usage", "run.end", "run.end"]

    on_loop(main)


def test_the_body_s_error_goes_through_and_what_came_before_is_kept(client: Client) -> None:
    events = capture_events(client)
    with pytest.raises(LookupError), events, client.run():
        raise LookupError
    assert events.kinds == ["run.start", "run.end"]
    assert events.of(RunEnd)[0].error_type == "LookupError"


def test_something_that_is_no_event_class_is_refused(client: Client) -> None:
    with pytest.raises(ActGuardUsageError) as caught:
        capture_events(client, int)  # type: ignore[call-overload]
    assert caught.value.field == "kinds"


def test_a_hand_clock_takes_the_place_of_the_real_one() -> None:
    @rate_limit(max_calls=1, period=60)
    def search() -> int:
        return 1

    with HandClock() as hand:
        search()
        with pytest.raises(RateLimitExceeded):
            search()
        hand.advance(59.5)
        with pytest.raises(RateLimitExceeded):
            search()
        hand.advance(0.5)
        search()
        assert hand.elapsed == 60.0
        stopped_at = clock.monotonic()
    assert clock.monotonic is time.monotonic
    with HandClock() as later:
        assert (later.elapsed, clock.monotonic()) == (0.0, stopped_at)
        with pytest.raises(RateLimitExceeded):
            search()
        later.advance(60)
        search()


def test_a_hand_clock_works_on_any_loop(on_loop: Runner) -> None:
    async def main() -> None:
        async with HandClock(epoch=100) as hand:
            hand.advance(1)
            assert (hand.epoch, clock.epoch()) == (101, 101)
        assert clock.epoch() > 101

    on_loop(main)


def test_a_hand_clock_is_in_place_once() -> None:
    hand = HandClock()
    with hand, pytest.raises(RuntimeError, match="already"), hand:
        pass
    with hand:
        pass
    real = clock.monotonic
    with pytest.raises(LookupError), hand:
        raise LookupError
    assert clock.monotonic is real


@pytest.mark.parametrize("seconds", [-1, -0.1, math.nan, math.inf, "1", True, None])
def test_time_does_not_go_back(seconds: Any) -> None:
    hand = HandClock()
    with pytest.raises(ActGuardUsageError) as caught:
        hand.advance(seconds)
    assert caught.value.field == "seconds"
    assert hand.elapsed == 0
