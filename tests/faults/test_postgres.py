"""PostgreSQL stopped and started again under load."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import Report
from tests.support.faults.comparison import summarize
from tests.support.faults.injections import STOPPED_POSTGRES
from tests.support.faults.producers import resending_producers
from tests.support.faults.run import injection_count, run_fault
from tests.support.faults.service import FaultyService, faulty_service
from tests.support.servers.databases import migrated_databases
from tests.support.servers.external import running_postgres_server

pytestmark = pytest.mark.timeout(120 + 120 * injection_count())


@pytest.fixture
def faulty_on_postgres(tmp_path: Path) -> Iterator[FaultyService]:
    """The service on a PostgreSQL server of its own, which the test may stop."""
    with (
        running_postgres_server() as server,
        migrated_databases() as new_database,
        new_database(server.url)() as url,
        faulty_service(tmp_path, postgres=(server, url)) as service,
    ):
        yield service


def test_rows_and_charges_agree_with_producers_after_postgres_was_stopped(
    faulty_on_postgres: FaultyService, report_fault: Report
) -> None:
    producers = resending_producers(faulty_on_postgres)
    findings = report_fault(run_fault(faulty_on_postgres, STOPPED_POSTGRES, producers))
    assert not findings, summarize(findings)
