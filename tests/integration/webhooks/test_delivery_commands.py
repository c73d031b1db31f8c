from datetime import timedelta
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, insert

from models import Delivery, EndpointState, Manifest
from tests.support.builders.any_row import insert_any
from tests.support.builders.audit_rows import MORNING, AuditedBatch, batch_id
from tests.support.cli.groups import webhooks
from tests.support.cli.operator import json_rows
from valetkey.cli.terminal_text import program_command
from worker.base.database_engine import write_transaction

TIMES = {"next_attempt_at": MORNING, "created_at": MORNING}
DELIVERED = {"batch_number": 1, "tenant": "acme", "endpoint": "billing", **TIMES}
DELIVERED |= {"event": "grants.decided"}
DELIVERED |= {"state": "delivered", "attempts": 1, "status": 204}
RETRIED = {"state": "pending", "attempts": 2, "status": 503, "problem": "answered 503"}
ROWS: list[dict[str, Any]] = [
    {},
    {"state": "failed", "attempts": 12, "status": 410, "problem": "the endpoint is gone"},
    RETRIED | {"next_attempt_at": MORNING + timedelta(minutes=5)},
    {"tenant": "globex", "state": "pending", "attempts": 0, "status": None},
    {"state": "waiting", "event": "batch.completed", "chunk_number": None, "attempts": 0},
    {"endpoint": "spare", "event": "quota.warning", "batch_number": None, "chunk_number": None},
    {"state": "failed", "page": 2, "pages": 3},
]
FILTERS: dict[str, list[int]] = {
    "": [7, 6, 5, 4, 3, 2, 1],
    "--state pending": [4, 3],
    "--state delivered": [6, 1],
    "--state failed": [7, 2],
    "--tenant acme": [7, 6, 5, 3, 2, 1],
    "--tenant acme --state pending": [3],
    "--state waiting": [5],
    "--event quota.warning": [6],
    "--endpoint spare": [6],
    "--after 3": [2, 1],
    "--tenant nobody": [],
}


def run(*words: str, command: str = "list") -> Result:
    name = "python -m worker webhooks"
    return CliRunner().invoke(webhooks, [command, *words], prog_name=name)


@pytest.fixture(autouse=True)
def log(engine: Engine) -> None:
    with write_transaction(engine) as connection:
        AuditedBatch(1, ["acme/1"]).write(connection)
        for number, changes in enumerate(ROWS):
            numbers = {"delivery_number": number + 1, "chunk_number": number}
            connection.execute(insert(Delivery), DELIVERED | numbers | changes)


def test_filters_select_deliveries_newest_first() -> None:
    selected = {
        words: [row["number"] for row in json_rows(run(*words.split(), "--json"))]
        for words in FILTERS
    }
    assert selected == FILTERS


def test_a_pending_delivery_has_its_last_problem_and_next_attempt() -> None:
    (row,) = json_rows(run("--tenant", "acme", "--state", "pending", "--json"))
    times = {"next_attempt_at": "2026-11-24T08:05:00Z", "created_at": "2026-11-24T08:00:00Z"}
    outcome = {"state": "pending", "attempts": 2, "status": 503, "problem": "answered 503"}
    sent = {"tenant": "acme", "endpoint": "billing", "batch": batch_id(1), "chunk": 2}
    others = {"paused_until": None, "event": "grants.decided", "page": None}
    assert row == {"number": 3} | sent | outcome | times | others


def test_a_pending_delivery_to_an_endpoint_that_is_paused_says_until_when(engine: Engine) -> None:
    circuit = {"endpoint": "billing", "open_until": MORNING + timedelta(minutes=1)}
    with write_transaction(engine) as connection:
        connection.execute(insert_any(EndpointState, **circuit))
    rows = json_rows(run("--json"))
    paused = {row["number"]: row["paused_until"] for row in rows if row["paused_until"]}
    assert paused == {3: "2026-11-24T08:01:00Z"}


def test_a_finished_delivery_has_no_next_attempt() -> None:
    rows = json_rows(run("--json"))
    assert [row["number"] for row in rows if row["next_attempt_at"]] == [4, 3]


def test_a_table_ends_with_the_command_for_its_next_page() -> None:
    *_, last = run("--limit", "2").stdout.splitlines()
    command = f"{program_command('python')} -m worker webhooks list --limit 2 --after 6"
    assert last == f"Next page: {command}"
    assert "Next page" not in run("--limit", "7").output


def test_manifests_are_listed_with_their_problem(engine: Engine) -> None:
    failed = {"batch_number": 1, "state": "failed", "problem": "NoSuchBucket"}
    with write_transaction(engine) as connection:
        connection.execute(insert_any(Manifest, **failed))
    listed = {"": 1, "--state failed": 1, "--state pending": 0, "--tenant globex": 0}
    for words, count in listed.items():
        rows = json_rows(run(*words.split(), "--json", command="manifests"))
        problems = [(row["problem"], row["next_attempt_at"]) for row in rows]
        assert problems == [("NoSuchBucket", None)] * count
