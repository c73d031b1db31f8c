from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.faults.comparison import Findings
from tests.support.faults.run import FaultReport, is_short_form
from tests.support.faults.service import FaultyService, faulty_service

Report = Callable[[tuple[FaultReport, Findings]], Findings]


@pytest.fixture(autouse=True)
def _short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let clients send again after 1 second in the short form, to save time."""
    if is_short_form():
        monkeypatch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 1.0)


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[FaultyService]:
    """The service on SQLite, with a broker and a database of its own."""
    with faulty_service(tmp_path) as service:
        yield service


@pytest.fixture
def report_fault(record_property: Callable[[str, object], None]) -> Report:
    """A function that adds a row to the table of faults, and returns the findings."""

    def record(result: tuple[FaultReport, Findings]) -> Findings:
        row, findings = result
        record_property("fault", row.as_row())
        return findings

    return record
