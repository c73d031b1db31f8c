"""Deliveries about uploads: inserted with the uses behind them, and read when they are sent."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, and_, select

from models import Batch, Chunk, Grant, Settlement, Use
from valetkey.wire.events import ReportedUpload, UploadEventType
from valetkey.wire.grant_ids import grant_id
from worker.audit.grant_states import STORING
from worker.rules.tenant_config import TenantConfig
from worker.shared.pages import parse_items
from worker.uses.use_reports import UsedGrant
from worker.uses.use_rows import InsertedUses, JudgedUse
from worker.uses.use_rules import is_late
from worker.webhooks.outbox import DeliveryLease, delivery_values, insert_deliveries
from worker.webhooks.webhook_events import UploadNews


def insert_use_deliveries(
    connection: Connection, inserted: Iterable[InsertedUses], config: TenantConfig, now: datetime
) -> int:
    """Insert the deliveries for which the requests of these uses asked; return how many.

    There is one for each chunk, type and group: a retry of the transaction inserts no use again,
    and therefore no delivery.
    """
    rows = {
        (use.grant.chunk, event): _row(use.grant, event, group.group_id, now)
        for group in inserted
        for use in group.uses
        if (event := _event_type(use)) is not None and _is_wanted(use.grant, event, config)
    }
    if rows:
        insert_deliveries(connection, [row for _, row in sorted(rows.items())])
    return len(rows)


def insert_unused_delivery(
    connection: Connection, grant: UsedGrant, config: TenantConfig, now: datetime
) -> bool:
    """Insert the delivery about unused items of the chunk of a grant, if its request asked for it.

    Call it in the transaction that inserts the settlement, if `Settlement.unused` is not empty.
    """
    is_wanted = _is_wanted(grant, "upload.unused", config)
    if is_wanted:
        insert_deliveries(connection, [_row(grant, "upload.unused", None, now)])
    return is_wanted


def _event_type(use: JudgedUse) -> UploadEventType | None:
    if use.report.event not in STORING:
        return None
    return "upload.mismatched" if use.judgement.verdict == "mismatched" else "upload.stored"


def _is_wanted(grant: UsedGrant, event: UploadEventType, config: TenantConfig) -> bool:
    """Return true if the request asked for a type, and its endpoint still receives it."""
    tenant = config.tenant_by_id(grant.tenant)
    endpoint = None if tenant is None else tenant.endpoints.get(grant.callback or "")
    return event in grant.notify and (endpoint is None or endpoint.wants(event))


def _row(
    grant: UsedGrant, event: UploadEventType, group_id: str | None, now: datetime
) -> dict[str, Any]:
    return delivery_values(grant.tenant, grant.callback or "", event, now) | {
        "batch_number": grant.batch_number,
        "chunk_number": grant.chunk_number,
        "group_id": group_id,
    }


def read_upload_news(
    connection: Connection, delivery: DeliveryLease, chunk: tuple[int, int]
) -> UploadNews | None:
    """Read what a delivery about uploads of a chunk reports, or None if its rows are not there."""
    if delivery.event == "upload.unused":
        return _read_unused(connection, *chunk)
    return _read_stored(connection, delivery, *chunk)


_UPLOAD = (  # with the names that a webhook has
    *(Use.item_number.label("item"), Grant.object_key.label("key"), Use.size, Use.etag),
    *(Use.version, Use.occurred_at.label("stored_at"), Use.problem),
)
_STORED = (
    select(Batch.batch_id, Batch.bucket, Chunk.issued_at, Chunk.expires_in, Use.recorded_at)
    .add_columns(*_UPLOAD)
    .join(Batch, Batch.batch_number == Use.batch_number)
    .join(Grant, and_(Grant.batch_number == Use.batch_number, Grant.item_number == Use.item_number))
    .join(Chunk, Chunk.batch_number == Use.batch_number)
    .where(Use.event.in_(STORING))
    .order_by(Use.item_number, Use.occurred_at, Use.fingerprint)
)


def _read_stored(
    connection: Connection, delivery: DeliveryLease, batch_number: int, chunk_number: int
) -> UploadNews | None:
    first = chunk_number * Batch.chunk_size
    is_mismatched = Use.verdict == "mismatched"
    query = _STORED.where(
        Use.group_id == delivery.group_id,
        Use.batch_number == batch_number,
        Use.item_number >= first,
        Use.item_number < first + Batch.chunk_size,
        Chunk.chunk_number == chunk_number,
        is_mismatched if delivery.event == "upload.mismatched" else ~is_mismatched,
    )
    rows = connection.execute(query).all()
    if not rows:
        return None
    uploads = [
        ReportedUpload(
            id=grant_id(row.batch_id, row.item),
            late=is_late(row.stored_at, row.issued_at + timedelta(seconds=row.expires_in)),
            **{column.key: getattr(row, column.key) for column in _UPLOAD},
        )
        for row in rows
    ]
    return UploadNews(rows[0].batch_id, rows[0].bucket, rows[0].recorded_at, uploads)


def _read_unused(connection: Connection, batch_number: int, chunk_number: int) -> UploadNews | None:
    settled = connection.execute(
        select(Batch.batch_id, Batch.bucket, Settlement.settled_at, Settlement.unused)
        .join(Batch, Batch.batch_number == Settlement.batch_number)
        .where(Settlement.batch_number == batch_number)
        .where(Settlement.chunk_number == chunk_number)
    ).first()
    if settled is None or not settled.unused:
        return None
    ranges = list(parse_items(settled.unused))
    keys = (
        select(Grant.item_number, Grant.object_key)
        .where(Grant.batch_number == batch_number)
        .where(Grant.item_number >= ranges[0].start, Grant.item_number < ranges[-1].stop)
        .order_by(Grant.item_number)
    )
    uploads = [
        ReportedUpload(id=grant_id(settled.batch_id, item), item=item, key=key)
        for item, key in connection.execute(keys)
        if any(item in numbers for numbers in ranges)
    ]
    return UploadNews(settled.batch_id, settled.bucket, settled.settled_at, uploads)
