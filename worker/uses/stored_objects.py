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
from worker.audit.grant_states import STORING
from worker.base.inserts import insert_statement
from worker.rules.quota_rules import CHARGED_METRICS, LIVE_START
from worker.shared.pages import in_parts
from worker.uses.use_reports import UseReport
from worker.uses.use_rows import JudgedUse

ObjectName = tuple[str, str]
"""A real bucket and an object key."""

ChunkKey = tuple[int, int]
"""The number of a batch, and of one of its chunks."""

_COLUMNS = StoredObject.__table__.columns
_NAME = StoredObject.bucket, StoredObject.object_key


class KnownObject(NamedTuple):
    """The newest known object of a key: the columns of its row, and the id of its grant's batch."""

    bucket: str
    object_key: str
    tenant: str
    batch_number: int
    item_number: int
    size: int
    is_deleted: bool
    changed_at: datetime
    sequencer: str
    version: str | None
    is_counted: bool
    batch_id: str

    @property
    def grant_id(self) -> str:
        """The id of the grant that stored it."""
        return grant_id(self.batch_id, self.item_number)

    @property
    def counted_bytes(self) -> int:
        """The bytes that count as stored: none while a reservation stands for the object."""
        return self.size if self.is_counted else 0

    @property
    def row(self) -> dict[str, Any]:
        """The values of its row."""
        values = self._asdict()
        del values["batch_id"]
        return values

    def is_deleted_by(self, report: UseReport) -> bool:
        """Return true if the deletion that is reported deletes this object.

        It deletes none that was stored later, and in a versioned bucket no other version. A
        deletion without a version deletes whatever is there, or hides it.
        """
        time = report.occurred_at, report.sequencer
        if self.is_deleted or time <= (self.changed_at, self.sequencer):
            return False
        return report.version is None or self.version in {None, report.version}


def read_objects(
    connection: Connection, names: Iterable[ObjectName], *, lock: bool = False
) -> dict[ObjectName, KnownObject]:
    """Return the newest known objects of these keys. They are locked in the order of the keys."""
    query = select(*_COLUMNS, Batch.batch_id).order_by(*_NAME)
    query = query.join(Batch, Batch.batch_number == StoredObject.batch_number)
    if lock:
        query = query.with_for_update(of=StoredObject)
    found: dict[ObjectName, KnownObject] = {}
    for part in in_parts(sorted(set(names))):
        for known in map(
            KnownObject._make, connection.execute(query.where(tuple_(*_NAME).in_(part)))
        ):
            found[known.bucket, known.object_key] = known
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

    new_reports are those of uses that were not recorded before. The others may still report a
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
    new = {name: _newest(each[1:], _state(each[0], None)) for name, each in sorted(by_name.items())}
    inserted = _insert(connection, list(new.values()))
    # Another transaction may have inserted some of the others just now: this one has waited for it.
    known = read_objects(connection, by_name.keys() - inserted, lock=True)
    newest = {name: _newest(by_name[name], before) for name, before in known.items()}
    _update(connection, [each for name, each in newest.items() if each != known[name]])
    changes: Counter[str] = Counter()
    for state in [*(new[name] for name in inserted), *newest.values()]:
        changes[state.tenant] += state.counted_bytes
    for state in known.values():
        changes[state.tenant] -= state.counted_bytes
    return changes


class _Change(NamedTuple):
    """A use that may change the object of its key; is_new if it was not recorded before."""

    use: JudgedUse
    is_new: bool
    is_counted: bool


def _newest(changes: Iterable[_Change], known: KnownObject) -> KnownObject:
    """Return the newest object of a key, of a known one and those of changes, in their order."""
    for change in changes:
        if not _is_older(change, known):
            known = _state(change, known)
    return known


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
    return (report.occurred_at, report.sequencer) <= (known.changed_at, known.sequencer)


def _size_after(report: UseReport) -> int:
    return 0 if report.event == "deleted" else report.size or 0


def _state(change: _Change, before: KnownObject | None) -> KnownObject:
    report, grant = change.use.report, change.use.grant
    changed_at, size = report.occurred_at, _size_after(report)
    if before is not None and report.occurred_at < before.changed_at:
        changed_at = before.changed_at
        if report.event == "completed" and before.tenant == grant.tenant:
            # It is not known which of the two is there: the larger one counts.
            size = max(size, before.size)
    return KnownObject(
        bucket=report.bucket,
        object_key=report.object_key,
        tenant=grant.tenant,
        batch_number=grant.batch_number,
        item_number=grant.item_number,
        size=size,
        is_deleted=report.event == "deleted",
        changed_at=changed_at,
        sequencer=report.sequencer,
        version=report.version,
        is_counted=change.is_counted,
        batch_id=grant.batch_id,
    )


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


def _insert(connection: Connection, objects: Sequence[KnownObject]) -> set[ObjectName]:
    """Insert the objects of keys that have no row, and return the names of those."""
    statement = insert_statement(StoredObject, connection.dialect.name).on_conflict_do_nothing()
    rows = (
        connection.execute(statement.returning(*_NAME), [each.row for each in objects])
        if objects
        else ()
    )
    return {(bucket, object_key) for bucket, object_key in rows}


def _update(connection: Connection, objects: Sequence[KnownObject]) -> None:
    statement = insert_statement(StoredObject, connection.dialect.name)
    changed = {column.name: statement.excluded[column.name] for column in _COLUMNS}
    if objects:
        update_ = statement.on_conflict_do_update(index_elements=_NAME, set_=changed)
        connection.execute(update_, [each.row for each in objects])


_MAX_BYTES = 2**62
"""The bytes beyond which nothing is counted. Twice as many do not fit into the column."""


def add_stored_bytes(connection: Connection, changes: Mapping[str, int]) -> None:
    """Add changes, by tenant id, to the bytes that are stored, which stay between 0 and 2^62.

    Locks the usage of the window live until the transaction ends, in the order of the tenants, to
    avoid deadlocks. Issuing waits for it, so call it late.
    """
    statement = insert_statement(Usage, connection.dialect.name)
    after = Usage.stored_bytes + bindparam("change")
    limited = case((after < 0, 0), (after > _MAX_BYTES, _MAX_BYTES), else_=after)
    statement = statement.on_conflict_do_update(
        index_elements=("tenant", "window", "window_start"), set_={"stored_bytes": limited}
    )
    values = {"window": "live", "window_start": LIVE_START} | dict.fromkeys(CHARGED_METRICS, 0)
    for tenant_id, change in sorted(changes.items()):
        if change:
            limited_change = max(1 - _MAX_BYTES, min(change, _MAX_BYTES - 1))
            new = values | {"tenant": tenant_id, "stored_bytes": max(limited_change, 0)}
            connection.execute(statement.values(new), {"change": limited_change})
