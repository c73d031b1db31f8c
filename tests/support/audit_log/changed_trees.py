"""Changes of trees and checkpoints."""

import random
from typing import Any

from tests.support.audit_log.changed_values import flipped
from tests.support.audit_log.places import Mutation, Place, batch_of, pick
from tests.support.audit_log.rebuilding import cut_tail, rebuild_tree, store_head
from tests.support.audit_log.stored_tables import StoredTables


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
