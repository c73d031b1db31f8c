"""A verifier written from docs/reference/record.md alone agrees with the logs and proofs."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import select

from models import Annotation, Base, Batch, Checkpoint, Grant
from tests.support.audit_log.logs import TENANTS, GeneratedLog, generate_log
from tests.support.audit_log.stored_tables import StoredTables
from tests.support.audit_log.trials import copied_file
from tests.support.crypto.audit_proofs import changed_proofs
from tests.support.docs.record_verifier import KEYS, verify_database, verify_proof
from tests.support.servers.databases import migrated_file
from worker.base.database_engine import create_database_engine, read_transaction, sqlite_path
from worker.proof.prove_command import prove_consistency, prove_grant


@pytest.fixture(scope="module")
def pruned_log(tmp_path_factory: pytest.TempPathFactory) -> GeneratedLog:
    path = tmp_path_factory.mktemp("log") / "log.db"
    return generate_log(migrated_file(path), seed=1, is_pruned=True)


@pytest.fixture
def url(pruned_log: GeneratedLog) -> Iterator[str]:
    with copied_file(pruned_log) as copy:
        yield copy


def problems(log: GeneratedLog, url: str) -> list[str]:
    path = sqlite_path(url)
    assert path is not None
    return verify_database(str(path), str(log.signer.verifier))


@pytest.mark.parametrize("name", ["log", "pruned_log"])
def test_a_log_verifies_as_the_page_says(request: pytest.FixtureRequest, name: str) -> None:
    log = request.getfixturevalue(name)
    assert problems(log, log.url) == []


COLUMNS = (
    *("batches.recipient", "batches.terms", "batches.chunk_size", "batches.reason_salt"),
    *("chunks.refused", "chunks.issued_at", "grants.object_key", "grants.digest", "grants.detail"),
    *("annotations.ref", "annotations.recipient_salt", "annotations.item_number"),
    *("item_edges.edge", "reissues.digests", "settlements.used_bytes", "settlements.settled_at"),
    *("cancellations.requested_by", "uses.verdict", "uses.group_id", "uses.tenant"),
    *("revocations.revoked_by", "erasures.texts", "prunes.before", "prunes.items"),
    *("config_changes.after", "leaves.hash", "leaves.reference", "leaves.kind"),
    *("tree_heads.edge", "tree_heads.size", "checkpoints.root", "checkpoints.note"),
)


def changed(value: Any) -> Any:
    if isinstance(value, int):
        return value + 1
    return bytes([value[0] ^ 1]) + value[1:] if isinstance(value, bytes) else f"{value}0"


@pytest.mark.parametrize("place", COLUMNS)
def test_a_changed_value_is_found(pruned_log: GeneratedLog, url: str, place: str) -> None:
    table, column = place.split(".")
    with closing(StoredTables(url)) as tables:
        row = next(row for row in tables.rows(table) if row[column] is not None)
        tables.update(table, row, **{column: changed(row[column])})
    assert problems(pruned_log, url)


def test_all_covered_tables_have_a_changed_value() -> None:
    assert {place.split(".")[0] for place in COLUMNS} == set(KEYS)


SPELLINGS: dict[str, Callable[[str], str]] = {
    "a name twice": lambda text: re.sub(r'^\{("\w+": )', r'{\1"other", \1', text),
    "no blanks": lambda text: json.dumps(json.loads(text), separators=(",", ":")),
    "null": lambda _text: "null",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_json_in_another_spelling_is_found(
    pruned_log: GeneratedLog, url: str, spelling: str
) -> None:
    with closing(StoredTables(url)) as tables:
        row = tables.rows("batches")[0]
        text = SPELLINGS[spelling](row["terms"])
        assert text != row["terms"]
        tables.update("batches", row, terms=text)
    assert problems(pruned_log, url)


def test_text_that_was_moved_into_its_salt_is_found(pruned_log: GeneratedLog, url: str) -> None:
    with closing(StoredTables(url)) as tables:
        row = next(row for row in tables.rows("batches") if row["requested_by"] is not None)
        salt, text = row["requested_by_salt"], row["requested_by"]
        moved = {"requested_by_salt": salt + text[:1].encode(), "requested_by": text[1:]}
        tables.update("batches", row, **moved)
    assert problems(pruned_log, url)


def test_another_number_of_a_batch_in_all_tables_changes_nothing_that_a_record_says(
    pruned_log: GeneratedLog, url: str
) -> None:
    names = [name for name in KEYS if "batch_number" in Base.metadata.tables[name].columns]
    with closing(StoredTables(url)) as tables:
        tables.execute("PRAGMA foreign_keys = OFF")
        for name in names:
            tables.execute(
                f"UPDATE {name} SET batch_number = batch_number + 1000"  # noqa: S608 - names of tables
            )
    assert problems(pruned_log, url) == []


def test_the_texts_of_pruned_items_may_still_be_there(pruned_log: GeneratedLog, url: str) -> None:
    """A prune deletes them after the items."""
    with closing(StoredTables(url)) as tables:
        row = tables.rows("annotations")[0]
        edge = tables.rows("item_edges")[0]
        (batch,) = tables.rows("batches", "batch_number = ?", edge["batch_number"])
        first = edge["chunk_number"] * batch["chunk_size"]
        item = {"batch_number": batch["batch_number"], "item_number": first}
        tables.insert("annotations", row | item)
    assert problems(pruned_log, url) == []


def proofs(log: GeneratedLog, limit: int) -> list[dict[str, Any]]:
    """Return proofs of single grants, some of which have texts, and of the growth of all trees."""
    items = (
        select(Batch.batch_id, Grant.item_number, Batch.tenant)
        .join(Grant, Grant.batch_number == Batch.batch_number)
        .outerjoin(
            Annotation,
            (Annotation.batch_number == Grant.batch_number)
            & (Annotation.item_number == Grant.item_number),
        )
        .order_by(Annotation.ref.is_(None), Grant.batch_number, Grant.item_number)
        .limit(limit)
    )
    engine = create_database_engine(log.url)
    try:
        with read_transaction(engine) as connection:
            rows = connection.execute(items).all()
            notes = connection.scalars(
                select(Checkpoint.note).where(Checkpoint.tenant.in_(TENANTS))
            )
            return [
                *(prove_grant(connection, id_, number, [tenant]) for id_, number, tenant in rows),
                *(prove_consistency(connection, note) for note in notes.all()),
            ]
    finally:
        engine.dispose()


def test_the_proofs_of_the_service_are_right(log: GeneratedLog) -> None:
    all_proofs = proofs(log, 1000)
    assert {len(proof["leaves"]) for proof in all_proofs if "leaves" in proof} == {1, 2}
    for proof in all_proofs:
        types = {record.get("type") for record in verify_proof(proof, [str(log.signer.verifier)])}
        assert types == ({None, "chunk", "batch"} if "leaves" in proof else set())


def test_a_proof_with_a_changed_value_is_wrong(log: GeneratedLog) -> None:
    first, *_, last = proofs(log, 1)
    for place, proof in [*changed_proofs(first), *changed_proofs(last)]:
        try:
            verify_proof(proof, [str(log.signer.verifier)])
        except ValueError:
            continue
        pytest.fail(f"another {place} is accepted")
