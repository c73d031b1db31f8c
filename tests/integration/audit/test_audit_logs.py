import json
import re
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest
from sqlalchemy import Engine, insert

from models import Cancellation
from tests.support.builders.audit_rows import MORNING, batch_id
from tests.support.cli.operator import audit_pages, json_rows, refusal, run_audit
from valetkey.cli.terminal_text import program_command
from valetkey.wire.refusals import Code
from worker.base.database_engine import write_transaction
from worker.ledger.rejections import count_rejections
from worker.tenants import config_changes
from worker.tenants.config_changes import ChangeAuthor

CHANGES: list[tuple[str, Any, Any]] = [
    ("tenants.acme.max_batch", 1, 2),
    ("tenants.acme.allow.demo.prefixes", None, ("a/", "b/")),
    ("tenants.acme.allow.demo.shared", False, None),
    ("tenants.acme.quotas.grants.hour.raise", None, {"by": 5}),
]
NEW_TENANT: list[tuple[str, Any, Any]] = [
    ("tenants.acme.allow.demo.inline", None, ()),
    ("tenants.acme.allow.demo.prefixes", None, ("a/",)),
    ("tenants.acme.max_batch", None, 100_000),
    ("tenants.acme.trust", None, "keys"),
]
LATER = MORNING + timedelta(hours=2)


@pytest.fixture
def log(engine: Engine) -> None:
    request = {"batch_id": batch_id(1), "requested_by": "nightly", "reason": None}
    cancellations: list[dict[str, Any]] = [
        request | {"tenant": "acme", "signing_key": "billing", "cancelled_at": MORNING},
        request | {"tenant": "globex", "signing_key": None, "cancelled_at": LATER},
    ]
    with write_transaction(engine) as connection:
        config_changes.record_changes(
            connection, CHANGES[:3], ChangeAuthor(MORNING, "alice", "apply")
        )
        config_changes.record_changes(
            connection, CHANGES[3:], ChangeAuthor(LATER, "bob", "quota raise")
        )
        connection.execute(insert(Cancellation), cancellations)
        for code, tenant, text, at in (
            (Code.KEY_UNKNOWN, "acme", b"one", MORNING),
            (Code.KEY_UNKNOWN, "acme", b"another", MORNING + timedelta(minutes=1)),
            (Code.TOKEN_INVALID, None, b"nonsense", LATER),
        ):
            count_rejections(connection, tenant, {code: [sha256(text).digest()]}, at)


@pytest.mark.usefixtures("log")
def test_changes_are_listed_newest_first_as_they_were_before_and_after() -> None:
    rows = json_rows(run_audit("changes", "--json"))
    assert rows[0] == {
        "number": 4,
        "at": "2026-11-24T10:00:00Z",
        "by": "bob",
        "through": "quota raise",
        "path": "tenants.acme.quotas.grants.hour.raise",
        "before": None,
        "after": {"by": 5},
    }
    listed_changes = [[row["path"], row["before"], row["after"]] for row in reversed(rows)]
    assert json.loads(json.dumps(CHANGES)) == listed_changes


@pytest.mark.usefixtures("log")
def test_a_table_of_changes_has_arrays_and_booleans_as_json() -> None:
    table = run_audit("changes", "--all").stdout
    assert '["a/", "b/"]' in table
    assert "false" in table


@pytest.mark.usefixtures("log")
def test_pages_of_changes_together_are_the_whole_list_once() -> None:
    pages = audit_pages("changes", "--json", "--limit", "3")
    assert [[row["number"] for row in rows] for rows in pages] == [[4, 3, 2], [1]]


def test_a_table_of_changes_shows_what_was_edited_and_not_the_defaults_of_a_new_tenant(
    engine: Engine,
) -> None:
    with write_transaction(engine) as connection:
        config_changes.record_changes(
            connection, NEW_TENANT, ChangeAuthor(MORNING, "alice", "apply")
        )
    for words in (["changes"], ["changes", "--limit", "2"]):  # a page is full of edits
        table = run_audit(*words).stdout
        edits = ["tenants.acme.trust", "tenants.acme.allow.demo.prefixes"]
        assert re.findall(r"tenants\.\S+", table) == edits
        assert "Default values left out: 2; --all shows them.\n" in table
    first_page = run_audit("changes", "--limit", "1").stdout
    assert re.findall(r"tenants\.\S+", first_page) == ["tenants.acme.trust"]
    command = f"{program_command('python')} -m worker audit changes --limit 1 --after 4"
    assert f"Next page: {command}\n" in first_page
    for words in (["changes", "--all"], ["changes", "--csv"]):
        table = run_audit(*words).stdout
        assert all(path in table for path, _, _ in NEW_TENANT)
        assert "left out" not in table


@pytest.mark.usefixtures("log")
def test_rejections_are_counted_by_hour_tenant_and_code() -> None:
    assert json_rows(run_audit("rejections", "--json")) == [
        {
            "hour": "2026-11-24T10:00:00Z",
            "tenant": None,
            "code": "token_invalid",
            "count": 1,
            "last_at": "2026-11-24T10:00:00Z",
            "last_digest": sha256(b"nonsense").hexdigest(),
        },
        {
            "hour": "2026-11-24T08:00:00Z",
            "tenant": "acme",
            "code": "key_unknown",
            "count": 2,
            "last_at": "2026-11-24T08:01:00Z",
            "last_digest": sha256(b"another").hexdigest(),
        },
    ]


@pytest.mark.usefixtures("log")
@pytest.mark.parametrize(
    ("words", "column", "expected"),
    [
        ("rejections --tenant acme", "code", ["key_unknown"]),
        ("rejections --tenant globex", "code", []),
        # The hour that contains it.
        ("rejections --since 2026-11-24T08:59", "code", ["token_invalid", "key_unknown"]),
        ("rejections --since 2026-11-24T09:00", "code", ["token_invalid"]),
        ("cancellations --tenant acme", "tenant", ["acme"]),
        ("cancellations --since 2026-11-24T09", "tenant", ["globex"]),
        ("changes --since 2026-11-24T10:00", "number", [4]),
    ],
)
def test_filters_select_rows(words: str, column: str, expected: list[Any]) -> None:
    rows = json_rows(run_audit(*words.split(), "--json"))
    assert [row[column] for row in rows] == expected


@pytest.mark.usefixtures("log")
def test_cancellations_have_their_requester_and_signing_key() -> None:
    rows = json_rows(run_audit("cancellations", "--json"))
    assert [(row["tenant"], row["signed_by"]) for row in rows] == [
        ("globex", None),
        ("acme", "billing"),
    ]
    assert {(row["batch"], row["requested_by"]) for row in rows} == {(batch_id(1), "nightly")}


@pytest.mark.usefixtures("log")
def test_a_truncated_list_says_that_there_are_more_rows() -> None:
    for command in ("rejections", "cancellations"):
        first, all_rows = (run_audit(command, "--json", "--limit", limit) for limit in ("1", "2"))
        assert (len(json_rows(first)), len(json_rows(all_rows))) == (1, 2)
        assert "There are more rows" in first.stderr
        assert all_rows.stderr == ""


@pytest.mark.usefixtures("log")
@pytest.mark.parametrize("command", ["changes", "cancellations", "rejections"])
def test_times_are_printed_in_the_chosen_zone(command: str) -> None:
    row = json_rows(run_audit(command, "--tz", "Europe/Berlin", "--json"))[0]
    assert (row.get("at") or row["hour"]).endswith("+01:00")


@pytest.mark.usefixtures("log")
@pytest.mark.parametrize("command", ["cancellations", "summary"])
def test_an_unknown_tenant_is_an_error(command: str) -> None:
    error = refusal(run_audit(command, "--tenant", "nobody"))
    assert "there is no tenant 'nobody'" in error
