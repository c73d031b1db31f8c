"""`python -m pytest tests/faults -p tests.faults.table` prints the results as a Markdown table."""

from typing import Any

import pytest

from tests.support.faults.run import injection_seed

_COLUMNS = {
    "fault": "fault",
    "times": "times",
    "asked": "items asked",
    "answered": "answered",
    "lost": "lost",
    "doubled": "doubled",
    "unaudited": "unaudited",
    "mischarged": "mis-charged",
    "slowest": "slowest call (s)",
    "note": "worker",
}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports: list[Any] = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, ())
    ]
    rows = [
        [str(value[column]) for column in _COLUMNS]
        for report in reports
        for name, value in report.user_properties
        if name == "fault"
    ]
    terminalreporter.write_line(f"seed {injection_seed()}")
    for row in (list(_COLUMNS.values()), ["---"] * len(_COLUMNS), *rows):
        terminalreporter.write_line(f"| {' | '.join(row)} |")
