"""Rows that are removed, added and exchanged."""

import random

from tests.support.audit_log.places import (
    ROW_TABLES,
    Mutation,
    NotPossible,
    Place,
    batch_of,
    pick,
    place_of,
    place_of_leaf,
)
from tests.support.audit_log.rebuilding import append_leaf
from tests.support.audit_log.stored_tables import Row, StoredTables


def delete_row(table: str) -> Mutation:
    def mutate(db: StoredTables, rng: random.Random) -> Place:
        row = pick(db, rng, table)
        place = place_of(db, table, row)
        db.delete(table, row)
        return place._replace(tables=(*place.tables, "leaves"))

    return mutate


def delete_chunk(db: StoredTables, rng: random.Random) -> Place:
    """Delete a chunk with its items."""
    chunk = pick(db, rng, "chunks")
    batch, place = batch_of(db, chunk), place_of(db, "chunks", chunk)
    first = chunk["chunk_number"] * batch["chunk_size"]
    for row in db.rows("grants", "batch_number = ?", chunk["batch_number"]):
        if first <= row["item_number"] < first + batch["chunk_size"]:
            db.delete("grants", row)
    db.delete("chunks", chunk)
    return place


def insert_item(db: StoredTables, rng: random.Random) -> Place:
    """Add an item, after those of its chunk or outside of any chunk."""
    row = pick(db, rng, "grants")
    place = place_of(db, "grants", row)
    last = max(
        each["item_number"] for each in db.rows("grants", "batch_number = ?", row["batch_number"])
    )
    number = last + rng.choice([1, 2, 1000])
    db.insert("grants", row | {"item_number": number})
    return place


def insert_batch(db: StoredTables, rng: random.Random) -> Place:
    """Add a batch with a chunk and its item, and no leaf."""
    batch = pick(db, rng, "batches")
    number = max(row["batch_number"] for row in db.rows("batches")) + 1
    chunk = db.rows("chunks", "batch_number = ?", batch["batch_number"])[0]
    items = db.rows("grants", "batch_number = ?", batch["batch_number"])
    if not items:  # they are pruned
        raise NotPossible
    item = items[0]
    id_ = f"{batch['batch_id'][:-1]}x"
    counts = {"issued": int(item["code"] is None), "refused": int(item["code"] is not None)}
    db.insert("batches", batch | {"batch_number": number, "batch_id": id_, "total": 1})
    db.insert("chunks", chunk | {"batch_number": number, **counts})
    db.insert("grants", item | {"batch_number": number})
    return Place(ROW_TABLES, (batch["tenant"],), (id_,))


def insert_row(table: str) -> Mutation:
    """Add a row without a leaf: a use to a group that has one."""

    def mutate(db: StoredTables, rng: random.Random) -> Place:
        row = pick(db, rng, table)
        keys: dict[str, Row] = {
            "cancellations": {"batch_id": "01932000-0000-7000-8000-000000000000"},
            "reissues": {"fingerprint": rng.randbytes(32)},
            "config_changes": {"change_number": 1_000},
            "revocations": {"revocation_id": "01932000-0000-7000-8000-000000000000"},
            "uses": {"fingerprint": rng.randbytes(32)},
            "settlements": {"chunk_number": row.get("chunk_number", 0) + 1},
        }
        place = place_of(db, table, row)
        db.insert(table, row | keys[table])
        if table == "settlements":  # its chunk may not be there
            place = place._replace(tables=(table, "chunks"))
        return place._replace(batches=() if table == "cancellations" else place.batches)

    return mutate


def insert_leaf(*, with_head: bool) -> Mutation:
    """Add a second leaf for a chunk, as a part of the tree or not."""

    def mutate(db: StoredTables, rng: random.Random) -> Place:
        leaf = pick(db, rng, "leaves", "kind IN ('batch', 'chunk', 'cancellation')")
        place = place_of_leaf(db, leaf)
        number = append_leaf(db, leaf, with_head=with_head)
        return place._replace(leaves=(*place.leaves, number))

    return mutate


def _swap(db: StoredTables, table: str, rows: tuple[Row, Row], columns: tuple[str, ...]) -> None:
    first, second = rows
    if all(first[column] == second[column] for column in columns):
        raise NotPossible
    db.update(table, first, **{column: second[column] for column in columns})
    db.update(table, second, **{column: first[column] for column in columns})


def swap_items(db: StoredTables, rng: random.Random) -> Place:
    row = pick(db, rng, "grants")
    others = [
        other
        for other in db.rows("grants", "batch_number = ?", row["batch_number"])
        if other["item_number"] != row["item_number"]
    ]
    if not others:
        raise NotPossible
    place = place_of(db, "grants", row)
    _swap(db, "grants", (row, rng.choice(others)), ("object_key", "code", "detail", "digest"))
    return place


def swap_leaves(db: StoredTables, rng: random.Random) -> Place:
    leaf = pick(db, rng, "leaves")
    others = [
        other
        for other in db.rows("leaves", "tenant = ?", leaf["tenant"])
        if other["leaf_number"] != leaf["leaf_number"]
    ]
    if not others:
        raise NotPossible
    other = rng.choice(others)
    first, second = place_of_leaf(db, leaf), place_of_leaf(db, other)
    _swap(
        db, "leaves", (leaf, other), ("kind", "batch_number", "chunk_number", "reference", "hash")
    )
    batches = first.batches + second.batches
    if "prune" in {leaf["kind"], other["kind"]}:
        batches = ()  # items of any batch are missing then, and no later leaf says why
    return first._replace(batches=batches, leaves=first.leaves + second.leaves)


def swap_tenants(table: str) -> Mutation:
    """Move a batch or a leaf to the place of another tenant's, and that one to its place."""

    def mutate(db: StoredTables, rng: random.Random) -> Place:
        row = pick(db, rng, table)
        others = db.rows(table, "tenant <> ?", row["tenant"])
        if not others:
            raise NotPossible
        other = rng.choice(others)
        first, second = place_of(db, table, row), place_of(db, table, other)
        columns: tuple[str, ...] = ("tenant",)
        if table == "leaves":
            columns = ("kind", "batch_number", "chunk_number", "reference", "hash")
        _swap(db, table, (row, other), columns)
        return Place(
            (*first.tables, *second.tables),
            (*first.tenants, *second.tenants),
            first.batches + second.batches,
            first.leaves + second.leaves,
        )

    return mutate
