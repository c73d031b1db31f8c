"""Reads the items of a batch with their uses, for what a producer is told of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, func, select

from models import Chunk, Grant, StoredObject, Use
from worker.core.signing.forms import FILENAME_VARIABLE
from worker.db.uses.states import newest_stored

_PER_QUERY = 500
_NO_USES = ("aborted", "deleted")  # the ends of an upload and of an object


class AuditItem(NamedTuple):
    """The audit row of an item: its object key, and its code if it was refused."""

    object_key: str
    code: str | None


class NewestObject(NamedTuple):
    """The newest object that a grant stored, and what it exceeds if it is mismatched."""

    size: int | None
    etag: str | None
    version: str | None
    checksum: str | None
    content_type: str | None
    occurred_at: datetime
    problem: str | None


class ItemUses(NamedTuple):
    """The audit rows, numbers of uses and newest stored objects of some items, by item number.

    keys has the object keys of forms that leave the name to the client, once they are known.
    """

    rows: Mapping[int, AuditItem]
    counts: Mapping[int, int]
    objects: Mapping[int, NewestObject]
    keys: Mapping[int, str]


def read_item_uses(connection: Connection, batch_number: int, items: Sequence[int]) -> ItemUses:
    """Read the rows of some items of a batch. What is not decided yet or pruned is missing."""
    rows: dict[int, AuditItem] = {}
    counts: Counter[int] = Counter()
    objects: dict[int, NewestObject] = {}
    for start in range(0, len(items), _PER_QUERY):
        part = items[start : start + _PER_QUERY]
        audit = select(Grant.item_number, Grant.object_key, Grant.code).where(
            Grant.batch_number == batch_number, Grant.item_number.in_(part)
        )
        rows |= {item: AuditItem(key, code) for item, key, code in connection.execute(audit)}
        is_item = (Use.batch_number == batch_number, Use.item_number.in_(part))
        uses = select(Use.item_number, func.count()).where(*is_item, Use.event.not_in(_NO_USES))
        for item, count in connection.execute(uses.group_by(Use.item_number)):
            counts[item] = count
        newest = newest_stored((getattr(Use, name) for name in NewestObject._fields), *is_item)
        for item, *values in connection.execute(newest):
            objects[item] = NewestObject(*values)
    free = [item for item, row in rows.items() if row.object_key.endswith(FILENAME_VARIABLE)]
    return ItemUses(rows, counts, objects, _stored_keys(connection, batch_number, free))


def _stored_keys(
    connection: Connection, batch_number: int, items: Sequence[int]
) -> Mapping[int, str]:
    """Return the object key of the newest object of each item, if it is its key's newest one."""
    keys: dict[int, str] = {}
    for start in range(0, len(items), _PER_QUERY):
        query = (
            select(StoredObject.item_number, StoredObject.object_key)
            .where(StoredObject.batch_number == batch_number)
            .where(StoredObject.item_number.in_(items[start : start + _PER_QUERY]))
            .order_by(StoredObject.changed_at)
        )
        keys |= {row.item_number: row.object_key for row in connection.execute(query)}
    return keys


def read_decided_chunks(connection: Connection, batch_number: int) -> set[int]:
    """Return the numbers of the decided chunks of a batch."""
    query = select(Chunk.chunk_number).where(Chunk.batch_number == batch_number)
    return set(connection.scalars(query))
