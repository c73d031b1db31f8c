"""What the audit log has beside grants: changes, rejections and cancellations."""

import json
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
from valetkey.wire.refusals import Code
from worker.commands.audit import audit
from worker.db.audit import changes
from worker.db.audit.changes import ChangeAuthor
from worker.db.engine import write_transaction
from worker.db.rejections import RejectionCounter

Audit = Callable[..., Result]

CHANGES: list[tuple[str, Any, Any]] = [
    ("tenants.acme.max_batch", 1, 2),
    ("tenants.acme.allow.demo.prefixes", None, ("a/", "b/")),
    ("tenants.acme.allow.demo.shared", False, None),
    ("tenants.acme.quotas.grants.hour.raise", None, {"by": 5}),
]
LATER = MORNING + timedelta(hours=2)


@pytest.fixture
def run(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Audit:
    monkeypatch.setenv("VALETKEY_DATABASE_URL", database_url)
    name = "python -m worker audit"
    return lambda *words: CliRunner().invoke(audit, list(words), prog_name=name)


@pytest.fixture
def log(engine: Engine) -> None:
    with write_transaction(engine) as connection:
        changes.record_changes(connection, CHANGES[:3], ChangeAuthor(MORNING, "alice", "apply"))
        changes.record_changes(connection, CHANGES[3:], ChangeAuthor(LATER, "bob", "quota raise"))
        rows: list[dict[str, Any]] = [
            {"tenant": "acme", "batch": batch_id(1), "key": "billing", "at": MORNING},
            {"tenant": "globex", "batch": batch_id(1), "key": None, "at": LATER},
        ]
        said: dict[str, Any] = {"requested_by": "nightly", "reason": None}
        connection.execute(insert(Cancellation), [said | row for row in rows])
    rejections = RejectionCounter(engine)
    rejections.count(Code.KEY_UNKNOWN, "acme", "one", MORNING)
    rejections.count(Code.KEY_UNKNOWN, "acme", "another", MORNING + timedelta(minutes=1))
    rejections.count(Code.TOKEN_INVALID, None, "nonsense", LATER)


def listed(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.usefixtures("log")
def test_changes_are_listed_newest_first_as_they_were_before_and_after(run: Audit) -> None:
    rows = listed(run("changes", "--json"))
    assert rows[0] == {
        "number": 4,
        "at": "2026-11-24T10:00:00Z",
        "by": "bob",
        "through": "quota raise",
        "path": "tenants.acme.quotas.grants.hour.raise",
        "before": None,
        "after": {"by": 5},
    }
    found = [(row["path"], row["before"], row["after"]) for row in reversed(rows)]
    assert json.loads(json.dumps(CHANGES)) == [list(change) for change in found]


@pytest.mark.usefixtures("log")
def test_a_table_of_changes_has_json_where_a_value_is_no_single_one(run: Audit) -> None:
    table = run("changes").stdout
    assert '["a/", "b/"]' in table
    assert "false" in table


@pytest.mark.usefixtures("log")
def test_pages_of_changes_together_are_the_whole_list_once(run: Audit) -> None:
    words, numbers = ["changes", "--json", "--limit", "3"], []
    while words:
        result = run(*words)
        numbers.append([row["number"] for row in listed(result)])
        words = shlex.split(result.stderr.partition("python -m worker audit ")[2])
    assert numbers == [[4, 3, 2], [1]]
    since = listed(run("changes", "--since", "2026-11-24T10:00", "--json"))
    assert [row["number"] for row in since] == [4]


@pytest.mark.usefixtures("log")
def test_the_database_refuses_to_change_or_remove_what_was_recorded(
    engine: Engine, run: Audit
) -> None:
    for tampering in ("UPDATE changes SET number = 9", "DELETE FROM changes"):
        with (
            pytest.raises(DBAPIError, match="append only"),
            write_transaction(engine) as connection,
        ):
            connection.execute(text(tampering))
    assert len(listed(run("changes", "--json"))) == len(CHANGES)


@pytest.mark.usefixtures("log")
def test_rejections_are_counted_by_hour_tenant_and_code(run: Audit) -> None:
    assert listed(run("rejections", "--json")) == [
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
def test_rejections_are_listed_as_far_as_asked_for(run: Audit) -> None:
    filters = {
        "--tenant acme": ["key_unknown"],
        "--tenant globex": [],
        "--since 2026-11-24T08:59": ["token_invalid", "key_unknown"],  # the hour it is in
        "--since 2026-11-24T09:00": ["token_invalid"],
    }
    found = {
        words: [row["code"] for row in listed(run("rejections", *words.split(), "--json"))]
        for words in filters
    }
    assert found == filters


@pytest.mark.usefixtures("log")
def test_cancellations_name_who_asked_and_the_key_that_signed(run: Audit) -> None:
    rows = listed(run("cancellations", "--json"))
    assert [(row["tenant"], row["signed_by"]) for row in rows] == [
        ("globex", None),
        ("acme", "billing"),
    ]
    assert {(row["batch"], row["requested_by"]) for row in rows} == {(batch_id(1), "nightly")}
    assert [
        [row["tenant"] for row in listed(run("cancellations", *words.split(), "--json"))]
        for words in ("--tenant acme", "--since 2026-11-24T09")
    ] == [["acme"], ["globex"]]


@pytest.mark.usefixtures("log")
def test_it_is_said_where_there_is_more_than_was_asked_for(run: Audit) -> None:
    for command in ("rejections", "cancellations"):
        one, both = (run(command, "--json", "--limit", limit) for limit in ("1", "2"))
        assert (len(listed(one)), len(listed(both))) == (1, 2)
        assert "There is more" in one.stderr
        assert both.stderr == ""
