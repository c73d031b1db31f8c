"""The audit log of administration: each change of the tenant config and of quotas."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from sqlalchemy import Connection, insert, select

from models import ConfigChange
from worker.ledger.merkle import CONFIG_LOG, encode_record, entry_hash
from worker.ledger.tenant_rows import store_config
from worker.ledger.tree_leaves import NewLeaf, append_leaf, lock_head
from worker.rules.tenant_config import TenantConfig
from worker.tenants.apply_plan import FieldChange, diff_config

_INSERT_CHANGES = insert(ConfigChange).returning(
    ConfigChange.change_number, sort_by_parameter_order=True
)

CHANGES = select(
    *(ConfigChange.change_number.label("number"), ConfigChange.changed_at.label("at")),
    *(ConfigChange.changed_by.label("by"), ConfigChange.command.label("through")),
    *(ConfigChange.path, ConfigChange.before, ConfigChange.after),
).order_by(ConfigChange.change_number.desc())
"""All changes, newest first.

by is the operator's account, through the command that made the change. before is None if the field
was added, after if it was removed.
"""


class ChangeAuthor(NamedTuple):
    """The time of a change, the account that makes it, and the command that it uses."""

    changed_at: datetime
    changed_by: str
    command: str


def change_config(
    connection: Connection,
    before: TenantConfig,
    after: TenantConfig,
    author: ChangeAuthor,
    restored_ids: Mapping[str, str] = MappingProxyType({}),
) -> list[FieldChange]:
    """Store a config with the log of what it changes, in one transaction, and return the changes.

    restored_ids and errors are those of store_config.
    """
    stored = store_config(connection, before, after, author.changed_at, restored_ids)
    changes = diff_config(before, stored)
    record_changes(connection, changes, author)
    return changes


def record_changes(
    connection: Connection, changes: Iterable[tuple[str, Any, Any]], author: ChangeAuthor
) -> None:
    """Record changes, each as (path, before, after), in the transaction that makes them.

    Call it last: it locks the tree of the changes.
    """
    rows = [
        {**author._asdict(), "path": path, "before": before, "after": after}
        for path, before, after in changes
    ]
    if not rows:
        return
    # First, because the leaf covers a range of numbers: that of no other transaction.
    lock_head(connection, CONFIG_LOG)
    numbers = connection.scalars(_INSERT_CHANGES, rows).all()
    records = [
        encode_record("config", {"change_number": number, **row})
        for number, row in zip(numbers, rows, strict=True)
    ]
    reference = f"{numbers[0]}-{numbers[-1]}"
    leaf = NewLeaf("config", entry_hash(records), reference=reference)
    append_leaf(connection, CONFIG_LOG, leaf)
