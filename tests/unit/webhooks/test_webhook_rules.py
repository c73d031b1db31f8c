from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.webhooks.webhook_rules import (
    CIRCUIT_THRESHOLD,
    FIRST_CIRCUIT_PAUSE,
    MAX_CIRCUIT_PAUSE,
    MAX_RETRY_DELAY,
    RETRY_SCHEDULE,
    EndpointHealth,
    circuit_pause,
    retry_delay,
)

MIDDLE = 0.5

attempt_counts = st.integers(0, len(RETRY_SCHEDULE) - 1)
jitters = st.floats(0, 1, exclude_max=True)
retry_delays = st.timedeltas(timedelta(days=-10), timedelta(days=10))


def test_the_middle_of_the_jitter_is_the_published_schedule() -> None:
    seconds, hours = (0, 5, 30, 300, 1_800), (2, 5, 10, 20, 24)
    schedule = [timedelta(seconds=n) for n in seconds] + [timedelta(hours=n) for n in hours]
    assert [retry_delay(attempt, MIDDLE) for attempt in range(11)] == [*schedule, None]


@given(attempt_counts, jitters)
def test_jitter_moves_a_delay_by_a_fifth_at_most(attempt: int, jitter: float) -> None:
    planned, actual = RETRY_SCHEDULE[attempt], retry_delay(attempt, jitter)
    assert actual is not None
    assert planned * 0.8 <= actual <= planned * 1.2


def test_jitter_reaches_both_ends() -> None:
    assert retry_delay(3, 0) == timedelta(minutes=4)
    assert retry_delay(3, 0.999999) == pytest.approx(timedelta(minutes=6), abs=timedelta(seconds=1))


@given(jitters)
def test_delays_never_shrink_from_one_attempt_to_the_next(jitter: float) -> None:
    delays = [retry_delay(n, jitter) or timedelta(0) for n in range(len(RETRY_SCHEDULE))]
    assert delays == sorted(delays)


@given(attempt_counts, jitters, st.none() | retry_delays)
def test_the_next_delay_is_never_sooner_than_planned_nor_later_than_a_day(
    attempt: int, jitter: float, retry_after: timedelta | None
) -> None:
    planned, actual = retry_delay(attempt, jitter), retry_delay(attempt, jitter, retry_after)
    assert planned is not None
    assert actual is not None
    assert min(planned, MAX_RETRY_DELAY) <= actual <= MAX_RETRY_DELAY


@pytest.mark.parametrize(
    ("attempts", "retry_after", "delay"),
    [
        pytest.param(1, timedelta(minutes=7), timedelta(minutes=7), id="longer"),
        pytest.param(3, timedelta(seconds=1), timedelta(minutes=5), id="shorter"),
        pytest.param(1, timedelta(days=30), timedelta(hours=24), id="longer than a day"),
        pytest.param(len(RETRY_SCHEDULE), timedelta(seconds=1), None, id="no attempt is left"),
    ],
)
def test_a_retry_after_delays_an_attempt_by_a_day_at_most_and_adds_none(
    attempts: int, retry_after: timedelta, delay: timedelta | None
) -> None:
    assert retry_delay(attempts, MIDDLE, retry_after) == delay


FAILED_AT = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
ALMOST = EndpointHealth(CIRCUIT_THRESHOLD - 1)
PAUSED_UNTIL = FAILED_AT + FIRST_CIRCUIT_PAUSE


def fail(
    health: EndpointHealth, count: int, now: datetime = FAILED_AT, *, is_probe: bool = False
) -> EndpointHealth:
    return health.after_failures(count, now, now, is_up=False, is_probe=is_probe)


def test_failures_below_the_threshold_do_not_open_a_circuit() -> None:
    health = fail(EndpointHealth(), CIRCUIT_THRESHOLD - 1)
    assert health[:2] == (CIRCUIT_THRESHOLD - 1, None)
    assert health.may_be_called(FAILED_AT)
    assert not health.needs_probe(FAILED_AT)


def test_the_fifth_failure_in_a_row_opens_it_for_five_seconds() -> None:
    health = fail(ALMOST, 1)
    assert health[:2] == (CIRCUIT_THRESHOLD, PAUSED_UNTIL)
    assert not health.may_be_called(PAUSED_UNTIL - timedelta(microseconds=1))
    assert health.may_be_called(PAUSED_UNTIL)
    assert health.needs_probe(PAUSED_UNTIL)


def test_attempts_that_fail_together_do_not_lengthen_the_pause() -> None:
    together = fail(EndpointHealth(), 64)
    assert together[:2] == (CIRCUIT_THRESHOLD, PAUSED_UNTIL)
    assert fail(together, 4, FAILED_AT + timedelta(seconds=1))[:2] == together[:2]


def test_each_failed_probe_lengthens_the_pause_up_to_five_minutes() -> None:
    pauses, health = [], ALMOST
    for _ in range(9):
        health = fail(health, 1, is_probe=True)
        assert health.open_until is not None
        pauses.append(int((health.open_until - FAILED_AT).total_seconds()))
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300, 300]


@given(st.integers(CIRCUIT_THRESHOLD, 10**9))
def test_no_number_of_failures_makes_a_pause_longer_than_five_minutes(failures: int) -> None:
    duration = circuit_pause(failures)
    assert duration is not None
    assert FIRST_CIRCUIT_PAUSE <= duration <= MAX_CIRCUIT_PAUSE
