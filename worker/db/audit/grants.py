"""The audit log of grants: every requested item, and the decision on it."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, and_, func, select, tuple_

from models import Batch, Chunk, Grant
from valetkey.wire.grant_ids import grant_id
from worker.db.audit.pages import Page, fetch_page
from worker.db.audit.tenant_filter import is_of_tenant


class AuditCursor(NamedTuple):
    """The position of a grant in the audit log: its batch and its item number in that batch.

    Tenants choose the ids of their batches, so a batch id is unique only together with a tenant's
    id.
    """

    batch_id: str
    item_number: int
    tenant: str | None = None

    def __str__(self) -> str:
        id_ = grant_id(self.batch_id, self.item_number)
        return id_ if self.tenant is None else f"{self.tenant}/{id_}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantFilter:
    """Conditions that all have to match; None matches everything.

    tenant is an id, or a name, which selects all tenants that had it. signed_by is the name of a
    tenant's key; an empty string selects unsigned requests. since is included in the range, until
    is not.
    """

    tenant: str | None = None
    bucket: str | None = None
    object_key: str | None = None
    prefix: str | None = None
    requester: str | None = None
    signed_by: str | None = None
    decision: Literal["issued", "refused"] | None = None
    since: datetime | None = None
    until: datetime | None = None
    batch_id: str | None = None
    grant: AuditCursor | None = None


class AuditRecord(NamedTuple):
    """One requested item. decision is "issued" or the code of the refusal. tenant is an id.

    signed_by is the name of the tenant's key that signed the request; None if the tenant trusts
    the queue and the request was not signed. expires_at is None for a refused item.
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
    """The numbers of issued and refused items of one kind, of the tenant with an id."""

    tenant: str
    kind: str
    issued: int
    refused: int


class UnknownCursor(LookupError):
    """The audit log has no batch with this id."""


class AmbiguousCursor(LookupError):
    """Several tenants have a batch with this id."""


_COLUMNS = (
    *(Chunk.issued_at, Chunk.expires_in, Chunk.signing_key),
    *(Batch.tenant, Batch.requested_by, Batch.reason, Batch.bucket, Batch.kind, Batch.batch_id),
    *(Grant.object_key, Grant.code, Grant.item_number),
)


def read_grants(
    connection: Connection,
    grant_filter: GrantFilter,
    limit: int,
    after: AuditCursor | None = None,
) -> Page[AuditRecord]:
    """Read at most limit grants, newest first, starting after the given position.

    Rows neither change nor move. Paging through them returns each row that existed at the start
    exactly once, even if rows are added meanwhile. Raises UnknownCursor if no batch has the id in
    after, and AmbiguousCursor if batches of several tenants have it.
    """
    # Reads chunk by chunk in the order of the primary keys. Chunks that do not match are skipped
    # whole, and a page costs the same at the end of the log as at its beginning.
    query = (
        select(*_COLUMNS)
        .select_from(Chunk)
        .join(Batch, Batch.batch_number == Chunk.batch_number)
        .join(Grant, _is_in_chunk())
        .where(*_batch_conditions(connection, grant_filter), *_item_conditions(grant_filter))
        .order_by(Chunk.batch_number.desc(), Chunk.chunk_number.desc(), Grant.item_number.desc())
    )
    if after is not None:
        query = query.where(*_cursor_conditions(connection, after))
    return fetch_page(connection, query, limit, _to_record)


def count_items_by_kind(connection: Connection, grant_filter: GrantFilter) -> list[AuditCount]:
    """Count issued and refused items by tenant and kind.

    Applies only the conditions on batches and chunks, and ignores those on single items: the
    decision, the object key, the prefix and the item number.
    """
    query = (
        select(Batch.tenant, Batch.kind, func.sum(Chunk.issued), func.sum(Chunk.refused))
        .join(Chunk, Chunk.batch_number == Batch.batch_number)
        .where(*_batch_conditions(connection, grant_filter))
        .group_by(Batch.tenant, Batch.kind)
        .order_by(Batch.tenant, Batch.kind)
    )
    return [AuditCount(*row) for row in connection.execute(query)]


def record_cursor(record: AuditRecord) -> AuditCursor:
    """Return the position of a record, to read the page after it."""
    batch_id, _, item_number = record.grant.rpartition(".")
    return AuditCursor(batch_id, int(item_number), record.tenant)


def _is_in_chunk() -> ColumnElement[bool]:
    first = Chunk.chunk_number * Batch.chunk_size
    return and_(
        Grant.batch_number == Chunk.batch_number,
        Grant.item_number >= first,
        Grant.item_number < first + Batch.chunk_size,
    )


def _batch_conditions(
    connection: Connection, grant_filter: GrantFilter
) -> Iterator[ColumnElement[bool]]:
    grant = grant_filter.grant
    values = {
        Batch.bucket: grant_filter.bucket,
        Batch.requested_by: grant_filter.requester,
        Batch.batch_id: grant.batch_id if grant else grant_filter.batch_id,
    }
    yield from (column == value for column, value in values.items() if value is not None)
    for tenant in (grant_filter.tenant, grant and grant.tenant):
        if tenant is not None:
            yield is_of_tenant(connection, Batch.tenant, tenant)
    if grant_filter.signed_by is not None:
        signed_by = grant_filter.signed_by
        yield Chunk.signing_key == signed_by if signed_by else Chunk.signing_key.is_(None)
    if grant_filter.since is not None:
        yield Chunk.issued_at >= grant_filter.since
    if grant_filter.until is not None:
        yield Chunk.issued_at < grant_filter.until


def _item_conditions(grant_filter: GrantFilter) -> Iterator[ColumnElement[bool]]:
    if grant_filter.grant is not None:
        yield Grant.item_number == grant_filter.grant.item_number
    if grant_filter.object_key is not None:
        yield Grant.object_key == grant_filter.object_key
    if grant_filter.prefix is not None:
        # Not LIKE, which ignores case on SQLite.
        prefix = grant_filter.prefix
        yield func.substr(Grant.object_key, 1, len(prefix)) == prefix
    if grant_filter.decision is not None:
        is_issued = Grant.code.is_(None)
        yield is_issued if grant_filter.decision == "issued" else Grant.code.is_not(None)


def _cursor_conditions(
    connection: Connection, cursor: AuditCursor
) -> Iterator[ColumnElement[bool]]:
    query = select(Batch.batch_number, Batch.chunk_size).where(Batch.batch_id == cursor.batch_id)
    if cursor.tenant is not None:
        query = query.where(Batch.tenant == cursor.tenant)
    batches = connection.execute(query.limit(2)).all()
    if not batches:
        raise UnknownCursor(cursor)
    if len(batches) > 1:
        raise AmbiguousCursor(cursor)
    batch_number, chunk_size = batches[0]
    chunk_number = cursor.item_number // chunk_size
    # The first condition alone lets the scan of the index start at the chunk. The second one finds
    # the item in the chunk.
    yield tuple_(Chunk.batch_number, Chunk.chunk_number) <= (batch_number, chunk_number)
    yield tuple_(Grant.batch_number, Grant.item_number) < (batch_number, cursor.item_number)


def _to_record(row: Row[*tuple[Any, ...]]) -> AuditRecord:
    expires_at = row.issued_at + timedelta(seconds=row.expires_in)
    return AuditRecord(
        time=row.issued_at,
        tenant=row.tenant,
        requested_by=row.requested_by,
        signed_by=row.signing_key,
        reason=row.reason,
        bucket=row.bucket,
        kind=row.kind,
        key=row.object_key,
        decision=row.code or "issued",
        expires_at=None if row.code else expires_at,
        grant=grant_id(row.batch_id, row.item_number),
    )
