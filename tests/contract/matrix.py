"""`python -m pytest tests/contract -p tests.contract.matrix` prints what held, as Markdown."""

from collections import defaultdict
from collections.abc import Generator

import pytest

from tests.support.s3.misuses import Misuse
from tests.support.s3.stores import SERVERS

_BAD = ("failed", "skipped")
_said: defaultdict[tuple[str, str], dict[str, str]] = defaultdict(dict)
"""By kind and check, what each server did."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.when == "call" or not report.passed:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        misuse, server = params.get("misuse"), params.get("store")
        check = misuse.name if isinstance(misuse, Misuse) else _sentence(item.originalname)
        row = _said[_sentence(item.path.stem), check]
        for each in SERVERS if server is None else (str(server),):
            if row.get(each) not in _BAD:  # of the cases of one check, the worst is told
                row[each] = _verdict(misuse, server) if report.passed else report.outcome
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    head = ("kind", "check", *SERVERS)
    rows = [
        (kind, check, *(said.get(server, "") for server in SERVERS))
        for (kind, check), said in _said.items()
    ]
    for row in (head, ("---",) * len(head), *rows):
        terminalreporter.write_line(f"| {' | '.join(row)} |")


def _sentence(name: str) -> str:
    return name.removeprefix("test_").replace("_", " ")


def _verdict(misuse: object, server: object) -> str:
    if isinstance(misuse, Misuse):
        return "refused" if server in misuse.refused_by else "accepted"
    return "held" if server is None else "works"
