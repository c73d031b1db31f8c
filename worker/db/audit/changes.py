"""Who changed what of what is declared: the audit log of administration."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, insert, select

from models import ConfigChange


class ChangeRecord(NamedTuple):
    """One field as it was before and after; None where it was not there."""

    number: int
    at: datetime
    by: str
    through: str
    path: str
    before: Any
    after: Any


class ChangeAuthor(NamedTuple):
    """Who changes something, when, and through which command."""

    at: datetime
    by: str
    through: str


def record_changes(
    connection: Connection, changes: Iterable[tuple[str, Any, Any]], author: ChangeAuthor
) -> None:
    """Write what is changed, in the transaction that changes it: path, before and after."""
    rows = [
        {**author._asdict(), "path": path, "before": before, "after": after}
        for path, before, after in changes
    ]
    if rows:
        connection.execute(insert(ConfigChange), rows)


def read_changes(
    connection: Connection, limit: int, *, since: datetime | None = None, after: int | None = None
) -> list[ChangeRecord]:
    """Read a page, newest first, beginning behind one entry's number; None is not asked."""
    query = select(*(getattr(ConfigChange, name) for name in ChangeRecord._fields))
    if since is not None:
        query = query.where(ConfigChange.at >= since)
    if after is not None:
        query = query.where(ConfigChange.number < after)
    rows = connection.execute(query.order_by(ConfigChange.number.desc()).limit(limit))
    return [ChangeRecord(*row) for row in rows]
