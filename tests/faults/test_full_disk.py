"""A full disk under the SQLite database, under load."""

from pathlib import Path

import pytest

from tests.faults.conftest import Report
from tests.support.faults.comparison import summarize
from tests.support.faults.injections import FULL_DISK
from tests.support.faults.producers import resending_producers
from tests.support.faults.run import check_integrity, injection_count, run_fault
from tests.support.faults.service import faulty_service
from tests.support.faults.small_disk import CAN_LIMIT_FILES, small_disk

pytestmark = pytest.mark.timeout(120 + 120 * injection_count())


def test_rows_and_charges_agree_with_producers_after_a_full_disk(
    tmp_path: Path, report_fault: Report
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        if disk is None and not CAN_LIMIT_FILES:
            pytest.skip("no file system can be mounted, and no limit set on a running process")
        with faulty_service(tmp_path, disk) as service:
            result = run_fault(service, FULL_DISK, resending_producers(service))
            findings = report_fault(result)
            assert not findings, summarize(findings)
            assert check_integrity(service.engine) == "ok"
