"""The last lines of a run claim no more than it proved."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support import scope

WHOLE = pytest.Config.ArgsSource.TESTPATHS
ONE_FILE = pytest.Config.ArgsSource.ARGS


def last_lines(
    status: int = 0,
    source: pytest.Config.ArgsSource = WHOLE,
    *,
    keyword: str = "",
    collectonly: bool = False,
    skipped: str | None = None,
) -> str:
    lines: list[str] = []
    reports = [] if skipped is None else [SimpleNamespace(longrepr=("a.py", 1, skipped))]
    option = SimpleNamespace(markexpr="quick", keyword=keyword, collectonly=collectonly)
    reporter = SimpleNamespace(getreports=lambda _: reports, line=lines.append)
    config = SimpleNamespace(option=option, args_source=source)
    scope.pytest_terminal_summary(cast("Any", reporter), status, cast("Any", config))
    return "".join(lines)


def test_a_whole_run_that_passed_says_what_it_proved_and_what_to_run_for_the_rest() -> None:
    assert "Proven: the rules" in last_lines()
    assert "`make test-all`" in last_lines()


def test_a_run_that_failed_or_ran_a_part_claims_nothing() -> None:
    assert last_lines(status=1) == last_lines(source=ONE_FILE) == ""
    assert last_lines(keyword="quota") == last_lines(collectonly=True) == ""


def test_a_missing_part_is_named_with_its_command_in_each_run() -> None:
    skipped = "Skipped: not proven: pages in a browser: run `make browser`"
    line = "Not proven on this machine: pages in a browser: run `make browser`"
    assert line in last_lines(skipped=skipped)
    assert line in last_lines(1, ONE_FILE, skipped=skipped)
