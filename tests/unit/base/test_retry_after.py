from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.base.webhook_client import parse_retry_after

NOW = "Tue, 24 Nov 2026 23:00:00 GMT"


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
        *(None, "", "soon", "-1", "1.5", "1_0", "٣", "9" * 5000, "Tue, 24 Nov 2026 23:01:30"),
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
