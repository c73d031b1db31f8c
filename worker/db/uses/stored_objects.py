"""Keeps the newest known object of each key, whatever the order in which reports arrive."""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, select, tuple_

from models import Batch, StoredObject
from valetkey.wire.grant_ids import grant_id
from worker.core.uses.reports import UseReport
from worker.db.inserts import insert_statement
from worker.db.uses.insert import JudgedUse

_PER_QUERY = 500

ObjectName = tuple[str, str]
"""A real bucket and an object key."""


class KnownObject(NamedTuple):
    """The newest known state of a key: the tenant whose grant stored the object, and its size.

    The size after a deletion is 0.
    """

    tenant: str
    size: int
    changed_at: datetime
    sequencer: str


def grants_of_objects(
    connection: Connection, names: Iterable[ObjectName]
) -> Mapping[ObjectName, str]:
    """Return the ids of the grants that stored the newest known objects of these keys."""
    ordered, found = sorted(set(names)), dict[ObjectName, str]()
    key = tuple_(StoredObject.bucket, StoredObject.object_key)
    query = select(
        *(StoredObject.bucket, StoredObject.object_key),
        *(Batch.batch_id, StoredObject.item_number),
    ).join(Batch, Batch.batch_number == StoredObject.batch_number)
    for start in range(0, len(ordered), _PER_QUERY):
        part = ordered[start : start + _PER_QUERY]
        for bucket, object_key, batch_id, item in connection.execute(query.where(key.in_(part))):
            found[bucket, object_key] = grant_id(batch_id, item)
    return found


def update_stored_objects(connection: Connection, uses: Iterable[JudgedUse]) -> Counter[str]:
    """Bring the objects of inserted uses up to date, and return the change of bytes by tenant id.

    Keys are updated in order, and their rows locked, so that the changes add up to what is stored.
    """
    changes: Counter[str] = Counter()
    relevant = [use for use in uses if use.report.event in {"stored", "completed", "deleted"}]
    for use in sorted(relevant, key=lambda use: _position(use.report)):
        before = _lock(connection, use)
        report = use.report
        if before is not None and _is_older(report, before):
            continue
        _write(connection, _values(use, before))
        if before is not None:
            changes[before.tenant] -= before.size
        changes[use.grant.tenant] += _size_after(report)
    return changes


def _position(report: UseReport) -> tuple[str, str, datetime, str]:
    return report.bucket, report.object_key, report.occurred_at, report.sequencer


def _is_older(report: UseReport, known: KnownObject) -> bool:
    """Return true if a report is not newer than the known object.

    A probe sees the object that is there now, with a time in whole seconds: of two objects that
    were stored in the same second, the one that is seen later is the newer one.
    """
    if report.source == "probe":
        return report.occurred_at < known.changed_at.replace(microsecond=0)
    return (report.occurred_at, report.sequencer[:64]) <= (known.changed_at, known.sequencer)


def _lock(connection: Connection, use: JudgedUse) -> KnownObject | None:
    columns = (getattr(StoredObject, name) for name in KnownObject._fields)
    query = select(*columns).where(
        StoredObject.bucket == use.report.bucket, StoredObject.object_key == use.report.object_key
    )
    row = connection.execute(query.with_for_update()).first()
    return None if row is None else KnownObject(*row)


def _size_after(report: UseReport) -> int:
    return 0 if report.event == "deleted" else report.size or 0


def _values(use: JudgedUse, before: KnownObject | None) -> dict[str, object]:
    report, grant = use.report, use.grant
    changed_at = (
        report.occurred_at if before is None else max(report.occurred_at, before.changed_at)
    )
    return {
        "bucket": report.bucket,
        "object_key": report.object_key,
        "tenant": grant.tenant,
        "batch_number": grant.batch_number,
        "item_number": grant.item_number,
        "size": _size_after(report),
        "is_deleted": report.event == "deleted",
        "changed_at": changed_at,
        "sequencer": report.sequencer[:64],
    }


def _write(connection: Connection, values: dict[str, object]) -> None:
    statement = insert_statement(StoredObject, connection.dialect.name)
    key = ("bucket", "object_key")
    set_ = {name: statement.excluded[name] for name in values if name not in key}
    connection.execute(statement.on_conflict_do_update(index_elements=key, set_=set_), values)
