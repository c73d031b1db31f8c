"""The table of the compatibility matrix, printed after the tests."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.compatibility.services import Servers, running_servers


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Servers for all services of a module."""
    with running_servers(tmp_path_factory.mktemp("compatibility")) as running:
        yield running


@pytest.fixture
def record_row(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Add this test's result to the table, in a row of what is named `row: column`."""

    def record(name: str) -> None:
        row, _, column = name.rpartition(": ")
        record_property("compatibility", [row, column])

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print a table of Markdown: the numbers of passed claims by row and column."""
    results: dict[tuple[str, str], Counter[str]] = {}
    for outcome in ("passed", "failed", "xfailed"):
        reports: list[Any] = terminalreporter.stats.get(outcome, [])
        for report in reports:
            for name, value in report.user_properties:
                if name == "compatibility":
                    results.setdefault(tuple(value), Counter())[outcome] += 1
    if results:
        terminalreporter.section("compatibility")
        for line in _table(results):
            terminalreporter.line(line)


def _table(results: dict[tuple[str, str], Counter[str]]) -> Iterator[str]:
    rows, columns = (list(dict.fromkeys(pair[side] for pair in results)) for side in (0, 1))
    yield f"| | {' | '.join(columns)} |"
    yield f"| --- |{' --- |' * len(columns)}"
    for row in rows:
        cells = [_cell(results.get((row, column), Counter())) for column in columns]
        yield f"| {row} | {' | '.join(cells)} |"


def _cell(counts: Counter[str]) -> str:
    """Return the number of passed claims of all, or a dash if there are none."""
    total = counts.total()
    return f"{counts['passed']}/{total}" if total else "—"
