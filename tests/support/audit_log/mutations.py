"""Seeded changes of a stored audit log, each with the place at which it has to be found."""

import json
import random
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from tests.support.audit_log.rebuilding import append_leaf, cut_tail, rebuild_tree, store_head
from tests.support.audit_log.stored_tables import JSON, KEYS, Row, StoredTables
from worker.core.tree.records import CONFIG_LOG
from worker.usecases.audit.problems import Problem

ROW_TABLES = ("batches", "chunks", "grants")


class NotPossible(Exception):
    """This log has nothing to which the change can be made."""


class Place(NamedTuple):
    """Where a problem may be named: in one of these tables, and of these tenants and batches.

    A problem that names leaves has to include one of the given ones. tenants of None are those of
    rows without a batch.
    """

    tables: tuple[str, ...]
    tenants: tuple[str | None, ...]
    batches: tuple[str, ...] = ()
    leaves: tuple[int, ...] = ()

    def includes(self, problem: Problem) -> bool:
        if problem.table not in self.tables:
            return False
        if problem.leaf is not None and problem.leaf in self.leaves:
            return True
        if problem.tenant not in self.tenants:
            return False
        if problem.batch is not None and self.batches:
            return problem.batch in self.batches
        if problem.table == "leaves" and problem.number is not None and self.leaves:
            last = problem.number if problem.last_number is None else problem.last_number
            return any(problem.number <= leaf <= last for leaf in self.leaves)
        return True


Mutation = Callable[[StoredTables, random.Random], Place]


def _pick(db: StoredTables, rng: random.Random, table: str, where: str = "1 = 1") -> Row:
    rows = db.rows(table, where)
    if not rows:
        raise NotPossible
    return rng.choice(rows)


def _batch_of(db: StoredTables, row: Row) -> Row:
    return db.rows("batches", "batch_number = ?", row["batch_number"])[0]


def _leaves_of(db: StoredTables, row: Row) -> tuple[int, ...]:
    rows = db.rows("leaves", "batch_number = ?", row["batch_number"])
    return tuple(leaf["leaf_number"] for leaf in rows)


def _place(db: StoredTables, table: str, row: Row) -> Place:
    """Return the place of a row before it is changed."""
    if table in {"batches", "chunks", "grants", "reissues"}:
        batch = _batch_of(db, row)
        tables = (*ROW_TABLES, "reissues") if table != "reissues" else ("reissues",)
        tenants = (batch["tenant"], None)
        return Place(tables, tenants, (batch["batch_id"],), _leaves_of(db, row))
    if table == "cancellations":
        return Place((table,), (row["tenant"],), (row["batch_id"],))
    if table == "config_changes":
        return Place((table, "leaves"), (None, CONFIG_LOG))
    if table == "leaves":
        return _place_of_leaf(db, row)
    tables = (table, "leaves") if table == "tree_heads" else (table,)
    return Place(tables, (row["tenant"],))


def _place_of_leaf(db: StoredTables, leaf: Row) -> Place:
    batches: tuple[str, ...] = ()
    if leaf["batch_number"] is not None:
        batches = (_batch_of(db, leaf)["batch_id"],)
    elif leaf["kind"] == "cancellation":
        batches = (leaf["reference"],)
    tables = ("leaves", *ROW_TABLES, "reissues", "cancellations", "config_changes")
    return Place(tables, (leaf["tenant"], None), batches, (leaf["leaf_number"],))


# Bits of values -------------------------------------------------------------------------------


def flip_bit(table: str) -> Mutation:
    def mutate(db: StoredTables, rng: random.Random) -> Place:
        row = _pick(db, rng, table)
        columns = [name for name in row if name not in _UNSIGNED.get(table, ())]
        column = rng.choice(columns)
        place = _place(db, table, row)
        value = _flipped(db, rng, column, row[column])
        db.update(table, row, **{column: value})
        return _with_new_key(place, table, row | {column: value})

    return mutate


# The time at which a checkpoint was signed is in no signature. `month` repeats the chunk's time.
_UNSIGNED: Mapping[str, tuple[str, ...]] = {"checkpoints": ("signed_at",), "grants": ("month",)}


def _flipped(db: StoredTables, rng: random.Random, column: str, value: Any) -> Any:
    match value:
        case None:
            if column in JSON:
                return '{"a": 1}'
            is_number = column in {"batch_number", "chunk_number"}
            return 1 if is_number else bytes(32) if column == "digest" else "x"
        case int():
            return value ^ (1 << rng.randrange(20))
        case bytes():
            if not value:
                return b"x"
            data = bytearray(value)
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            return bytes(data)
        case str():
            characters = list(value or " ")
            index = rng.randrange(len(characters))
            characters[index] = chr(ord(characters[index]) ^ (1 << rng.randrange(5)))
            return "".join(characters)
        case datetime():
            return value + timedelta(microseconds=1 << rng.randrange(30))
    raise NotPossible


def _with_new_key(place: Place, table: str, row: Row) -> Place:
    """Add the place at which the changed row is now."""
    tenants = (*place.tenants, row["tenant"]) if "tenant" in row else place.tenants
    batches = (*place.batches, row["batch_id"]) if "batch_id" in row else place.batches
    tables, leaves = place.tables, place.leaves
    if table in {"batches", "chunks", "grants", "reissues"}:
        tables, batches = (*tables, "leaves"), () if "batch_number" in KEYS[table] else batches
    return Place(tables, tenants, batches, leaves)


def respell_json(db: StoredTables, rng: random.Random) -> Place:
    table, column = rng.choice([("batches", "terms"), ("grants", "detail")])
    row = _pick(db, rng, table, f"{column} IS NOT NULL")
    place = _place(db, table, row)
    text = json.dumps(json.loads(row[column]), separators=(",", ":"))
    if text == row[column]:
        raise NotPossible
    db.update(table, row, **{column: text})
    return place


# Rows ------------------------------------------------------------------------------------------


def delete_row(table: str) -> Mutation:
    def mutate(db: StoredTables, rng: random.Random) -> Place:
        row = _pick(db, rng, table)
        place = _place(db, table, row)
        db.delete(table, row)
        return place._replace(tables=(*place.tables, "leaves"))

    return mutate


def delete_chunk(db: StoredTables, rng: random.Random) -> Place:
    """Delete a chunk with its items."""
    chunk = _pick(db, rng, "chunks")
    batch, place = _batch_of(db, chunk), _place(db, "chunks", chunk)
    first = chunk["chunk_number"] * batch["chunk_size"]
    for row in db.rows("grants", "batch_number = ?", chunk["batch_number"]):
        if first <= row["item_number"] < first + batch["chunk_size"]:
            db.delete("grants", row)
    db.delete("chunks", chunk)
    return place


def insert_item(db: StoredTables, rng: random.Random) -> Place:
    """Add an item, after those of its chunk or outside of any chunk."""
    row = _pick(db, rng, "grants")
    place = _place(db, "grants", row)
    last = max(
        each["item_number"] for each in db.rows("grants", "batch_number = ?", row["batch_number"])
    )
    number = last + rng.choice([1, 2, 1000])
    db.insert("grants", row | {"item_number": number})
    return place


def insert_batch(db: StoredTables, rng: random.Random) -> Place:
    """Add a batch with a chunk and its item, and no leaf."""
    batch = _pick(db, rng, "batches")
    number = max(row["batch_number"] for row in db.rows("batches")) + 1
    chunk = db.rows("chunks", "batch_number = ?", batch["batch_number"])[0]
    item = db.rows("grants", "batch_number = ?", batch["batch_number"])[0]
    id_ = f"{batch['batch_id'][:-1]}x"
    counts = {"issued": int(item["code"] is None), "refused": int(item["code"] is not None)}
    db.insert("batches", batch | {"batch_number": number, "batch_id": id_, "total": 1})
    db.insert("chunks", chunk | {"batch_number": number, **counts})
    db.insert("grants", item | {"batch_number": number})
    return Place(ROW_TABLES, (batch["tenant"],), (id_,))


def insert_row(table: str) -> Mutation:
    """Add a cancellation, a reissue or a change without a leaf."""

    def mutate(db: StoredTables, rng: random.Random) -> Place:
        row = _pick(db, rng, table)
        key = {
            "cancellations": {"batch_id": "01932000-0000-7000-8000-000000000000"},
            "reissues": {"fingerprint": rng.randbytes(32)},
            "config_changes": {"change_number": 1_000},
        }[table]
        place = _place(db, table, row)
        db.insert(table, row | key)
        return place._replace(batches=() if table == "cancellations" else place.batches)

    return mutate


def insert_leaf(*, with_head: bool) -> Mutation:
    """Add a second leaf for a chunk, as a part of the tree or not."""

    def mutate(db: StoredTables, rng: random.Random) -> Place:
        leaf = _pick(db, rng, "leaves", "kind IN ('batch', 'chunk', 'cancellation')")
        place = _place_of_leaf(db, leaf)
        number = append_leaf(db, leaf, with_head=with_head)
        return place._replace(leaves=(*place.leaves, number))

    return mutate


# Order -----------------------------------------------------------------------------------------


def _swap(db: StoredTables, table: str, rows: tuple[Row, Row], columns: tuple[str, ...]) -> None:
    first, second = rows
    if all(first[column] == second[column] for column in columns):
        raise NotPossible
    db.update(table, first, **{column: second[column] for column in columns})
    db.update(table, second, **{column: first[column] for column in columns})


def swap_items(db: StoredTables, rng: random.Random) -> Place:
    row = _pick(db, rng, "grants")
    others = [
        other
        for other in db.rows("grants", "batch_number = ?", row["batch_number"])
        if other["item_number"] != row["item_number"]
    ]
    if not others:
        raise NotPossible
    place = _place(db, "grants", row)
    _swap(db, "grants", (row, rng.choice(others)), ("object_key", "code", "detail", "digest"))
    return place


def swap_leaves(db: StoredTables, rng: random.Random) -> Place:
    leaf = _pick(db, rng, "leaves")
    others = [
        other
        for other in db.rows("leaves", "tenant = ?", leaf["tenant"])
        if other["leaf_number"] != leaf["leaf_number"]
    ]
    if not others:
        raise NotPossible
    other = rng.choice(others)
    first, second = _place_of_leaf(db, leaf), _place_of_leaf(db, other)
    _swap(
        db, "leaves", (leaf, other), ("kind", "batch_number", "chunk_number", "reference", "hash")
    )
    return first._replace(
        batches=first.batches + second.batches, leaves=first.leaves + second.leaves
    )


def swap_tenants(table: str) -> Mutation:
    """Move a batch or a leaf to the place of another tenant's, and that one to its place."""

    def mutate(db: StoredTables, rng: random.Random) -> Place:
        row = _pick(db, rng, table)
        others = db.rows(table, "tenant <> ?", row["tenant"])
        if not others:
            raise NotPossible
        other = rng.choice(others)
        first, second = _place(db, table, row), _place(db, table, other)
        columns = ("tenant",)
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


# Trees -----------------------------------------------------------------------------------------


def cut(*, with_checkpoints: bool) -> Mutation:
    """Remove the newest leaves of a tenant and their rows, and mend the head."""

    def mutate(db: StoredTables, rng: random.Random) -> Place:
        tenant = rng.choice([row["tenant"] for row in db.rows("tree_heads")])
        leaves = db.rows("leaves", "tenant = ?", tenant)
        kept = rng.randrange(max(0, len(leaves) - 4), len(leaves))
        cut_tail(db, tenant, kept, with_checkpoints=with_checkpoints)
        return Place(("leaves",), (tenant,), (), tuple(range(kept, len(leaves))))

    return mutate


def rebuild(*, with_checkpoints: bool) -> Mutation:
    """Change an item, and everything that covers it, as somebody without the key can."""

    def mutate(db: StoredTables, rng: random.Random) -> Place:
        row = _pick(db, rng, "grants")
        batch = _batch_of(db, row)
        db.update("grants", row, object_key=f"{row['object_key']}.bak")
        number = rebuild_tree(db, batch, row["item_number"], with_checkpoints=with_checkpoints)
        tables = ("leaves", "checkpoints")
        return Place(tables, (batch["tenant"],), (), (number,))

    return mutate


def edit_checkpoint(column: str) -> Mutation:
    def mutate(db: StoredTables, rng: random.Random) -> Place:
        row = _pick(db, rng, "checkpoints")
        value: Any = row[column]
        if column == "note":  # the note of another tree, or of another size
            others = [other["note"] for other in db.rows("checkpoints") if other["note"] != value]
            value = rng.choice(others)
        else:
            value = _flipped(db, rng, column, value)
        db.update("checkpoints", row, **{column: value})
        return Place(("checkpoints",), (row["tenant"],))

    return mutate


def edit_head(db: StoredTables, rng: random.Random) -> Place:
    """Set the head of a tree to an earlier one."""
    row = _pick(db, rng, "tree_heads", "size > 1")
    size = rng.randrange(row["size"])
    store_head(db, row["tenant"], size)
    return Place(("tree_heads", "leaves"), (row["tenant"],), (), tuple(range(size, row["size"])))


MUTATIONS: Mapping[str, tuple[int, Mutation]] = {
    **{f"a bit flipped in {table}": (24, flip_bit(table)) for table in KEYS},
    "JSON spelled differently": (14, respell_json),
    **{
        f"a row deleted from {table}": (12, delete_row(table))
        for table in KEYS
        if table != "checkpoints"
    },
    "a chunk deleted with its items": (12, delete_chunk),
    "an item inserted": (18, insert_item),
    "a batch inserted": (12, insert_batch),
    **{
        f"a row inserted into {table}": (8, insert_row(table))
        for table in ("cancellations", "reissues", "config_changes")
    },
    "a leaf inserted after the tree": (10, insert_leaf(with_head=False)),
    "a second leaf appended to the tree": (12, insert_leaf(with_head=True)),
    "two items exchanged": (24, swap_items),
    "two leaves of a tenant exchanged": (20, swap_leaves),
    "two tenants' batches exchanged": (14, swap_tenants("batches")),
    "two tenants' leaves exchanged": (14, swap_tenants("leaves")),
    "the tail of a tree cut": (20, cut(with_checkpoints=False)),
    "the tail cut, with checkpoints": (20, cut(with_checkpoints=True)),
    "a head set back": (10, edit_head),
    "the root of a checkpoint edited": (10, edit_checkpoint("root")),
    "the note of a checkpoint exchanged": (10, edit_checkpoint("note")),
    "a tree rebuilt without the key": (20, rebuild(with_checkpoints=False)),
    "a tree rebuilt, checkpoints signed with another key": (20, rebuild(with_checkpoints=True)),
}
"""Each kind of change, with the number of times that it is tried on SQLite."""
