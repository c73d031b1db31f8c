"""`audit erase` and `audit erasures`: texts leave the log, and everything else stays."""

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, insert, text

from models import Annotation, Batch, Cancellation, Erasure
from tests.support.builders.messages import POLICY, batch_id, grant_message, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.cli.operator import ON_SQLITE, Run, json_rows, run_audit
from worker.audit.text_conditions import ERASED
from worker.base.database_engine import write_transaction
from worker.rules.tenant_config import Quota, Tenant

ANN = "ann@example.com"
TEXTS = {"recipient": ANN, "reason": "case 4711", "ref": "mail-17"}
OTHERS = {"recipient": "bob", "reason": "case 9", "ref": "mail-18"}
GLOBEX_POLICY = replace(POLICY, prefixes=("globex/",))
TENANT = Tenant("acme", "queue", policies={"demo": POLICY})
GLOBEX = Tenant("globex", "queue", policies={"demo": GLOBEX_POLICY})


@pytest.fixture
def log(service: InProcessService) -> InProcessService:
    """A batch with texts of two items, one for a single recipient, and a cancellation."""
    service.apply(tenant_config(Quota("grants", "day", 10)))
    request = grant_message(["acme/a", "acme/b"])
    request["items"] = [{"key": "acme/a"} | TEXTS, {"key": "acme/b"} | OTHERS]
    service.issue(request)
    service.issue(grant_message(["acme/c"], recipient="Ann@Example.com", requested_by="carl"))
    service.cancel(service.rows(Batch.batch_id)[0].batch_id, requested_by="Carl", reason="typo")
    return service


@pytest.fixture
def run(log: InProcessService) -> Run:  # noqa: ARG001 - fills the database
    return run_audit


def annotations(log: InProcessService) -> list[tuple[str | None, ...]]:
    return [tuple(row) for row in log.rows(Annotation.recipient, Annotation.reason, Annotation.ref)]


def is_sound(run: Run) -> bool:
    result = run("verify", "--json")
    assert result.exit_code in {0, 1}, result.output
    return result.exit_code == 0


def test_a_recipient_is_erased_with_reason_and_reference_in_any_case(
    run: Run, log: InProcessService
) -> None:
    result = run("erase", "--recipient", "ANN@example.com", "--yes", "5")
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "Erased 5 texts.")
    assert annotations(log) == [(None, None, None), tuple(OTHERS.values())]
    assert log.rows(Batch.recipient, Batch.reason)[1] == (None, None)


def test_what_was_erased_is_listed_as_erased_and_found_no_more(run: Run) -> None:
    run("erase", "--recipient", ANN, "--yes", "5")
    run("erase", "--requested-by", "carl", "--yes", "4")
    rows = {row["key"]: row for row in json_rows(run("list", "--json"))}
    assert {key: row["recipient"] for key, row in rows.items()} == {
        "acme/a": ERASED,
        "acme/b": "bob",
        "acme/c": ERASED,
    }
    assert (rows["acme/a"]["ref"], rows["acme/c"]["requested_by"]) == (ERASED, ERASED)
    assert json_rows(run("list", "--recipient", ANN, "--json")) == []
    (cancelled,) = json_rows(run("cancellations", "--json"))
    assert (cancelled["requested_by"], cancelled["reason"]) == (ERASED, ERASED)


def test_a_requester_is_erased_from_batches_and_cancellations(
    run: Run, log: InProcessService
) -> None:
    assert run("erase", "--requested-by", "carl", "--yes", "4").exit_code == 0
    assert log.rows(Batch.requested_by, Batch.reason)[1] == (None, None)
    assert log.rows(Cancellation.requested_by, Cancellation.reason) == [(None, None)]
    assert log.rows(Batch.requested_by)[0] == ("billing-nightly",)


def test_a_grant_of_a_batch_of_several_loses_only_its_own_texts(
    run: Run, log: InProcessService
) -> None:
    batch = log.rows(Batch.batch_id)[0].batch_id
    assert run("erase", "--grant", f"{batch}.1", "--yes", "3").exit_code == 0
    assert annotations(log) == [tuple(TEXTS.values()), (None, None, None)]
    assert log.rows(Batch.requested_by)[0] == ("billing-nightly",)


def test_a_grant_that_is_a_whole_batch_loses_the_texts_of_the_batch(
    run: Run, log: InProcessService
) -> None:
    batch = log.rows(Batch.batch_id)[1].batch_id
    assert run("erase", "--grant", f"{batch}.0", "--yes", "3").exit_code == 0
    assert log.rows(Batch.requested_by, Batch.reason, Batch.recipient)[1] == (None, None, None)


def test_the_ref_of_an_item_goes_with_the_recipient_of_its_batch(
    run: Run, log: InProcessService
) -> None:
    request = grant_message(["acme/d"], recipient="dora")
    request["items"][0]["ref"] = "mail-19"
    log.issue(request)
    assert run("erase", "--recipient", "dora", "--yes", "3").exit_code == 0
    assert annotations(log)[-1] == (None, None, None)


@pytest.mark.parametrize("number", [1, 7])
def test_a_grant_that_a_batch_does_not_have_is_not_erased(
    run: Run, log: InProcessService, number: int
) -> None:
    batch = log.rows(Batch.batch_id)[1].batch_id
    assert run("erase", "--grant", f"{batch}.{number}", "--yes", "9").exit_code == 1


def test_a_grant_of_two_tenants_has_to_be_named_with_its_tenant(
    run: Run, log: InProcessService
) -> None:
    log.apply(replace(tenant_config(), tenants={"acme": TENANT, "globex": GLOBEX}))
    request = grant_message(
        ["globex/a"], tenant="globex", batch=log.rows(Batch.batch_id)[1].batch_id
    )
    log.issue(request)
    grant = f"{request['batch']}.0"
    result = run("erase", "--grant", grant, "--yes", "9")
    assert (result.exit_code, "several tenants" in result.stderr) == (2, True)
    assert run("erase", "--grant", f"globex/{grant}", "--yes", "2").exit_code == 0


def test_a_grant_that_is_issued_again_has_no_text_that_was_erased(
    run: Run, log: InProcessService
) -> None:
    request = grant_message(["acme/d"], recipient="of the batch")
    request["items"][0] |= {"recipient": "dora", "ref": "mail-19"}
    (grant,) = log.issue(request)["items"]
    run("erase", "--recipient", "dora", "--yes", "2")
    header = {"v": 1, "ask": "reissue", "tenant": "acme", "requested_by": "support"}
    (fresh,) = log.issue(header | {"batch": batch_id(), "of": grant["id"]})["items"]
    assert "ref" not in fresh
    assert log.rows(Batch.recipient)[-1] == (None,)


def test_the_log_verifies_after_an_erasure(run: Run) -> None:
    assert is_sound(run)
    run("erase", "--recipient", ANN, "--yes", "5")
    assert is_sound(run)


def test_the_erasure_is_recorded_without_what_was_erased(run: Run, log: InProcessService) -> None:
    run("erase", "--recipient", ANN, "--reason", "case 12", "--yes", "5")
    (row,) = log.rows(Erasure)
    assert (row.tenant, row.texts, row.reason) == ("acme", 5, "case 12")
    (listed,) = json_rows(run("erasures", "--json"))
    assert (listed["erasure"], listed["texts"]) == (row.erasure_id, 5)


@ON_SQLITE  # PostgreSQL removes old rows when it vacuums a table
def test_nothing_of_an_erased_text_is_left_in_the_database(run: Run, log: InProcessService) -> None:
    run("erase", "--recipient", ANN, "--yes", "5")
    path = Path(str(log.engine.url.database))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert b"ann@" not in b"".join(p.read_bytes() for p in path.parent.glob("*")).lower()


def test_a_request_that_arrives_again_after_its_erasure_is_a_conflict(
    run: Run, log: InProcessService
) -> None:
    request = grant_message(["acme/d"], recipient="dora")
    log.issue(request)
    run("erase", "--recipient", "dora", "--yes", "2")
    assert log.refusal_code(request) == "batch_conflict"


@pytest.mark.parametrize(
    ("words", "exit_code", "sentence"),
    [
        pytest.param([], 2, "give one of --recipient", id="without a target"),
        pytest.param(["--recipient", ANN, "--requested-by", "x"], 2, "give one of", id="with two"),
        pytest.param(["--recipient", "nobody", "--yes", "1"], 1, "No text matches", id="nothing"),
        pytest.param(["--recipient", ANN, "--yes", "4"], 1, "more than 4", id="more"),
        pytest.param(["--recipient", ANN], 1, "give --yes 5", id="nobody to ask"),
        pytest.param(["--recipient", ANN, "--yes", "0"], 2, "--yes", id="expecting none"),
        pytest.param(
            ["--recipient", ANN, "--reason", "a\nb", "--yes", "5"], 2, "one line", id="reason"
        ),
        pytest.param(["--recipient", ANN, "--tenant", "nobody"], 2, "nobody", id="no such tenant"),
    ],
)
def test_erasing_is_refused(
    run: Run, log: InProcessService, words: list[str], exit_code: int, sentence: str
) -> None:
    result = run("erase", *words)
    assert (result.exit_code, sentence in result.stderr) == (exit_code, True), result.stderr
    assert annotations(log)[0] == tuple(TEXTS.values())
    assert log.rows(Erasure) == []


def test_a_dry_run_erases_nothing(run: Run, log: InProcessService) -> None:
    result = run("erase", "--recipient", ANN, "--dry-run")
    assert (result.exit_code, "dry run" in result.stdout) == (0, True)
    assert annotations(log)[0] == tuple(TEXTS.values())


def test_a_restored_backup_is_erased_again_by_the_export(
    run: Run, log: InProcessService, tmp_path: Path
) -> None:
    kept = [dict(row._mapping) for row in log.rows(Annotation)]
    run("erase", "--recipient", ANN, "--yes", "5")
    exported = run("erasures", "--export").stdout
    assert "case 4711" not in exported
    _restore(log, kept)
    file = tmp_path / "erased.jsonl"
    file.write_text(exported)
    assert run("erase", "--from", str(file), "--yes", "3").exit_code == 0
    assert annotations(log)[0] == (None, None, None)
    assert is_sound(run)
    again = run("erase", "--from", str(file), "--yes", "3")
    assert (again.exit_code, "No text matches" in again.stderr) == (1, True)


def _restore(log: InProcessService, rows: list[dict[str, Any]]) -> None:
    """Bring back the annotations of before, as a restored backup has them."""
    is_sqlite = log.engine.dialect.name == "sqlite"
    with write_transaction(log.engine) as connection:
        if is_sqlite:
            for name in ("update", "delete", "only_erases"):
                connection.execute(text(f"DROP TRIGGER IF EXISTS annotations_no_{name}"))
            connection.execute(text("DROP TRIGGER annotations_only_erases"))
        else:
            connection.execute(text("ALTER TABLE annotations DISABLE TRIGGER ALL"))
        connection.execute(delete(Annotation))
        connection.execute(insert(Annotation), rows)


def test_a_file_erases_only_texts_of_the_tenant_that_is_named(
    run: Run, log: InProcessService, tmp_path: Path
) -> None:
    log.apply(replace(tenant_config(), tenants={"acme": TENANT, "globex": GLOBEX}))
    batch = log.rows(Batch.batch_id)[0].batch_id
    row = {"table": "item", "tenant": "acme", "batch_id": batch, "item_number": 0}
    file = tmp_path / "erased.jsonl"
    file.write_text(json.dumps(row | {"columns": ["ref"]}))
    result = run("erase", "--from", str(file), "--tenant", "globex", "--yes", "5")
    assert (result.exit_code, annotations(log)[0][2]) == (1, "mail-17")


def test_a_grant_that_was_issued_again_is_erased_with_the_first_one(
    run: Run, log: InProcessService
) -> None:
    request = grant_message(["acme/d"])
    request["items"][0] |= TEXTS
    (grant,) = log.issue(request)["items"]
    header = {"v": 1, "ask": "reissue", "tenant": "acme", "requested_by": "support"}
    log.issue(header | {"batch": batch_id(), "of": grant["id"]})
    assert run("erase", "--grant", grant["id"], "--yes", "9").exit_code == 0
    assert log.rows(Batch.recipient, Batch.reason)[-1] == (None, None)
    assert annotations(log)[-2:] == [(None, None, None)] * 2


def test_an_open_batch_is_named_before_its_texts_are_erased(
    run: Run, log: InProcessService
) -> None:
    request = grant_message(["acme/d", "acme/e"], recipient="dora", chunk_size=1)
    log.issue(request | {"items": request["items"][:1]})
    result = run("erase", "--recipient", "dora", "--dry-run")
    assert "1 of these batches are still open" in result.stderr


@pytest.mark.parametrize(
    "change",
    [
        {"columns": ["digest"]},
        {"columns": "ref"},
        {"batch_id": ["x"]},
        {"item_number": "0"},
        {"item_number": None},
        {"tenant": 7},
        {"more": 1},
    ],
)
def test_a_line_with_other_values_is_refused(
    run: Run, tmp_path: Path, change: dict[str, Any]
) -> None:
    row = {"table": "item", "tenant": "acme", "batch_id": "x", "item_number": 0, "columns": ["ref"]}
    file = tmp_path / "wrong.jsonl"
    file.write_text(json.dumps(row | change))
    result = run("erase", "--from", str(file), "--yes", "5")
    assert (result.exit_code, "line 1" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    "line", ["", "{}", "[]", "no JSON", json.dumps({"table": "grants", "columns": []})]
)
def test_a_file_that_erasures_did_not_write_is_refused(run: Run, tmp_path: Path, line: str) -> None:
    file = tmp_path / "wrong.jsonl"
    file.write_text(line + "\n")
    result = run("erase", "--from", str(file), "--yes", "5")
    assert (result.exit_code, "line 1" in result.stderr) == (2, True)
