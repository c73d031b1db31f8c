"""The worker is stopped with many requests under way: nothing fails, and work does not multiply.

`VALETKEY_TEST_STALL_SECONDS=8,30,120 VALETKEY_TEST_STALL_REQUESTS=3000,10000` runs longer stalls.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.faults.service import FaultyService, faulty_service, service_on_postgres
from tests.support.faults.stall import Row, run_stall


def _numbers(name: str, default: str) -> list[int]:
    words = os.environ.get(f"VALETKEY_TEST_STALL_{name}", default).split(",")
    return [int(word) for word in words]


@pytest.fixture(params=["sqlite", "postgresql"])
def stalled(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FaultyService]:
    run_service = service_on_postgres if request.param == "postgresql" else faulty_service
    with run_service(tmp_path) as service:
        yield service


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seconds", _numbers("SECONDS", "8"))
@pytest.mark.parametrize("requests", _numbers("REQUESTS", "3000"))
def test_a_stall_fails_no_request_and_multiplies_no_work(
    stalled: FaultyService,
    requests: int,
    seconds: int,
    record_property: Callable[[str, Row], None],
) -> None:
    row = run_stall(stalled, requests, seconds)
    record_property("stall", row)
    assert (row["failed"], row["left"]) == (0, 0)
    assert row["processed"] <= 1.2 * row["messages"]
    assert row["longest queue"] <= 1.2 * row["messages"]
    assert row["first answer (s)"] <= 3
