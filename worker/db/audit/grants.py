"""The audit log as it is read: newest first, never more than a page."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, func, select, tuple_

from models import Batch, Chunk, Grant
from valetkey.wire.messages import grant_id


class AuditCursor(NamedTuple):
    """Where a grant stands: its batch and its number there, which together are its id.

    Tenants choose the ids of their batches, so that only with the tenant it is one place for sure.
    """

    batch: str
    item: int
    tenant: str | None = None

    def __str__(self) -> str:
        id_ = grant_id(self.batch, self.item)
        return id_ if self.tenant is None else f"{self.tenant}/{id_}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantFilter:
    """Which rows to read: from since up to, not including, until. What is None is not asked.

    signed_by is the name of a key, or empty for what only the queue vouches for.
    """

    tenant: str | None = None
    bucket: str | None = None
    key: str | None = None
    prefix: str | None = None
    requester: str | None = None
    signed_by: str | None = None
    decision: Literal["issued", "refused"] | None = None
    since: datetime | None = None
    until: datetime | None = None
    batch: str | None = None
    grant: AuditCursor | None = None


class AuditRecord(NamedTuple):
    """One item that was asked for; decision is "issued", or the refusal's code.

    signed_by is the name of the tenant's key; None where the queue alone vouches for the request.
    """

    time: datetime
    tenant: str
    requested_by: str
    signed_by: str | None
    reason: str | None
    bucket: str
    kind: str
    key: str
    decision: str
    expires_at: datetime | None
    grant: str


class AuditCount(NamedTuple):
    """How many items of a kind a tenant was issued and refused."""

    tenant: str
    kind: str
    issued: int
    refused: int


class UnknownCursor(LookupError):
    """There is no such batch in the audit log."""


class AmbiguousCursor(LookupError):
    """Several tenants have a batch with this id."""


def read_grants(
    connection: Connection, wanted: GrantFilter, limit: int, after: AuditCursor | None
) -> list[AuditRecord]:
    """Read a page, beginning behind one place.

    Raises UnknownPlace where that is in no batch, and AmbiguousPlace where it is in several.
    """
    # Chunk by chunk in the order of the primary keys: what does not match is passed over by the
    # chunk, and a page costs the same at the end of the log as at its beginning.
    query = (
        select(*_COLUMNS)
        .select_from(Chunk)
        .join(Batch, Batch.number == Chunk.batch)
        .join(Grant, _of_its_chunk())
        .where(*_of_batches(wanted), *_of_items(wanted))
        .order_by(Chunk.batch.desc(), Chunk.number.desc(), Grant.number.desc())
        .limit(limit)
    )
    if after is not None:
        query = query.where(*_behind(connection, after))
    return [_entry(row) for row in connection.execute(query)]


def count_grants(connection: Connection, wanted: GrantFilter) -> list[AuditCount]:
    """Count by tenant and kind. Only what was decided for whole batches can be asked for here."""
    query = (
        select(Batch.tenant, Batch.kind, func.sum(Chunk.issued), func.sum(Chunk.refused))
        .join(Chunk, Chunk.batch == Batch.number)
        .where(*_of_batches(wanted))
        .group_by(Batch.tenant, Batch.kind)
        .order_by(Batch.tenant, Batch.kind)
    )
    return [AuditCount(*row) for row in connection.execute(query)]


_COLUMNS = (
    *(Chunk.issued_at, Chunk.expires_in, Chunk.key.label("signed_by")),
    *(Batch.tenant, Batch.requested_by, Batch.reason, Batch.bucket, Batch.kind, Batch.id),
    *(Grant.key, Grant.code, Grant.number),
)


def _of_its_chunk() -> ColumnElement[bool]:
    first = Chunk.number * Batch.chunk_size
    return and_(
        Grant.batch == Chunk.batch,
        Grant.number >= first,
        Grant.number < first + Batch.chunk_size,
    )


def _of_batches(wanted: GrantFilter) -> Iterator[ColumnElement[bool]]:
    batch = wanted.grant.batch if wanted.grant else wanted.batch
    asked = {
        Batch.tenant: wanted.tenant,
        Batch.bucket: wanted.bucket,
        Batch.requested_by: wanted.requester,
        Batch.id: batch,
    }
    yield from (column == value for column, value in asked.items() if value is not None)
    if wanted.grant is not None and wanted.grant.tenant is not None:
        yield Batch.tenant == wanted.grant.tenant
    if wanted.signed_by is not None:
        yield Chunk.key == wanted.signed_by if wanted.signed_by else Chunk.key.is_(None)
    if wanted.since is not None:
        yield Chunk.issued_at >= wanted.since
    if wanted.until is not None:
        yield Chunk.issued_at < wanted.until


def _of_items(wanted: GrantFilter) -> Iterator[ColumnElement[bool]]:
    if wanted.grant is not None:
        yield Grant.number == wanted.grant.item
    if wanted.key is not None:
        yield Grant.key == wanted.key
    if wanted.prefix is not None:
        # Not LIKE, to which SQLite's letters have no case.
        yield func.substr(Grant.key, 1, len(wanted.prefix)) == wanted.prefix
    if wanted.decision is not None:
        yield Grant.code.is_(None) if wanted.decision == "issued" else Grant.code.is_not(None)


def _behind(connection: Connection, place: AuditCursor) -> Iterator[ColumnElement[bool]]:
    query = select(Batch.number, Batch.chunk_size).where(Batch.id == place.batch)
    if place.tenant is not None:
        query = query.where(Batch.tenant == place.tenant)
    found = connection.execute(query.limit(2)).all()
    if not found:
        raise UnknownCursor(place)
    if len(found) > 1:
        raise AmbiguousCursor(place)
    number, chunk_size = found[0]
    # The first alone lets the index begin there; the second says where within the chunk.
    yield tuple_(Chunk.batch, Chunk.number) <= (number, place.item // chunk_size)
    yield tuple_(Grant.batch, Grant.number) < (number, place.item)


def _entry(row: Any) -> AuditRecord:
    expires_at = row.issued_at + timedelta(seconds=row.expires_in)
    return AuditRecord(
        time=row.issued_at,
        tenant=row.tenant,
        requested_by=row.requested_by,
        signed_by=row.signed_by,
        reason=row.reason,
        bucket=row.bucket,
        kind=row.kind,
        key=row.key,
        decision=row.code or "issued",
        expires_at=None if row.code else expires_at,
        grant=grant_id(row.id, row.number),
    )


class AuditPage(NamedTuple):
    """Audit rows, newest first, and the place to go on behind; None where there are no more."""

    entries: list[AuditRecord]
    after: AuditCursor | None


def read_page(
    connection: Connection, wanted: GrantFilter, limit: int, after: AuditCursor | None = None
) -> AuditPage:
    """Read up to limit rows behind one place.

    Rows neither change nor move, so page by page every row that was there at the start comes once,
    whatever is added meanwhile. Raises UnknownPlace where after is in no batch, and AmbiguousPlace
    where it is in several.
    """
    found = read_grants(connection, wanted, limit + 1, after)
    shown = found[:limit]
    return AuditPage(shown, _place(shown[-1]) if len(found) > limit else None)


def _place(entry: AuditRecord) -> AuditCursor:
    batch, _, item = entry.grant.rpartition(".")
    return AuditCursor(batch, int(item), entry.tenant)
