"""Pauses between tries, and what Retry-After says."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from actguard.gateway.backoff import LONGEST_RETRY_AFTER_S, Backoff, read_retry_after

NOW = datetime(2030, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(("chance", "pauses"), [(0.0, [0.1, 0.2, 0.4, 0.5, 0.5]), (1.0, [0.2, 0.4, 0.8, 1.0, 1.0])])
def test_pauses_double_up_to_the_longest_and_half_of_each_is_chance(chance: float, pauses: list[float]) -> None:
    backoff = Backoff(base_s=0.2, longest_s=1.0, chance=lambda: chance)
    assert [backoff.pause(tries) for tries in range(5)] == pytest.approx(pauses)


def test_a_thousand_tries_overflow_nothing() -> None:
    assert Backoff(base_s=0.2, longest_s=10).pause(1000) <= 10


def test_the_gateway_may_ask_for_more_but_not_for_ever() -> None:
    backoff = Backoff(base_s=0.2, longest_s=1.0)
    assert backoff.pause(0, 7) == 7
    assert backoff.pause(9, 0.01) >= 0.5
    assert backoff.pause(0, 1e9) == LONGEST_RETRY_AFTER_S


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("5", 5.0),
        ("0.25", 0.25),
        ("-3", 0.0),
        ("nan", None),
        ("soon", None),
        ("Tue, 01 Jan 2030 12:00:30 GMT", 30.0),
        ("Tue, 01 Jan 2030 11:00:00 GMT", 0.0),
        ("Tue, 99 Jan 2030 11:00:00 GMT", None),
    ],
)
def test_retry_after_in_both_its_forms(header: str | None, seconds: float | None) -> None:
    assert read_retry_after(header, now=lambda: NOW) == seconds
