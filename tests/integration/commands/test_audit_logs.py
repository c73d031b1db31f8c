"""Tests the audit logs of changes, rejections and cancellations."""

import json
import re
import shlex
from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, insert, text
from sqlalchemy.exc import DBAPIError

from models import Cancellation
from tests.support.builders.audit_rows import MORNING, batch_id
from tests.support.cli.operator import json_rows
from valetkey.wire.refusals import Code
from worker.commands.audit.group import audit
from worker.db.audit import changes
from worker.db.audit.changes import ChangeAuthor
from worker.db.engine import write_transaction
from worker.db.rejections import count_rejection

Run = Callable[..., Result]

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
def run(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("VALETKEY_DATABASE_URL", database_url)
    name = "python -m worker audit"
    return lambda *words: CliRunner().invoke(audit, list(words), prog_name=name)


@pytest.fixture
def log(engine: Engine) -> None:
    with write_transaction(engine) as connection:
        changes.record_changes(connection, CHANGES[:3], ChangeAuthor(MORNING, "alice", "apply"))
        changes.record_changes(connection, CHANGES[3:], ChangeAuthor(LATER, "bob", "quota raise"))
        rows: list[dict[str, Any]] = [
            {"tenant": "acme", "signing_key": "billing", "cancelled_at": MORNING},
            {"tenant": "globex", "signing_key": None, "cancelled_at": LATER},
        ]
        request = {"batch_id": batch_id(1), "requested_by": "nightly", "reason": None}
        connection.execute(insert(Cancellation), [request | row for row in rows])
        count_rejection(connection, Code.KEY_UNKNOWN, "acme", sha256(b"one").digest(), MORNING)
        minute_later = MORNING + timedelta(minutes=1)
        count_rejection(
            connection, Code.KEY_UNKNOWN, "acme", sha256(b"another").digest(), minute_later
        )
        count_rejection(connection, Code.TOKEN_INVALID, None, sha256(b"nonsense").digest(), LATER)


@pytest.mark.usefixtures("log")
def test_changes_are_listed_newest_first_as_they_were_before_and_after(run: Run) -> None:
    rows = json_rows(run("changes", "--json"))
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
def test_a_table_of_changes_has_arrays_and_booleans_as_json(run: Run) -> None:
    table = run("changes", "--all").stdout
    assert '["a/", "b/"]' in table
    assert "false" in table


@pytest.mark.usefixtures("log")
def test_pages_of_changes_together_are_the_whole_list_once(run: Run) -> None:
    words, numbers = ["changes", "--json", "--limit", "3"], []
    while words:
        result = run(*words)
        numbers.append([row["number"] for row in json_rows(result)])
        words = shlex.split(result.stderr.partition("python -m worker audit ")[2])
    assert numbers == [[4, 3, 2], [1]]
    since = json_rows(run("changes", "--since", "2026-11-24T10:00", "--json"))
    assert [row["number"] for row in since] == [4]


def test_a_table_of_changes_shows_what_was_edited_and_not_the_defaults_of_a_new_tenant(
    engine: Engine, run: Run
) -> None:
    with write_transaction(engine) as connection:
        changes.record_changes(connection, NEW_TENANT, ChangeAuthor(MORNING, "alice", "apply"))
    for words in (["changes"], ["changes", "--limit", "2"]):  # a page is full of edits
        table = run(*words).stdout
        assert re.findall(r"tenants\.\S+", table) == [
            "tenants.acme.trust",
            "tenants.acme.allow.demo.prefixes",
        ]
        assert "Default values left out: 2; --all shows them.\n" in table
    first_page = run("changes", "--limit", "1").stdout
    assert re.findall(r"tenants\.\S+", first_page) == ["tenants.acme.trust"]
    assert "Next page: python -m worker audit changes --limit 1 --after 4\n" in first_page
    for words in (["changes", "--all"], ["changes", "--csv"]):
        table = run(*words).stdout
        assert all(path in table for path, _, _ in NEW_TENANT)
        assert "left out" not in table


@pytest.mark.usefixtures("log")
def test_the_database_refuses_to_change_or_remove_what_was_recorded(
    engine: Engine, run: Run
) -> None:
    for statement in ("UPDATE config_changes SET change_number = 9", "DELETE FROM config_changes"):
        with (
            pytest.raises(DBAPIError, match="append only"),
            write_transaction(engine) as connection,
        ):
            connection.execute(text(statement))
    assert len(json_rows(run("changes", "--json"))) == len(CHANGES)


@pytest.mark.usefixtures("log")
def test_rejections_are_counted_by_hour_tenant_and_code(run: Run) -> None:
    assert json_rows(run("rejections", "--json")) == [
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
def test_filters_select_rejections(run: Run) -> None:
    filters = {
        "--tenant acme": ["key_unknown"],
        "--tenant globex": [],
        "--since 2026-11-24T08:59": ["token_invalid", "key_unknown"],  # the hour that contains it
        "--since 2026-11-24T09:00": ["token_invalid"],
    }
    selected = {
        words: [row["code"] for row in json_rows(run("rejections", *words.split(), "--json"))]
        for words in filters
    }
    assert selected == filters


@pytest.mark.usefixtures("log")
def test_cancellations_have_their_requester_and_signing_key(run: Run) -> None:
    rows = json_rows(run("cancellations", "--json"))
    assert [(row["tenant"], row["signed_by"]) for row in rows] == [
        ("globex", None),
        ("acme", "billing"),
    ]
    assert {(row["batch"], row["requested_by"]) for row in rows} == {(batch_id(1), "nightly")}
    assert [
        [row["tenant"] for row in json_rows(run("cancellations", *words.split(), "--json"))]
        for words in ("--tenant acme", "--since 2026-11-24T09")
    ] == [["acme"], ["globex"]]


@pytest.mark.usefixtures("log")
def test_a_truncated_list_says_that_there_are_more_rows(run: Run) -> None:
    for command in ("rejections", "cancellations"):
        first, all_rows = (run(command, "--json", "--limit", limit) for limit in ("1", "2"))
        assert (len(json_rows(first)), len(json_rows(all_rows))) == (1, 2)
        assert "There are more rows" in first.stderr
        assert all_rows.stderr == ""


@pytest.mark.usefixtures("log")
@pytest.mark.parametrize("command", ["changes", "cancellations", "rejections"])
def test_times_are_printed_in_the_chosen_zone(run: Run, command: str) -> None:
    row = json_rows(run(command, "--tz", "Europe/Berlin", "--json"))[0]
    assert (row.get("at") or row["hour"]).endswith("+01:00")


@pytest.mark.usefixtures("log")
@pytest.mark.parametrize("command", ["cancellations", "summary"])
def test_an_unknown_tenant_is_an_error(run: Run, command: str) -> None:
    result = run(command, "--tenant", "nobody")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "there is no tenant 'nobody'" in result.stderr
