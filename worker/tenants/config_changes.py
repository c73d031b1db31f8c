"""The audit log of administration: each change of the tenant config and of quotas."""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, insert, select

from models import ConfigChange
from worker.base.pages import Page, fetch_page, fetch_page_without
from worker.ledger.merkle import CONFIG_LOG, encode_record, entry_hash
from worker.ledger.tree_leaves import NewLeaf, append_leaf, lock_head

_INSERT_CHANGES = insert(ConfigChange).returning(
    ConfigChange.change_number, sort_by_parameter_order=True
)


class ChangeRecord(NamedTuple):
    """A change of one field: the row's columns. before is None if it was added, after if removed.

    by is the operator's account, through the command that made the change.
    """

    number: int
    at: datetime
    by: str
    through: str
    path: str
    before: Any
    after: Any


class ChangeAuthor(NamedTuple):
    """The time of a change, the account that makes it, and the command that it uses."""

    changed_at: datetime
    changed_by: str
    command: str


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


def read_changes(
    connection: Connection,
    limit: int,
    *,
    since: datetime | None = None,
    after: int | None = None,
    is_unwanted: Callable[[ChangeRecord], bool] | None = None,
) -> Page[ChangeRecord]:
    """Read at most limit changes, newest first. A filter that is None matches everything.

    after is the number of the last change of the previous page. Changes that are unwanted are left
    out, and counted.
    """
    query = select(*ConfigChange.__table__.columns)
    if since is not None:
        query = query.where(ConfigChange.changed_at >= since)
    if after is not None:
        query = query.where(ConfigChange.change_number < after)
    query = query.order_by(ConfigChange.change_number.desc())
    if is_unwanted is None:
        return fetch_page(connection, query, limit, ChangeRecord._make)
    return fetch_page_without(is_unwanted, connection, query, limit, ChangeRecord._make)
