"""Rewrites trees consistently, as somebody with the database's password and without the key."""

from hashlib import sha256
from typing import Any

from tests.support.audit_log.logs import KEY_NAME
from tests.support.audit_log.stored_tables import Row, StoredTables
from worker.ledger.merkle import RightEdge, encode_record, entry_hash, items_edge
from worker.proof.checkpoint_format import CheckpointText, SignerKey, tree_origin
from worker.proof.verify.stored_rows import BATCH, CHUNK, StoredTable, read_json
from worker.rules.annotations import SaltedTexts
from worker.rules.decisions import GrantRow


def _hashes(db: StoredTables, tenant: str) -> list[bytes]:
    return [bytes(row["hash"]) for row in db.rows("leaves", "tenant = ?", tenant)]


def store_head(db: StoredTables, tenant: str, size: int) -> None:
    """Set the head of a tree to that of its first leaves."""
    edge = RightEdge.of(_hashes(db, tenant)[:size]).to_bytes()
    db.update("tree_heads", {"tenant": tenant}, size=size, edge=edge)


def append_leaf(db: StoredTables, leaf: Row, *, with_head: bool) -> int:
    """Append a copy of a leaf to its tree; return its number."""
    number = len(_hashes(db, leaf["tenant"]))
    db.insert("leaves", leaf | {"leaf_number": number})
    if with_head:
        store_head(db, leaf["tenant"], number + 1)
    return number


def cut_tail(db: StoredTables, tenant: str, kept: int, *, with_checkpoints: bool) -> None:
    """Remove all leaves of a tree but the first ones, with their rows, and mend its head."""
    for leaf in reversed(db.rows("leaves", "tenant = ? AND leaf_number >= ?", tenant, kept)):
        if leaf["kind"] != "fork":  # which has no row
            _delete_rows(db, leaf)
        db.delete("leaves", leaf)
    store_head(db, tenant, kept)
    if with_checkpoints:
        db.execute("DELETE FROM checkpoints WHERE tenant = ? AND size > ?", tenant, kept)


def _delete_rows(db: StoredTables, leaf: Row) -> None:
    number, chunk, reference = leaf["batch_number"], leaf["chunk_number"], leaf["reference"]
    match leaf["kind"]:
        case "config":
            first, last = map(int, reference.split("-"))
            db.execute(
                "DELETE FROM config_changes WHERE change_number BETWEEN ? AND ?", first, last
            )
        case "cancellation":
            db.delete("cancellations", {"tenant": leaf["tenant"], "batch_id": reference})
        case "erasure":
            db.delete("erasures", {"tenant": leaf["tenant"], "erasure_id": reference})
        case "revocation":
            db.delete("revocations", {"tenant": leaf["tenant"], "revocation_id": reference})
        case "use":
            db.execute("DELETE FROM uses WHERE group_id = ?", reference)
        case "settlement":
            db.delete("settlements", {"batch_number": number, "chunk_number": chunk})
        case "prune":
            db.delete("prunes", {"prune_number": int(reference)})
        case "reissue":
            key = {"batch_number": number, "chunk_number": chunk}
            db.delete("reissues", key | {"fingerprint": bytes.fromhex(reference)})
        case kind:
            size = db.rows("batches", "batch_number = ?", number)[0]["chunk_size"]
            db.execute(
                "DELETE FROM grants WHERE batch_number = ? AND item_number BETWEEN ? AND ?",
                *(number, chunk * size, (chunk + 1) * size - 1),
            )
            db.delete("chunks", {"batch_number": number, "chunk_number": chunk})
            if kind == "batch":
                db.delete("batches", {"batch_number": number})


def rebuild_tree(db: StoredTables, batch: Row, item: int, *, with_checkpoints: bool) -> int:
    """Mend the leaf of an item's chunk, and all that follows; return the number of the leaf."""
    chunk = item // batch["chunk_size"]
    leaf = db.rows(
        "leaves",
        "batch_number = ? AND chunk_number = ? AND kind IN ('batch', 'chunk')",
        *(batch["batch_number"], chunk),
    )[0]
    db.update("leaves", leaf, hash=_entry_hash(db, leaf, batch, chunk))
    tenant = leaf["tenant"]
    hashes = _hashes(db, tenant)
    store_head(db, tenant, len(hashes))
    if with_checkpoints:
        forger = SignerKey(KEY_NAME, sha256(b"forged").digest())
        for row in db.rows("checkpoints", "tenant = ?", tenant):
            root = RightEdge.of(hashes[: row["size"]]).root()
            text = CheckpointText(tree_origin(KEY_NAME, tenant), row["size"], root)
            db.update("checkpoints", row, root=root, note=forger.sign(str(text)))
    return int(leaf["leaf_number"])


def _entry_hash(db: StoredTables, leaf: Row, batch: Row, chunk: int) -> bytes:
    number, size = batch["batch_number"], batch["chunk_size"]
    items = db.rows(
        "grants",
        "batch_number = ? AND item_number BETWEEN ? AND ?",
        *(number, chunk * size, (chunk + 1) * size - 1),
    )
    rows = [
        GrantRow(
            row["item_number"],
            row["object_key"],
            row["code"],
            row["detail"] and read_json("detail", row["detail"]),
            row["digest"],
        )
        for row in items
    ]
    annotations = {
        row["item_number"]: SaltedTexts(**{name: row[name] for name in SaltedTexts._fields})
        for row in db.rows("annotations", "batch_number = ?", number)
    }
    values = _values(db, CHUNK, "batch_number = ? AND chunk_number = ?", number, chunk)
    names = {"tenant": batch["tenant"], "batch_id": batch["batch_id"]}
    records = [encode_record("chunk", values, **names)]
    if leaf["kind"] == "batch":
        records.append(encode_record("batch", _values(db, BATCH, "batch_number = ?", number)))
    return entry_hash(records, items_edge(rows, annotations))


def _values(db: StoredTables, table: StoredTable, where: str, *params: Any) -> dict[str, Any]:
    names = table.select("sqlite" if db.is_sqlite else "postgresql")
    return table.read(db.execute(f"SELECT {names} FROM {table.name} WHERE {where}", *params)[0])  # noqa: S608 - names of our own
