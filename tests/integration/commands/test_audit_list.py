import csv
import shlex

import pytest
from click.testing import Result

from tests.support.builders.audit_rows import AuditedBatch, batch_id
from tests.support.cli.audit_log import (
    ALL,
    Run,
    audit_runner,
    grants,
    items,
    write_batches,
)
from tests.support.cli.operator import json_rows
from worker.db.audit.selection import refused_rows


@pytest.fixture
def run(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    return audit_runner(database_url, monkeypatch)


def test_every_item_is_listed_newest_first(run: Run) -> None:
    assert grants(run("list", "--json")) == ALL


def test_an_issued_item_has_its_request_and_expiry(run: Run) -> None:
    assert json_rows(run("list", "--json"))[-1] == {
        "time": "2026-11-24T08:00:00Z",
        "tenant": "acme",
        "requested_by": "billing",
        "signed_by": None,
        "reason": None,
        "recipient": None,
        "bucket": "demo",
        "kind": "download",
        "key": "acme/1",
        "decision": "issued",
        "expires_at": "2026-11-24T09:00:00Z",
        "grant": f"{batch_id(1)}.0",
    }


def test_a_signed_request_names_its_key(run: Run) -> None:
    rows = json_rows(run("list", "--tenant", "globex", "--json"))
    assert [row["signed_by"] for row in rows] == ["billing-2026"] * 2


def test_a_refused_item_has_its_code_and_no_expiry(run: Run) -> None:
    row = json_rows(run("list", "--grant", f"{batch_id(1)}.2", "--json"))[0]
    assert (row["decision"], row["expires_at"]) == ("key_traversal", None)


def test_the_time_of_an_item_is_its_chunks(run: Run) -> None:
    rows = json_rows(run("list", "--batch", batch_id(1), "--json"))
    assert [row["time"][-4:-1] for row in rows] == [":02", ":01", ":01", ":00", ":00"]


@pytest.mark.parametrize("limit", [1, 3, 8])
def test_the_pages_together_are_the_whole_list_once(run: Run, limit: int) -> None:
    words, pages = ["list", "--json", "--limit", str(limit)], []
    while words:
        result = run(*words)
        pages.append(grants(result))
        _, _, command = result.stderr.partition("python -m worker audit ")
        words = shlex.split(command)
    assert pages == [ALL[start : start + limit] for start in range(0, len(ALL), limit)]


@pytest.mark.parametrize("limit", [1, 2, 5])
@pytest.mark.parametrize("max_read", [1, 3, 9])
def test_pages_of_refusal_codes_are_the_whole_list_once(
    run: Run, monkeypatch: pytest.MonkeyPatch, limit: int, max_read: int
) -> None:
    """The index has all candidates, or some of them, and the rest is scanned."""
    monkeypatch.setattr(refused_rows, "_MAX_READ", max_read)
    monkeypatch.setattr(refused_rows, "_FIRST_READ", 1)
    monkeypatch.setattr(refused_rows, "_LARGEST_READ", 2)
    words = ["list", "--decision", "key_traversal,quota_exceeded", "--json", "--limit", str(limit)]
    listed: list[str] = []
    while words:
        result = run(*words)
        listed += grants(result)
        words = shlex.split(result.stderr.partition("python -m worker audit ")[2])
    assert listed == items(2, 1, 0) + items(1, 2)


def test_a_table_ends_with_the_command_for_its_next_page(run: Run) -> None:
    words = ["list", "--prefix", "acme/", "--since", "2026-11-24", "--limit", "2"]
    *_, last = run(*words).stdout.splitlines()
    assert last == (
        "Next page: python -m worker audit list --prefix acme/ "
        f"--since 2026-11-24T00:00:00Z --limit 2 --after acme/{batch_id(1)}.3"
    )


@pytest.fixture
def same_ids(database_url: str, run: Run) -> Run:
    """The log, with another tenant's batch that has the id of the first one."""
    other = AuditedBatch(4, ["globex/3", "globex/4"], tenant="globex", id_number=1)
    write_batches(database_url, other)
    return run


def keys(result: Result) -> list[str]:
    return [row["key"] for row in json_rows(result)]


def test_two_tenants_may_have_batches_of_the_same_id(same_ids: Run) -> None:
    both = keys(same_ids("list", "--batch", batch_id(1), "--json", "--limit", "3"))
    assert both == ["globex/4", "globex/3", "acme/5"]
    of_globex = keys(same_ids("list", "--grant", f"globex/{batch_id(1)}.1", "--json"))
    assert of_globex == ["globex/4"]


def test_the_next_page_starts_after_the_item_of_the_same_tenant(same_ids: Run) -> None:
    listed_keys: list[str] = []
    words = ["list", "--json", "--limit", "1"]
    while words:
        result = same_ids(*words)
        listed_keys += keys(result)
        words = shlex.split(result.stderr.partition("python -m worker audit ")[2])
    assert len(listed_keys) == len(ALL) + 2
    assert listed_keys == keys(same_ids("list", "--json"))


def test_a_cursor_in_batches_of_two_tenants_requires_the_tenant(same_ids: Run) -> None:
    result = same_ids("list", "--after", f"{batch_id(1)}.1")
    assert result.exit_code == 2
    assert "TENANT/BATCH.NUMBER" in result.stderr
    after = same_ids("list", "--json", "--after", f"globex/{batch_id(1)}.1")
    assert keys(after)[0] == "globex/3"


def test_a_relative_time_is_absolute_in_the_command_for_the_next_page(run: Run) -> None:
    result = run("list", "--since", "36500d ago", "--limit", "1")
    assert "d ago" not in result.stdout.splitlines()[-1]


def test_csv_has_a_header_and_a_row_for_each_item(run: Run) -> None:
    header, *rows = csv.reader(run("list", "--csv").stdout.splitlines())
    assert header[-3:] == ["decision", "expires_at", "grant"]
    assert [row[-1] for row in rows] == ALL


def test_an_invalid_value_is_a_usage_error(run: Run) -> None:
    wrong = [
        *(f"--after {batch_id(9)}.0", "--after nothing", "--grant 1", "--limit 0", "--since x"),
        *("--since 2026-11-25 --until 2026-11-24", "--key=", "--key s3://demo", "--key s3:///a"),
        *("--tz Berlin", "--columns colour", "--all --limit 5", "--follow --all"),
        *(f"--follow --after {batch_id(1)}.0", "--follow --until 1h", "--json --csv"),
        *(f"--batch {batch_id(1)}.0", f"--batch acme/{batch_id(1)}"),
        *("--bucket demo --key s3://other/a", f"--key {'*' * 1_025}", "--decision issued,"),
    ]
    assert {words: run("list", *words.split()).exit_code for words in wrong} == dict.fromkeys(
        wrong, 2
    )


def test_the_summary_counts_by_tenant_and_kind(run: Run) -> None:
    assert json_rows(run("summary", "--json")) == [
        {"tenant": "acme", "kind": "download", "issued": 5, "refused": 1},
        {"tenant": "globex", "kind": "upload", "issued": 0, "refused": 2},
    ]


def test_the_summary_of_a_period_counts_only_its_decisions(run: Run) -> None:
    rows = json_rows(run("summary", "--since", "2026-11-24T09:30", "--json"))
    assert rows == [{"tenant": "acme", "kind": "download", "issued": 1, "refused": 0}]
