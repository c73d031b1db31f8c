import pytest

from worker.broker.lanes import LaneLimits, ServiceRates, busy_seconds

LIMITS = LaneLimits(messages=1_000, age=100)


@pytest.mark.parametrize(("length", "age"), [(0, None), (999, 100), (999, None)])
def test_a_lane_within_its_limits_is_not_busy(length: int, age: float | None) -> None:
    assert busy_seconds(length, age, LIMITS, 10) is None


def test_a_lane_at_its_length_is_busy_until_a_tenth_of_it_is_served() -> None:
    assert busy_seconds(1_000, 5, LIMITS, 10) == 10


def test_a_lane_beyond_its_age_is_busy_until_its_oldest_message_is_served() -> None:
    assert busy_seconds(100, 180, LIMITS, 10) == 5


@pytest.mark.parametrize(("rate", "seconds"), [(0, 60), (0.001, 60), (1e9, 1)])
def test_the_seconds_are_bounded_whatever_the_rate(rate: float, seconds: int) -> None:
    assert busy_seconds(5_000, 10, LIMITS, rate) == seconds


def test_the_rate_of_a_lane_follows_what_is_served_of_it() -> None:
    rates = ServiceRates()
    for _ in range(100):
        rates.count("acme")
    assert rates.measure(10) == {"acme": 10}
    assert rates.measure(10) == {"acme": 5}
