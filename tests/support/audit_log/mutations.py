"""Seeded changes of a stored audit log, each with the place at which it has to be found."""

from collections.abc import Mapping

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
from tests.support.audit_log.changed_trees import cut, edit_checkpoint, edit_head, rebuild
from tests.support.audit_log.changed_values import flip_bit, respell_json
from tests.support.audit_log.places import Mutation
from tests.support.audit_log.stored_tables import KEYS

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
