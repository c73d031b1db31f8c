"""Faults under load: no producer is told anything wrong, or nothing, and every batch is charged."""

import pytest

from tests.faults.conftest import Report
from tests.support.faults.comparison import summarize
from tests.support.faults.injections import MORE_ON_SQLITE, ON_SQLITE, Fault
from tests.support.faults.producers import resending_producers
from tests.support.faults.run import check_integrity, injection_count, is_short_form, run_fault
from tests.support.faults.service import FaultyService

pytestmark = pytest.mark.timeout(120 + 120 * injection_count())


FAULTS = ON_SQLITE if is_short_form() else ON_SQLITE + MORE_ON_SQLITE


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_rows_and_charges_agree_with_producers_after(
    fault: Fault, faulty: FaultyService, report_fault: Report
) -> None:
    findings = report_fault(run_fault(faulty, fault, resending_producers(faulty)))
    assert not findings, summarize(findings)
    assert check_integrity(faulty.engine) == "ok"
