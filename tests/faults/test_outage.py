"""Redis or PostgreSQL is away while requests wait: the first answer comes soon after its return.

The outage is longer than workers try a request again. `VALETKEY_TEST_OUTAGE_SECONDS=60,600` runs
longer ones.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.faults.outage import (
    FROZEN_POSTGRES,
    FROZEN_REDIS,
    KILLED_REDIS,
    REQUESTS,
    STOPPED_POSTGRES,
    Outage,
    Row,
    run_outage,
)
from tests.support.faults.service import FaultyService, faulty_service, service_on_postgres

SECONDS = [int(word) for word in os.environ.get("VALETKEY_TEST_OUTAGE_SECONDS", "35").split(",")]
MAX_SECONDS = 5.0  # until the first answer after the return
MAX_SECONDS_FOR_ALL = 10.0
Check = Callable[[FaultyService, Outage, int], None]

pytestmark = pytest.mark.timeout(180 + max(SECONDS))


@pytest.fixture
def check(record_property: Callable[[str, Row], None]) -> Check:
    def run_and_check(service: FaultyService, outage: Outage, seconds: int) -> None:
        row = run_outage(service, outage, seconds)
        record_property("outage", row)
        assert row["failed"] == 0
        assert row["first answer (s)"] <= MAX_SECONDS
        assert row["one after the other (s)"] <= MAX_SECONDS
        assert row["all answered (s)"] <= MAX_SECONDS_FOR_ALL
        assert row["processed"] <= 3 * REQUESTS

    return run_and_check


@pytest.mark.parametrize("seconds", SECONDS)
@pytest.mark.parametrize("outage", [KILLED_REDIS, FROZEN_REDIS], ids=lambda outage: outage.name)
def test_the_first_answer_after_an_outage_of_redis_comes_within_five_seconds(
    outage: Outage, seconds: int, tmp_path: Path, check: Check
) -> None:
    with faulty_service(tmp_path) as service:
        check(service, outage, seconds)


@pytest.mark.parametrize("seconds", SECONDS)
@pytest.mark.parametrize(
    "outage", [STOPPED_POSTGRES, FROZEN_POSTGRES], ids=lambda outage: outage.name
)
def test_the_first_answer_after_an_outage_of_postgres_comes_within_five_seconds(
    outage: Outage, seconds: int, tmp_path: Path, check: Check
) -> None:
    with service_on_postgres(tmp_path) as service:
        check(service, outage, seconds)
