import shlex

import pytest

from tests.support.builders.audit_rows import batch_id
from tests.support.cli.audit_log import ALL, Run, audit_runner, grants, items
from tests.support.cli.operator import json_rows
from worker.db.audit.grants import AuditRecord


@pytest.fixture
def run(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    return audit_runner(database_url, monkeypatch)


def test_only_the_chosen_columns_are_printed_in_their_order(run: Run) -> None:
    rows = json_rows(run("list", "--columns", "key,grant", "--limit", "1", "--json"))
    assert [list(row.items()) for row in rows] == [
        [("key", "ACME/1"), ("grant", f"{batch_id(3)}.0")]
    ]
    header = run("list", "--columns", "grant, key", "--csv").stdout.splitlines()[0]
    assert header == "grant,key"


def test_the_columns_are_listed_on_request(run: Run) -> None:
    result = run("list", "--columns", "help")
    assert result.exit_code == 0
    assert result.stdout.split() == list(AuditRecord._fields)


@pytest.mark.parametrize("format_", ["--json", "--csv", None])
def test_all_rows_are_streamed(run: Run, monkeypatch: pytest.MonkeyPatch, format_: str) -> None:
    monkeypatch.setattr("worker.commands.audit.list_grants._ROWS_PER_PRINT", 3)
    words = ["--all", "--columns", "grant", *([format_] if format_ else [])]
    result = run("list", *words)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert (lines if format_ == "--json" else lines[1:]) == [
        f'{{"grant": "{grant}"}}' if format_ == "--json" else grant for grant in ALL
    ]


def test_all_rows_start_after_a_position(run: Run) -> None:
    result = run("list", "--all", "--after", f"{batch_id(1)}.3", "--json")
    assert grants(result) == items(1, 2, 1, 0)


def test_the_next_page_keeps_several_decisions_and_the_zone(run: Run) -> None:
    options = "--decision issued --decision key_traversal --tz Asia/Tokyo --limit 1 --json"
    words = options.split()
    words_of_next = shlex.split(run("list", *words).stderr.partition("audit list ")[2])
    assert words_of_next[:6] == words[:6]
    assert grants(run("list", *words_of_next)) == items(1, 4)
