"""The rates of requests, by name."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.uses import rate_limits
from worker.uses.rate_limits import RateLimits

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def test_a_burst_takes_the_tokens_of_a_second_and_waits_for_more() -> None:
    limits = RateLimits()
    assert [limits.take("a", 10, 7, NOW) for _ in range(3)] == [7, 3, 0]
    assert limits.take("a", 10, 7, NOW + timedelta(seconds=0.25)) == 2
    assert limits.take("b", 10, 7, NOW) == 7


def test_a_rate_below_one_a_second_still_has_one_token() -> None:
    limits = RateLimits()
    assert limits.take("a", 0.5, 5, NOW) == 1
    assert limits.take("a", 0.5, 5, NOW + timedelta(seconds=1)) == 0
    assert limits.take("a", 0.5, 5, NOW + timedelta(seconds=2)) == 1


def test_a_rate_of_zero_has_no_tokens() -> None:
    assert RateLimits().take("a", 0, 5, NOW) == 0


def test_a_clock_that_goes_back_adds_no_tokens() -> None:
    limits = RateLimits()
    assert limits.take("a", 10, 10, NOW) == 10
    assert limits.take("a", 10, 10, NOW - timedelta(hours=1)) == 0


@given(
    rate=st.integers(1, 50),
    steps=st.lists(st.tuples(st.floats(0, 2), st.integers(0, 100)), max_size=30),
)
def test_no_more_is_taken_than_the_rate_and_one_burst(
    rate: int, steps: list[tuple[float, int]]
) -> None:
    limits, now, taken = RateLimits(), NOW, 0
    for seconds, wanted in steps:
        now += timedelta(seconds=seconds)
        taken += limits.take("a", rate, wanted, now)
    assert taken <= rate * ((now - NOW).total_seconds() + 1) + 1e-3


def test_names_that_are_not_in_use_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "_MAX_NAMES", 10)
    limits = RateLimits()
    for number in range(50):
        limits.take(number, 1, 1, NOW + timedelta(seconds=number))
    assert len(limits._buckets) <= 11
    assert limits.take(49, 1, 1, NOW + timedelta(seconds=49)) == 0
