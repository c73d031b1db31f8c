"""`python -m pytest tests/contract -p tests.contract.matrix` prints results as a Markdown table."""

from collections import defaultdict
from collections.abc import Generator

import pytest

from tests.support.s3.misuses import Misuse
from tests.support.s3.stores import SERVERS

_FAILURES = ("failed", "skipped")
_results: defaultdict[tuple[str, str], dict[str, str]] = defaultdict(dict)
"""Each server's result, by kind and check."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.when == "call" or not report.passed:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        misuse, server = params.get("misuse"), params.get("store")
        check = misuse.name if isinstance(misuse, Misuse) else _readable_name(item.originalname)
        row = _results[_readable_name(item.path.stem), check]
        for column in SERVERS if server is None else (str(server),):
            if row.get(column) not in _FAILURES:  # a failed case counts for the whole check
                row[column] = _describe_pass(misuse, server) if report.passed else report.outcome
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    header = ("kind", "check", *SERVERS)
    rows = [
        (kind, check, *(results.get(server, "") for server in SERVERS))
        for (kind, check), results in _results.items()
    ]
    for row in (header, ("---",) * len(header), *rows):
        terminalreporter.write_line(f"| {' | '.join(row)} |")


def _readable_name(name: str) -> str:
    return name.removeprefix("test_").replace("_", " ")


def _describe_pass(misuse: object, server: object) -> str:
    if isinstance(misuse, Misuse):
        return "refused" if server in misuse.refused_by else "accepted"
    return "held" if server is None else "works"
