from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.webhooks.retry import (
    MAX_DELAY,
    SCHEDULE,
    next_retry_delay,
    parse_retry_after,
    retry_delay,
)

MIDDLE = 0.5
NOW = "Tue, 24 Nov 2026 23:00:00 GMT"

attempt_counts = st.integers(0, len(SCHEDULE) - 1)
jitters = st.floats(0, 1, exclude_max=True)
retry_delays = st.timedeltas(timedelta(days=-10), timedelta(days=10))


def test_the_middle_of_the_jitter_is_the_published_schedule() -> None:
    delays = [retry_delay(attempt, MIDDLE) for attempt in range(11)]
    assert delays == [
        timedelta(0),
        timedelta(seconds=5),
        timedelta(seconds=30),
        timedelta(minutes=5),
        timedelta(minutes=30),
        timedelta(hours=2),
        timedelta(hours=5),
        timedelta(hours=10),
        timedelta(hours=20),
        timedelta(hours=24),
        None,
    ]


@given(attempt_counts, jitters)
def test_jitter_moves_a_delay_by_a_fifth_at_most(attempt: int, jitter: float) -> None:
    planned, actual = SCHEDULE[attempt], retry_delay(attempt, jitter)
    assert actual is not None
    assert planned * 0.8 <= actual <= planned * 1.2


def test_jitter_reaches_both_ends() -> None:
    assert retry_delay(3, 0) == timedelta(minutes=4)
    assert retry_delay(3, 0.999999) == pytest.approx(timedelta(minutes=6), abs=timedelta(seconds=1))


@given(jitters)
def test_delays_never_shrink_from_one_attempt_to_the_next(jitter: float) -> None:
    delays = [retry_delay(attempt, jitter) or timedelta(0) for attempt in range(len(SCHEDULE))]
    assert delays == sorted(delays)


@given(attempt_counts, jitters, st.none() | retry_delays)
def test_the_next_delay_is_never_sooner_than_planned_nor_later_than_a_day(
    attempt: int, jitter: float, retry_after: timedelta | None
) -> None:
    planned, actual = retry_delay(attempt, jitter), next_retry_delay(attempt, jitter, retry_after)
    assert planned is not None
    assert actual is not None
    assert min(planned, MAX_DELAY) <= actual <= MAX_DELAY


def test_a_longer_retry_after_is_used() -> None:
    assert next_retry_delay(1, MIDDLE, timedelta(minutes=7)) == timedelta(minutes=7)


def test_a_shorter_retry_after_is_not_used() -> None:
    assert next_retry_delay(3, MIDDLE, timedelta(seconds=1)) == timedelta(minutes=5)


def test_a_retry_after_of_a_month_is_cut_to_a_day() -> None:
    assert next_retry_delay(1, MIDDLE, timedelta(days=30)) == timedelta(hours=24)


def test_a_retry_after_adds_no_attempts() -> None:
    assert next_retry_delay(len(SCHEDULE), MIDDLE, timedelta(seconds=1)) is None


@pytest.mark.parametrize(
    ("retry_after", "delay"),
    [
        ("0", timedelta(0)),
        ("120", timedelta(minutes=2)),
        ("999999999", timedelta(seconds=999_999_999)),
        ("Tue, 24 Nov 2026 23:01:30 GMT", timedelta(seconds=90)),
    ],
)
def test_retry_after_is_read_in_seconds_and_as_a_date(retry_after: str, delay: timedelta) -> None:
    assert parse_retry_after(retry_after, NOW) == delay


@pytest.mark.parametrize(
    "retry_after",
    [
        *(
            None,
            "",
            "soon",
            "-1",
            "1.5",
            "1e3",
            "1_0",
            "٣",
            "9" * 5000,
            "Tue, 24 Nov 2026 23:01:30",
        ),
        "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
        "Mon, 01 Jan 2026 00:00:00 +99999999999999999999",
    ],
)
def test_an_invalid_retry_after_is_ignored(retry_after: str | None) -> None:
    assert parse_retry_after(retry_after, NOW) is None


@pytest.mark.parametrize("date", [None, "", "yesterday"])
def test_a_retry_after_date_without_a_date_header_is_ignored(date: str | None) -> None:
    assert parse_retry_after("Tue, 24 Nov 2026 23:01:30 GMT", date) is None


digits = st.text("0123456789", max_size=25)
clock_times = st.tuples(digits, digits, digits).map(":".join)
almost_dates = st.builds(
    "{} {} {} {} {} {}".format,
    st.sampled_from(["Mon,", "Monday,", ""]),
    digits,
    st.sampled_from(["Jan", "Feb", "13"]) | digits,
    digits,
    clock_times | digits,
    st.sampled_from(["GMT", "EST", "", "+0000", "-9999"]) | digits.map("+{}".format),
)
headers = st.text() | st.text("0123456789 :,-+.GMTJanMo") | almost_dates


@given(headers, st.none() | headers | st.just(NOW))
def test_every_header_is_parsed_without_an_error(retry_after: str, date: str | None) -> None:
    delay = parse_retry_after(retry_after, date)
    assert delay is None or isinstance(delay, timedelta)


@given(headers, headers | st.just(NOW))
def test_every_header_gives_a_delay_of_a_day_at_most(retry_after: str, date: str) -> None:
    delay = next_retry_delay(1, MIDDLE, parse_retry_after(retry_after, date))
    assert delay is not None
    assert delay <= MAX_DELAY
