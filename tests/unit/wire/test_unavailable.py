"""The hint that the service is unavailable, as anyone can write it to the result store."""

from typing import Any

import pytest

from valetkey.wire.unavailable import MAX_RETRY_IN, read_unavailable

NOW = 1_764_200_000


@pytest.mark.parametrize(
    ("retry_in", "read"), [(0, 0), (32, 32), (10**10, MAX_RETRY_IN), (-1, None), ("9", None)]
)
def test_a_forged_time_to_wait_is_at_most_an_hour(retry_in: Any, read: int | None) -> None:
    result = {"code": "unavailable", "part": "database", "retry_in": retry_in, "at": NOW}
    hint = read_unavailable(result, NOW)
    assert hint is not None
    assert hint.retry_in == read
