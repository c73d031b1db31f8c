"""Seeded changes of a stored audit log, each with the place at which it has to be found."""

import random
from collections.abc import Mapping
from typing import Any

from tests.support.audit_log.changed_rows import (
    delete_chunk,
    delete_row,
    insert_batch,
    insert_item,
    insert_leaf,
    insert_row,
    swap_items,
    swap_leaves,
    swap_tenants,
)
from tests.support.audit_log.changed_values import flip_bit, flipped, respell_json
from tests.support.audit_log.places import Mutation, Place, batch_of, pick
from tests.support.audit_log.rebuilding import cut_tail, rebuild_tree, store_head
from tests.support.audit_log.stored_tables import KEYS, StoredTables


def cut(*, with_checkpoints: bool) -> Mutation:
    """Remove the newest leaves of a tenant and their rows, and mend the head."""

    def mutate(db: StoredTables, rng: random.Random) -> Place:
        tenant = rng.choice([row["tenant"] for row in db.rows("tree_heads")])
        leaves = db.rows("leaves", "tenant = ?", tenant)
        kept = rng.randrange(max(0, len(leaves) - 4), len(leaves))
        cut_tail(db, tenant, kept, with_checkpoints=with_checkpoints)
        is_prune_cut = any(leaf["kind"] == "prune" for leaf in leaves[kept:])
        tables = ("leaves", "grants") if is_prune_cut else ("leaves",)
        return Place(tables, (tenant,), (), tuple(range(kept, len(leaves))))

    return mutate


def rebuild(*, with_checkpoints: bool) -> Mutation:
    """Change an item, and everything that covers it, as somebody without the key can."""

    def mutate(db: StoredTables, rng: random.Random) -> Place:
        row = pick(db, rng, "grants")
        batch = batch_of(db, row)
        db.update("grants", row, object_key=f"{row['object_key']}.bak")
        number = rebuild_tree(db, batch, row["item_number"], with_checkpoints=with_checkpoints)
        tables = ("leaves", "checkpoints")
        return Place(tables, (batch["tenant"],), (), (number,))

    return mutate


def edit_checkpoint(column: str) -> Mutation:
    def mutate(db: StoredTables, rng: random.Random) -> Place:
        row = pick(db, rng, "checkpoints")
        value: Any = row[column]
        if column == "note":  # the note of another tree, or of another size
            others = [other["note"] for other in db.rows("checkpoints") if other["note"] != value]
            value = rng.choice(others)
        else:
            value = flipped(rng, column, value)
        db.update("checkpoints", row, **{column: value})
        return Place(("checkpoints",), (row["tenant"],))

    return mutate


def edit_head(db: StoredTables, rng: random.Random) -> Place:
    """Set the head of a tree to an earlier one."""
    row = pick(db, rng, "tree_heads", "size > 1")
    size = rng.randrange(row["size"])
    store_head(db, row["tenant"], size)
    return Place(("tree_heads", "leaves"), (row["tenant"],), (), tuple(range(size, row["size"])))


MUTATIONS: Mapping[str, tuple[int, Mutation]] = {
    **{f"a bit flipped in {table}": (25, flip_bit(table)) for table in KEYS},
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
        for table in (
            "cancellations",
            "reissues",
            "config_changes",
            "uses",
            "settlements",
            "revocations",
        )
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
