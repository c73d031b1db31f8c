"""Keeps the newest known object of each key, and the bytes that each tenant has stored.

Reports may arrive in any order.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, bindparam, case, or_, select, tuple_, update

from models import Batch, StoredObject, Usage
from valetkey.wire.grant_ids import grant_id
from worker.base.inserts import insert_statement
from worker.base.pages import in_parts
from worker.core.issued_grants import UseReport
from worker.core.quota_rules import CHARGED_METRICS, LIVE_START
from worker.uses.use_rows import JudgedUse
from worker.uses.use_rules import STORING

ObjectName = tuple[str, str]
"""A real bucket and an object key."""

ChunkKey = tuple[int, int]
"""The number of a batch, and of one of its chunks."""

_KEY = tuple_(StoredObject.bucket, StoredObject.object_key)


class KnownObject(NamedTuple):
    """The newest known state of a key: the tenant whose grant stored the object, and its size.

    The size after a deletion is 0. version is that of the object, None if its bucket has none.
    is_counted is false while a reservation stands for the object.
    """

    tenant: str
    size: int
    changed_at: datetime
    sequencer: str
    version: str | None
    is_counted: bool


class ObjectOfGrant(NamedTuple):
    """The grant that stored the newest known object of a key, and that object."""

    grant_id: str
    is_deleted: bool
    changed_at: datetime
    sequencer: str
    version: str | None

    def is_deleted_by(self, report: UseReport) -> bool:
        """Return true if the deletion that is reported deletes this object.

        It deletes none that was stored later, and in a versioned bucket no other version. A
        deletion without a version deletes whatever is there, or hides it.
        """
        time = report.occurred_at, report.sequencer[:64]
        if self.is_deleted or time <= (self.changed_at, self.sequencer):
            return False
        return report.version is None or self.version in {None, report.version}


def grants_of_objects(
    connection: Connection, names: Iterable[ObjectName]
) -> Mapping[ObjectName, ObjectOfGrant]:
    """Return the newest known objects of these keys, with the grants that stored them."""
    found: dict[ObjectName, ObjectOfGrant] = {}
    query = select(
        *(StoredObject.bucket, StoredObject.object_key, Batch.batch_id, StoredObject.item_number),
        *(getattr(StoredObject, name) for name in ObjectOfGrant._fields[1:]),
    ).join(Batch, Batch.batch_number == StoredObject.batch_number)
    for part in in_parts(sorted(set(names))):
        for bucket, key, batch, item, *state in connection.execute(query.where(_KEY.in_(part))):
            found[bucket, key] = ObjectOfGrant(grant_id(batch, item), *state)
    return found


def read_newest_sizes(
    connection: Connection, batch_number: int, items: Collection[int]
) -> Mapping[int, int]:
    """Return the sizes of the newest known objects that items of a batch stored, by item number.

    The size after a deletion is 0. Items whose objects were replaced by other grants have none.
    """
    query = select(StoredObject.item_number, StoredObject.size).where(
        StoredObject.batch_number == batch_number, StoredObject.item_number.in_(items)
    )
    return {row.item_number: row.size for row in connection.execute(query)}


def update_stored_objects(
    connection: Connection,
    uses: Iterable[JudgedUse],
    new_reports: Container[UseReport],
    unsettled: Container[ChunkKey],
) -> Counter[str]:
    """Bring the objects of uses up to date, and return the change of bytes by tenant id.

    new_reports are those of uses that were not recorded before. The others may still tell of a
    newer object: a client may store the same content again after another one, or after a deletion.
    unsettled are the chunks whose reservations stand for the object of each item: it counts once
    they are settled. A form whose client chooses the names can store more than it reserves.

    Rows are locked in the order of their keys, so that the changes add up to what is stored.
    """
    by_name: defaultdict[ObjectName, list[_Change]] = defaultdict(list)
    changing = [use for use in uses if use.report.event in {*STORING, "deleted"}]
    for use in sorted(changing, key=lambda use: (use.report.occurred_at, use.report.sequencer)):
        is_counted = not (use.grant.has_known_key and use.grant.chunk in unsettled)
        change = _Change(use, use.report in new_reports, is_counted)
        by_name[use.report.bucket, use.report.object_key].append(change)
    known = _lock(connection, by_name)
    new = {name: _newest(by_name[name], None) for name in sorted(by_name.keys() - known.keys())}
    inserted = _insert(connection, [values for values in new.values() if values is not None])
    # Another transaction inserted the others meanwhile, and this one has waited for its commit.
    known |= _lock(connection, new.keys() - inserted)
    changes: Counter[str] = Counter()
    changed: list[dict[str, Any]] = []
    for name in sorted(by_name):
        before = known.get(name)
        values = new[name] if before is None else _newest(by_name[name], before)
        if values is None:
            continue
        if before is not None:
            changed.append(values)
            changes[before.tenant] -= before.size if before.is_counted else 0
        changes[values["tenant"]] += values["size"] if values["is_counted"] else 0
    _update(connection, changed)
    return changes


class _Change(NamedTuple):
    """A use that may change the object of its key; is_new if it was not recorded before."""

    use: JudgedUse
    is_new: bool
    is_counted: bool


def _newest(changes: Iterable[_Change], known: KnownObject | None) -> dict[str, Any] | None:
    """Return the values of the newest object of a key, None if it is the known one."""
    values = None
    for change in changes:
        if known is None or not _is_older(change, known):
            values = _values(change, known)
            known = KnownObject(*(values[name] for name in KnownObject._fields))
    return values


def _is_older(change: _Change, known: KnownObject) -> bool:
    """Return true if a report is not newer than the known object.

    A probe sees the object that is there now, with a time in whole seconds: of two objects that
    were stored in the same second, the one that is seen later is the newer one. An object that was
    recorded before may have been replaced within its second, and counts as older unless it is
    larger. The time of an object of parts is that
    of the start of its upload: it is never the older one.
    """
    report = change.use.report
    if report.source == "probe" and (change.is_new or _size_after(report) > known.size):
        if report.event == "completed":
            return False
        return report.occurred_at < known.changed_at.replace(microsecond=0)
    return (report.occurred_at, report.sequencer[:64]) <= (known.changed_at, known.sequencer)


def _lock(connection: Connection, names: Collection[ObjectName]) -> dict[ObjectName, KnownObject]:
    columns = (getattr(StoredObject, name) for name in KnownObject._fields)
    query = select(StoredObject.bucket, StoredObject.object_key, *columns)
    query = query.order_by(StoredObject.bucket, StoredObject.object_key).with_for_update()
    known: dict[ObjectName, KnownObject] = {}
    for part in in_parts(sorted(names)):
        for bucket, object_key, *state in connection.execute(query.where(_KEY.in_(part))):
            known[bucket, object_key] = KnownObject(*state)
    return known


def _size_after(report: UseReport) -> int:
    return 0 if report.event == "deleted" else report.size or 0


def _values(change: _Change, before: KnownObject | None) -> dict[str, Any]:
    report, grant = change.use.report, change.use.grant
    changed_at, size = report.occurred_at, _size_after(report)
    if before is not None and report.occurred_at < before.changed_at:
        changed_at = before.changed_at
        if report.event == "completed" and before.tenant == grant.tenant:
            # It is not known which of the two is there: the larger one counts.
            size = max(size, before.size)
    return {
        "bucket": report.bucket,
        "object_key": report.object_key,
        "tenant": grant.tenant,
        "batch_number": grant.batch_number,
        "item_number": grant.item_number,
        "size": size,
        "is_deleted": report.event == "deleted",
        "changed_at": changed_at,
        "sequencer": report.sequencer[:64],
        "version": report.version,
        "is_counted": change.is_counted,
    }


def begin_counting_objects(
    connection: Connection, chunks: Iterable[tuple[int, range]]
) -> Counter[str]:
    """Let the objects of chunks count; return the change of bytes by tenant id.

    chunks are numbers of batches and of their items. Rows are locked in the order of their keys.
    """
    theirs = [
        and_(
            StoredObject.batch_number == batch_number,
            StoredObject.item_number.between(items.start, items.stop - 1),
        )
        for batch_number, items in chunks
    ]
    if not theirs:
        return Counter()
    are_theirs = StoredObject.is_counted.is_(False), or_(*theirs)
    query = select(StoredObject.bucket, StoredObject.object_key).where(*are_theirs)
    connection.execute(query.order_by(*query.selected_columns).with_for_update()).all()
    statement = update(StoredObject).where(*are_theirs).values(is_counted=True)
    rows = connection.execute(statement.returning(StoredObject.tenant, StoredObject.size))
    changes: Counter[str] = Counter()
    for tenant, size in rows:
        changes[tenant] += size
    return changes


def _insert(connection: Connection, rows: Sequence[dict[str, Any]]) -> set[ObjectName]:
    """Insert the objects of keys that have no row, and return those that were inserted."""
    if not rows:
        return set()
    statement = insert_statement(StoredObject, connection.dialect.name).on_conflict_do_nothing()
    names = statement.returning(StoredObject.bucket, StoredObject.object_key)
    return {(bucket, object_key) for bucket, object_key in connection.execute(names, rows)}


def _update(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        name = ["bucket", "object_key"]
        statement = insert_statement(StoredObject, connection.dialect.name)
        changed = {each: statement.excluded[each] for each in rows[0] if each not in name}
        connection.execute(statement.on_conflict_do_update(index_elements=name, set_=changed), rows)


_MAX_BYTES = 2**62
"""The bytes beyond which nothing is counted. Twice as many do not fit into the column."""

_BYTES_AFTER = Usage.stored_bytes + bindparam("change")


def add_stored_bytes(connection: Connection, changes: Mapping[str, int]) -> None:
    """Add changes, by tenant id, to the bytes that are stored, which stay between 0 and 2^62.

    Locks the usage of the window live until the transaction ends, in the order of the tenants, to
    avoid deadlocks. Issuing waits for it, so call it late.
    """
    for tenant_id, change in sorted(changes.items()):
        if change:
            _add_bytes(connection, tenant_id, max(1 - _MAX_BYTES, min(change, _MAX_BYTES - 1)))


def _add_bytes(connection: Connection, tenant_id: str, change: int) -> None:
    values = {"tenant": tenant_id, "window": "live", "window_start": LIVE_START}
    values |= dict.fromkeys(CHARGED_METRICS, 0) | {"stored_bytes": max(change, 0)}
    statement = insert_statement(Usage, connection.dialect.name).values(values)
    statement = statement.on_conflict_do_update(
        index_elements=("tenant", "window", "window_start"),
        set_={
            "stored_bytes": case(
                (_BYTES_AFTER < 0, 0), (_BYTES_AFTER > _MAX_BYTES, _MAX_BYTES), else_=_BYTES_AFTER
            )
        },
    )
    connection.execute(statement, {"change": change})
