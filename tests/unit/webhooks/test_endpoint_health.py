"""The rules by which endpoints are paused, disabled and found to work again."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.webhooks.webhook_rules import (
    CIRCUIT_THRESHOLD,
    DISABLED_AFTER,
    LATENCY_BOUNDS,
    EndpointHealth,
    latency_class,
    latency_quantile,
)

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)

pauses = st.one_of(
    st.timedeltas(timedelta(0), timedelta(minutes=1)), st.timedeltas(timedelta(0), 4 * DAY)
)
failures = st.lists(st.tuples(pauses, st.booleans()), min_size=1, max_size=40)


def fail(health: EndpointHealth, now: datetime, *, is_up: bool = False) -> EndpointHealth:
    is_probe = health.open_until is not None
    return health.after_failures(int(not is_up), now, now, is_up=is_up, is_probe=is_probe)


def fail_after(*pauses: timedelta) -> EndpointHealth:
    """Return the state after failures, each so long after the one before."""
    health, now = EndpointHealth(), NOW
    for pause in pauses:
        now += pause
        health = fail(health, now)
    return health


@given(failures)
def test_a_series_lasts_for_days_only_if_it_failed_again_within_each_two_days(
    steps: list[tuple[timedelta, bool]],
) -> None:
    health, times = EndpointHealth(), [NOW]
    for pause, is_up in steps:
        times.append(times[-1] + pause)
        health = fail(health, times[-1], is_up=is_up)
    del times[0]
    start = max((i for i, (a, b) in enumerate(pairwise(times), 1) if b - a > 2 * DAY), default=0)
    assert health.failing_since == times[start]
    assert health.has_failed_for_days == (times[-1] - times[start] >= DISABLED_AFTER)
    if health.has_failed_for_days:
        halves = [time for time in times[start:] if time - times[start] >= DAY / 2]
        assert len(times[start:]) >= len(halves) + 1 >= 3


@given(failures)
def test_a_response_below_500_closes_the_circuit_and_does_not_end_the_series(
    steps: list[tuple[timedelta, bool]],
) -> None:
    health, now = EndpointHealth(), NOW
    for pause, is_up in steps:
        now += pause
        health = fail(health, now, is_up=is_up)
        assert health.failing_since is not None
        assert (health.failures, health.open_until) == (0, None) or not is_up
    in_a_row = next((n for n, (_, is_up) in enumerate(reversed(steps)) if is_up), len(steps))
    assert (health.open_until is not None) == (in_a_row >= CIRCUIT_THRESHOLD)


@pytest.mark.parametrize(
    ("pauses", "is_long"),
    [
        ([DAY] * 6, True),
        ([DAY] * 5 + [DAY - SECOND], False),
        ([2 * DAY] * 4, True),
        ([2 * DAY, 2 * DAY, 2 * DAY + SECOND, 2 * DAY], False),
        ([DAY], False),
    ],
)
def test_five_days_of_failures_are_long_enough(pauses: list[timedelta], *, is_long: bool) -> None:
    assert fail_after(*pauses).has_failed_for_days is is_long


@pytest.mark.parametrize(("seconds", "was_down"), [(29, False), (30, True)])
def test_an_outage_has_thirty_seconds_in_which_every_attempt_failed(
    seconds: int, *, was_down: bool
) -> None:
    assert fail_after(SECOND).was_down(NOW + (seconds + 1) * SECOND) is was_down


def test_a_pause_is_an_outage_however_short() -> None:
    health = fail_after(*[timedelta(0)] * CIRCUIT_THRESHOLD)
    assert health.was_down(NOW)
    assert not EndpointHealth().was_down(NOW)


STATES = {
    "ok": EndpointHealth(),
    "failing": fail_after(SECOND),
    "paused": EndpointHealth(5, NOW, NOW, NOW),
    "disabled": EndpointHealth(5, NOW, NOW, NOW, disabled_at=NOW),
}


@pytest.mark.parametrize("state", STATES)
def test_a_state_has_one_name(state: str) -> None:
    assert STATES[state].state[0] == state


def test_a_disabled_or_paused_endpoint_is_not_called() -> None:
    callable_states = [
        name for name, health in STATES.items() if health.may_be_called(NOW - SECOND)
    ]
    assert callable_states == ["ok", "failing"]


durations = st.lists(st.integers(0, 60_000), min_size=1, max_size=200)


@given(durations, st.sampled_from([0.5, 0.95, 1.0]))
def test_a_quantile_of_response_times_is_in_the_class_of_the_true_one(
    times: list[int], share: float
) -> None:
    counts = [0] * 24
    for time in times:
        counts[latency_class(time, 200) - 1] += 1
    estimate = latency_quantile(counts, share)
    true = sorted(times)[max(-int(-share * len(times) // 1), 1) - 1]
    assert estimate is not None
    limits = [0.0, *LATENCY_BOUNDS]
    (lower, upper) = next(
        ((a, b) for a, b in pairwise(limits) if true <= b), (LATENCY_BOUNDS[-2], LATENCY_BOUNDS[-1])
    )
    assert lower <= estimate <= upper * (1 + 1e-9)


def test_without_a_response_there_is_no_quantile() -> None:
    assert latency_class(7, None) == 0
    assert latency_quantile([0] * 24, 0.5) is None
    assert len(LATENCY_BOUNDS) == 23
    assert (LATENCY_BOUNDS[0], round(LATENCY_BOUNDS[-1])) == (5, 20_000)
