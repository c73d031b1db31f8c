"""The hint that the service is unavailable, as anyone can write it to the result store."""

from typing import Any

import pytest

from valetkey.wire.unavailable import MAX_AGE, MAX_RETRY_IN, read_unavailable

NOW = 1_764_200_000


@pytest.mark.parametrize(
    ("retry_in", "read"), [(0, 0), (32, 32), (10**10, MAX_RETRY_IN), (-1, None), ("9", None)]
)
def test_a_forged_time_to_wait_is_at_most_an_hour(retry_in: Any, read: int | None) -> None:
    result = {"code": "unavailable", "part": "database", "retry_in": retry_in, "at": NOW}
    hint = read_unavailable(result, NOW)
    assert hint is not None
    assert hint.retry_in == read


@pytest.mark.parametrize(
    ("retry_in", "seconds"), [(None, MAX_AGE), (30, MAX_AGE + 30), (3_600, 2 * MAX_AGE)]
)
@pytest.mark.parametrize("direction", [-1, 1], ids=["future", "past"])
def test_a_hint_from_the_future_is_ignored_as_early_as_one_from_the_past(
    retry_in: int | None, seconds: int, direction: int
) -> None:
    result = {"code": "unavailable", "part": "database", "retry_in": retry_in, "at": NOW}
    assert read_unavailable(result, NOW + direction * seconds) is not None
    assert read_unavailable(result, NOW + direction * (seconds + 1)) is None
