import csv
import json
import shlex
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.support.builders.audit_rows import MORNING, AuditLogBuilder, batch_id
from worker.commands.audit import audit
from worker.commands.database import migrate_to_head
from worker.db.engine import create_database_engine, write_transaction

LOG = (
    AuditLogBuilder(1, ["acme/1", "acme/2", "acme/../3", "acme/4", "acme/5"], {2: "key_traversal"}),
    AuditLogBuilder(
        2,
        ["globex/1", "globex/2"],
        {0: "quota_exceeded", 1: "quota_exceeded"},
        at=MORNING + timedelta(hours=1),
        tenant="globex",
        kind="upload",
        requested_by="nightly",
        reason="statements",
        signed_by="billing-2026",
    ),
    AuditLogBuilder(3, ["ACME/1"], at=MORNING + timedelta(hours=2), bucket="other"),
)

Audit = Callable[..., Result]


@pytest.fixture
def run(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Audit:
    monkeypatch.setenv("VALETKEY_DATABASE_URL", database_url)
    migrate_to_head(database_url)
    engine = create_database_engine(database_url)
    with write_transaction(engine) as connection:
        for batch in LOG:
            batch.write(connection)
    engine.dispose()
    name = "python -m worker audit"
    return lambda *words: CliRunner().invoke(audit, list(words), prog_name=name)


def listed(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def grants(result: Result) -> list[str]:
    return [row["grant"] for row in listed(result)]


def items(batch: int, *numbers: int) -> list[str]:
    return [f"{batch_id(batch)}.{number}" for number in numbers]


ALL = items(3, 0) + items(2, 1, 0) + items(1, 4, 3, 2, 1, 0)
FILTERS = {
    "--tenant globex": items(2, 1, 0),
    "--bucket other": items(3, 0),
    "--requester nightly": items(2, 1, 0),
    "--signed-by billing-2026": items(2, 1, 0),
    "--signed-by billing-2026 --tenant acme": [],
    "--signed-by=": items(3, 0) + items(1, 4, 3, 2, 1, 0),
    "--key acme/4": items(1, 3),
    "--prefix acme/": items(1, 4, 3, 2, 1, 0),
    "--prefix acme/_": [],
    "--decision refused": items(2, 1, 0) + items(1, 2),
    "--decision issued --tenant acme --bucket demo": items(1, 4, 3, 1, 0),
    "--since 2026-11-24T09:00:00Z": items(3, 0) + items(2, 1, 0),
    "--since 2026-11-24T10:30+01:00": items(3, 0),
    "--until 2026-11-24T08:00:01": items(1, 1, 0),
    "--since 2026-11-24 --until 2026-11-24T09": items(1, 4, 3, 2, 1, 0),
    f"--batch {batch_id(2)}": items(2, 1, 0),
    f"--grant {batch_id(1)}.3": items(1, 3),
    f"--grant acme/{batch_id(1)}.3": items(1, 3),
    f"--grant globex/{batch_id(1)}.3": [],
    f"--grant {batch_id(1)}.5": [],
    f"--batch {batch_id(9)}": [],
}


def test_every_item_is_listed_newest_first(run: Audit) -> None:
    assert grants(run("list", "--json")) == ALL


def test_an_issued_item_says_who_asked_for_what_and_until_when_it_lives(run: Audit) -> None:
    assert listed(run("list", "--json"))[-1] == {
        "time": "2026-11-24T08:00:00Z",
        "tenant": "acme",
        "requested_by": "billing",
        "signed_by": None,
        "reason": None,
        "bucket": "demo",
        "kind": "download",
        "key": "acme/1",
        "decision": "issued",
        "expires_at": "2026-11-24T09:00:00Z",
        "grant": f"{batch_id(1)}.0",
    }


def test_a_signed_request_names_its_key(run: Audit) -> None:
    rows = listed(run("list", "--tenant", "globex", "--json"))
    assert [row["signed_by"] for row in rows] == ["billing-2026"] * 2


def test_a_refused_item_has_its_code_and_no_expiry(run: Audit) -> None:
    row = listed(run("list", "--grant", f"{batch_id(1)}.2", "--json"))[0]
    assert (row["decision"], row["expires_at"]) == ("key_traversal", None)


def test_the_time_of_an_item_is_its_chunks(run: Audit) -> None:
    rows = listed(run("list", "--batch", batch_id(1), "--json"))
    assert [row["time"][-4:-1] for row in rows] == [":02", ":01", ":01", ":00", ":00"]


def test_a_filter_leaves_what_was_asked_for(run: Audit) -> None:
    found = {words: grants(run("list", *words.split(), "--json")) for words in FILTERS}
    assert found == FILTERS


@pytest.mark.parametrize("limit", [1, 3, 8])
def test_the_pages_together_are_the_whole_list_once(run: Audit, limit: int) -> None:
    words, found = ["list", "--json", "--limit", str(limit)], []
    while words:
        result = run(*words)
        found.append(grants(result))
        _, _, command = result.stderr.partition("python -m worker audit ")
        words = shlex.split(command)
    assert found == [ALL[start : start + limit] for start in range(0, len(ALL), limit)]


def test_a_table_ends_with_the_command_for_its_next_page(run: Audit) -> None:
    words = ["list", "--prefix", "acme/", "--since", "2026-11-24", "--limit", "2"]
    *_, last = run(*words).stdout.splitlines()
    assert last == (
        "Next page: python -m worker audit list --prefix acme/ "
        f"--since 2026-11-24T00:00:00Z --limit 2 --after acme/{batch_id(1)}.3"
    )


@pytest.fixture
def same_ids(database_url: str, run: Audit) -> Audit:
    """The log, with another tenant's batch that has the id of the first one."""
    engine = create_database_engine(database_url)
    with write_transaction(engine) as connection:
        AuditLogBuilder(4, ["globex/3", "globex/4"], tenant="globex", id_of=1).write(connection)
    engine.dispose()
    return run


def keys(result: Result) -> list[str]:
    return [row["key"] for row in listed(result)]


def test_two_tenants_may_have_batches_of_the_same_id(same_ids: Audit) -> None:
    found = keys(same_ids("list", "--batch", batch_id(1), "--json", "--limit", "3"))
    assert found == ["globex/4", "globex/3", "acme/5"]
    theirs = keys(same_ids("list", "--grant", f"globex/{batch_id(1)}.1", "--json"))
    assert theirs == ["globex/4"]


def test_a_page_goes_on_behind_the_item_of_the_tenant_that_it_ended_with(same_ids: Audit) -> None:
    found: list[str] = []
    words = ["list", "--json", "--limit", "1"]
    while words:
        result = same_ids(*words)
        found += keys(result)
        words = shlex.split(result.stderr.partition("python -m worker audit ")[2])
    assert len(found) == len(ALL) + 2
    assert found == keys(same_ids("list", "--json"))


def test_a_place_in_the_batches_of_two_tenants_asks_whose_it_is(same_ids: Audit) -> None:
    result = same_ids("list", "--after", f"{batch_id(1)}.1")
    assert result.exit_code == 2
    assert "TENANT/BATCH.NUMBER" in result.stderr
    after = same_ids("list", "--json", "--after", f"globex/{batch_id(1)}.1")
    assert keys(after)[0] == "globex/3"


def test_a_relative_time_stays_where_it_was_on_the_next_page(run: Audit) -> None:
    result = run("list", "--since", "36500d ago", "--limit", "1")
    assert "d ago" not in result.stdout.splitlines()[-1]


def test_csv_has_a_header_and_a_row_for_each_item(run: Audit) -> None:
    header, *rows = csv.reader(run("list", "--csv").stdout.splitlines())
    assert header[-3:] == ["decision", "expires_at", "grant"]
    assert [row[-1] for row in rows] == ALL


def test_what_cannot_be_read_is_wrong_usage(run: Audit) -> None:
    wrong = [f"--after {batch_id(9)}.0", "--after nothing", "--grant 1", "--limit 0", "--since x"]
    assert {words: run("list", *words.split()).exit_code for words in wrong} == dict.fromkeys(
        wrong, 2
    )


def test_the_summary_counts_by_tenant_and_kind(run: Audit) -> None:
    assert listed(run("summary", "--json")) == [
        {"tenant": "acme", "kind": "download", "issued": 5, "refused": 1},
        {"tenant": "globex", "kind": "upload", "issued": 0, "refused": 2},
    ]


def test_the_summary_of_a_time_counts_only_what_was_decided_in_it(run: Audit) -> None:
    rows = listed(run("summary", "--since", "2026-11-24T09:30", "--json"))
    assert rows == [{"tenant": "acme", "kind": "download", "issued": 1, "refused": 0}]
