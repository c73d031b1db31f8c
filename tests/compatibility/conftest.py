"""The servers of these tests, and the tables that are printed after them."""

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
def record_claim(
    record_property: Callable[[str, object], None],
) -> Callable[[str, str, str], None]:
    """Count this test in a cell: in the table, row and column of these names."""

    def record(table: str, row: str, column: str) -> None:
        record_property("compatibility", [table, row, column])

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print tables in Markdown: the numbers of claims that passed, of all in a row and column."""
    tables: dict[str, dict[tuple[str, str], Counter[str]]] = {}
    for outcome in ("passed", "failed", "xfailed"):
        reports: list[Any] = terminalreporter.stats.get(outcome, [])
        for report in reports:
            for name, value in report.user_properties:
                if name == "compatibility":
                    table, row, column = value
                    cells = tables.setdefault(table, {})
                    cells.setdefault((row, column), Counter())[outcome] += 1
    for table, cells in tables.items():
        terminalreporter.section(table)
        for line in _table_lines(cells):
            terminalreporter.line(line)


def _table_lines(cells: dict[tuple[str, str], Counter[str]]) -> Iterator[str]:
    rows, columns = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True))
    yield f"| | {' | '.join(columns)} |"
    yield f"| --- |{' --- |' * len(columns)}"
    for row in rows:
        texts = [_cell(cells.get((row, column), Counter())) for column in columns]
        yield f"| {row} | {' | '.join(texts)} |"


def _cell(counts: Counter[str]) -> str:
    """Return the number of claims that passed, of all; a dash if there are none."""
    return f"{counts['passed']}/{counts.total()}" if counts else "—"
