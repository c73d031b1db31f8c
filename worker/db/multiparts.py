"""Rows of the multipart uploads that were started, until they have ended."""

import re
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, insert, select, update

from models import Batch, Multipart
from valetkey.wire.messages import ChunkMessage
from worker.core.policy.decisions import ChunkDecision, StartedUpload
from worker.core.signing.multipart_plan import MultipartPlan
from worker.db.engine import read_transaction, write_transaction

_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII).fullmatch  # of an item, as we write it


class UploadRecord(NamedTuple):
    """A multipart upload that was begun for a grant, which it does not outlive."""

    batch: int
    number: int
    tenant: str
    bucket: str
    key: str
    begun: StartedUpload
    expires_at: datetime
    is_open: bool


def insert_uploads(
    connection: Connection, batch: int, message: ChunkMessage, decided: ChunkDecision
) -> None:
    """Write what was begun for a chunk in the transaction that records its grants."""
    common = {
        "batch": batch,
        "tenant": message.tenant,
        "bucket": message.grant.bucket,
        "expires_at": decided.life.expires_at,
        "state": "open",
    }
    rows = []
    for row in decided.rows:
        begun = decided.begun.get(row.number)
        if begun is not None:
            own = {"number": row.number, "key": row.key, "upload_id": begun.upload_id}
            rows.append(common | own | begun.plan._asdict())
    if rows:
        connection.execute(insert(Multipart), rows)


class MultipartStore:
    """The uploads that were begun; each method is one transaction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def of_grant(self, tenant: str, grant: str) -> UploadRecord | None:
        """Find the upload that was begun for one grant of a tenant, by the grant's id."""
        batch, _, number = grant.rpartition(".")
        if not _NUMBER(number):
            return None
        with read_transaction(self._engine) as connection:
            return _find(connection, tenant, batch, int(number))

    def lapsed(self, now: datetime, limit: int) -> list[UploadRecord]:
        """List open uploads whose grants have ended, longest first."""
        query = (
            select(Multipart)
            .where(Multipart.state == "open", Multipart.expires_at <= now)
            .order_by(Multipart.expires_at)
            .limit(limit)
        )
        with read_transaction(self._engine) as connection:
            return [_open(row) for row in connection.execute(query)]

    def close(self, upload: UploadRecord) -> None:
        """Remember that an upload has ended."""
        one = (Multipart.batch == upload.batch, Multipart.number == upload.number)
        with write_transaction(self._engine) as connection:
            connection.execute(update(Multipart).where(*one).values(state="closed"))


def _find(connection: Connection, tenant: str, batch: str, number: int) -> UploadRecord | None:
    query = (
        select(Multipart)
        .join(Batch, Batch.number == Multipart.batch)
        .where(Batch.tenant == tenant, Batch.id == batch, Multipart.number == number)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else _open(row)


def uploads_of_chunk(
    connection: Connection, batch: int, numbers: range
) -> dict[int, StartedUpload]:
    """Find what was begun for a chunk's items, open or not, by item number."""
    query = select(Multipart).where(
        Multipart.batch == batch,
        Multipart.number >= numbers.start,
        Multipart.number < numbers.stop,
    )
    return {row.number: _open(row).begun for row in connection.execute(query)}


def _open(row: Any) -> UploadRecord:
    begun = StartedUpload(row.upload_id, MultipartPlan(row.size, row.part_size))
    return UploadRecord(
        batch=row.batch,
        number=row.number,
        tenant=row.tenant,
        bucket=row.bucket,
        key=row.key,
        begun=begun,
        expires_at=row.expires_at,
        is_open=row.state == "open",
    )
