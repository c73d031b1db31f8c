"""Changes by somebody who writes to the database, knows the formats, and has no key."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.support.audit_log.logs import GeneratedLog
from tests.support.audit_log.rebuilding import store_head
from tests.support.audit_log.stored_tables import StoredTables
from tests.support.audit_log.trials import copied_file, options_of
from tests.support.cli.groups import audit
from worker.ledger.merkle import encode_record, entry_hash
from worker.proof.verify.verification import VerifyOptions, verify_log

Attack = Callable[[StoredTables], None]
_OF_ACME = "batch_number IN (SELECT batch_number FROM batches WHERE tenant = 'acme')"


def tables_found(log: GeneratedLog, options: VerifyOptions, attack: Attack) -> set[str]:
    with copied_file(log) as url:
        with closing(StoredTables(url)) as db:
            attack(db)
        found = verify_log(url, replace(options, max_problems=100)).problems
        return {problem.table for problem in found}


def forge_removal(db: StoredTables, before: str, pruned_at: str) -> None:
    """Append a removal that took nothing away, with a leaf of its own."""
    moment = datetime.fromisoformat(pruned_at).replace(tzinfo=UTC)
    values = {
        "tenant": "acme",
        "before": before,
        "pruned_by": "x",
        "chunks": 0,
        "items": 0,
        "edges": 0,
        "use_groups": 0,
    }
    record = encode_record("prune", values | {"pruned_at": moment})
    stored = values | {"prune_number": 1, "pruned_at": f"{pruned_at}.000000"}
    size = db.rows("tree_heads", "tenant = 'acme'")[0]["size"]
    leaf = db.rows("leaves", "tenant = 'acme'")[0]
    position = {"batch_number": None, "chunk_number": None, "reference": "1"}
    hashed = {"kind": "prune", "hash": entry_hash([record]), "leaf_number": size}
    db.insert("prunes", stored)
    db.insert("leaves", leaf | position | hashed)
    store_head(db, "acme", size + 1)


def set_a_chunk_back(db: StoredTables) -> None:
    forge_removal(db, "2020-01", "2026-11-27 00:00:00")
    number = db.rows("chunks", _OF_ACME)[0]["batch_number"]
    db.execute("DELETE FROM grants WHERE batch_number = ?", number)
    early = "2019-01-01 00:00:00.000000"
    db.execute("UPDATE chunks SET issued_at = ? WHERE batch_number = ?", early, number)


def remove_a_later_month(db: StoredTables) -> None:
    forge_removal(db, "9999-12", "2026-11-27 00:00:00")
    db.execute(f"DELETE FROM grants WHERE {_OF_ACME}")  # noqa: S608 - a constant


def remove_a_tenant(db: StoredTables) -> None:
    for table in ("grants", "chunks", "reissues"):
        db.execute(f"DELETE FROM {table} WHERE {_OF_ACME}")  # noqa: S608 - constants
    for table in ("batches", "leaves", "tree_heads", "checkpoints", "cancellations", "usage"):
        db.execute(f"DELETE FROM {table} WHERE tenant = 'acme'")  # noqa: S608 - constants
    db.execute("DELETE FROM reservations WHERE tenant = 'acme'")
    db.execute("DELETE FROM tenant_identities WHERE id = 'acme'")


def exchange_names(db: StoredTables) -> None:
    db.execute("UPDATE tenant_identities SET name = 'globex' WHERE id = 'acme'")


def move_to_a_tenant_without_name(db: StoredTables) -> None:
    number = db.rows("batches", "tenant = 'acme'")[0]["batch_number"]
    leaf = db.rows("leaves", "batch_number = ?", number)[0]
    db.insert("leaves", leaf | {"tenant": "", "leaf_number": 0, "batch_number": 10**6})


@pytest.mark.parametrize(
    ("attack", "table"),
    [
        (set_a_chunk_back, "item_edges"),
        (remove_a_later_month, "prunes"),
        (remove_a_tenant, "leaves"),
        (exchange_names, "tenant_identities"),
        (move_to_a_tenant_without_name, "leaves"),
    ],
)
def test_an_attack_is_found(
    log: GeneratedLog, options: VerifyOptions, attack: Attack, table: str
) -> None:
    assert table in tables_found(log, options, attack)


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("batches", "terms", '"\\ud800"'),
        ("batches", "terms", "NaN"),
        ("batches", "terms", "{}"),
        ("chunks", "refusal", '{"\\ud800": 1}'),
        ("chunks", "refusal", "9" * 5000),
        ("chunks", "issued", 2**63 - 1),
        ("grants", "detail", "Infinity"),
        ("config_changes", "before", '"\\ud800"'),
        ("leaves", "reference", b"\xff"),
        ("leaves", "tenant", b"\xff"),
        ("tree_heads", "tenant", b"\xff"),
        ("checkpoints", "tenant", b"\xff"),
        ("usage", "tenant", b"\xff"),
        ("usage", "window", b"\xff"),
        ("reservations", "tenant", b"\xff"),
    ],
)
def test_a_value_that_nothing_can_read_is_reported(
    log: GeneratedLog, options: VerifyOptions, table: str, column: str, value: object
) -> None:
    def attack(db: StoredTables) -> None:
        where = f"(SELECT max({column}) FROM {table})"  # noqa: S608 - constants
        if column != "tenant":
            where = f'{where} OR "{column}" IS NULL'
        db.execute(f'UPDATE OR IGNORE {table} SET "{column}" = ? WHERE "{column}" = {where}', value)  # noqa: S608

    assert tables_found(log, options, attack)


def test_files_of_an_unknown_tenant_are_not_passed_over(
    log: GeneratedLog, options: VerifyOptions, tmp_path: Path
) -> None:
    name = log.signer.name
    note = log.signer.sign(f"{name}/other\n1\n{'A' * 43}=\n")
    (path := tmp_path / "other").write_text(note)
    files = options_of(log, tmp_path).files
    assert path.exists()
    found = verify_log(log.url, replace(options, files=files)).problems
    assert [problem.tenant for problem in found] == ["other"]


def test_the_command_says_that_no_checkpoint_was_compared(log: GeneratedLog) -> None:
    with copied_file(log) as url:
        with closing(StoredTables(url)) as db:
            db.execute("DELETE FROM checkpoints")
        environ = {"VALETKEY_DATABASE_URL": url}
        result = CliRunner().invoke(audit, ["verify"], env=environ)
    assert result.exit_code == 0
    assert "No checkpoint was compared" in result.stderr
