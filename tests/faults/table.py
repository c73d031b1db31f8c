"""`python -m pytest tests/faults -p tests.faults.table` prints the results as Markdown tables."""

import pytest

from tests.support.faults.run import SEED, Row


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"seed {SEED}")
    for kind in ("fault", "stall", "outage"):
        rows: list[Row] = [
            value
            for outcome in ("passed", "failed")
            for report in terminalreporter.stats.get(outcome, ())
            for name, value in report.user_properties
            if name == kind
        ]
        titles = list(rows[0]) if rows else []
        for line in (titles, ["---"] * len(titles), *(map(str, row.values()) for row in rows)):
            terminalreporter.write_line(f"| {' | '.join(line)} |")
