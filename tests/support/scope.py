"""Which tests `make test` runs, and what a run reports as not proven."""

import os
from collections.abc import Sequence
from typing import NoReturn

import pytest

_QUICK_FOLDERS = ("tests/unit/", "tests/integration/")
_SLOW_SERVERS = {"postgres_url", "seaweed", "ministack", "moto"}
_NOT_PROVEN = "not proven: "
_MEANINGS = {
    "quick": "Proven: the rules, the use cases on SQLite, and the main job with real processes on"
    " SQLite and\non PostgreSQL. `make test-all` also proves the use cases on PostgreSQL, what"
    " storage accepts and\nrefuses, and that faults and attacks do no harm.",
    "slow": "Proven: the use cases on PostgreSQL, what storage accepts and refuses, and that faults"
    " and attacks\ndo no harm. `make test` proves the rest.",
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Mark each test as quick, which `make test` runs, or slow, which only `make test-all` runs.

    Tests in unit/ and integration/ are quick unless they need PostgreSQL or a server of storage;
    others are slow. A mark in the source has precedence.
    """
    for item in items:
        if not any(map(item.get_closest_marker, ("quick", "slow"))):
            item.add_marker("quick" if _is_quick(item) else "slow")


def _is_quick(item: pytest.Item) -> bool:
    if not item.nodeid.startswith(_QUICK_FOLDERS):
        return False
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    has_small_servers = _SLOW_SERVERS.isdisjoint(getattr(item, "fixturenames", ()))
    return has_small_servers and parameters.get("database_url", "sqlite") == "sqlite"


def skip_without(part: str, command: str) -> NoReturn:
    """Skip the running test for want of a part that a command installs; fail in CI."""
    message = f"{_NOT_PROVEN}{part}: run `{command}`"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    """Say what the run proved, what to run for the rest, and what the machine could not prove."""
    reasons = {str(report.longrepr[2]) for report in terminalreporter.getreports("skipped")}
    missing = sorted(r.partition(_NOT_PROVEN)[2] for r in reasons if _NOT_PROVEN in r)
    if missing:
        terminalreporter.line(f"\nNot proven on this machine: {'; '.join(missing)}")
    is_whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not (
        config.option.keyword or config.option.collectonly
    )
    meaning = _MEANINGS.get(config.option.markexpr)
    if meaning is not None and is_whole and exitstatus == pytest.ExitCode.OK:
        terminalreporter.line(f"\n{meaning}")
