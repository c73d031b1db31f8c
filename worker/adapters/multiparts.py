"""Multipart uploads: begun and aborted at storage, and remembered until they have ended."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError
from sqlalchemy import Connection, Engine, insert, select, update

from models import Batch, Multipart
from valetkey.messages import Message
from worker.adapters.database import reading, writing
from worker.core.decisions import Begun, Decided
from worker.core.multipart import Plan
from worker.errors import Transient

_GONE = "NoSuchUpload"
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII).fullmatch  # of an item, as we write it


class Open(NamedTuple):
    """A multipart upload that was begun for a grant, which it does not outlive."""

    batch: int
    number: int
    tenant: str
    bucket: str
    key: str
    begun: Begun
    expires_at: datetime
    is_open: bool


def begin(client: Any, bucket: str, key: str, said: Mapping[str, Any]) -> str:
    """Have storage begin an upload, and return its id. Raises Transient where it does not."""
    try:
        upload_id: str = client.create_multipart_upload(Bucket=bucket, Key=key, **said)["UploadId"]
    except (BotoCoreError, ClientError) as error:
        raise Transient(f"storage began no multipart upload: {reason(error)}") from None
    return upload_id


def abort(client: Any, bucket: str, key: str, upload_id: str) -> None:
    """Have storage forget an upload; one that was completed or aborted is no failure."""
    try:
        client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id)
    except ClientError as error:
        if reason(error) != _GONE:
            raise Transient(f"storage aborted no upload: {reason(error)}") from None
    except BotoCoreError as error:
        raise Transient(f"storage aborted no upload: {reason(error)}") from None


def reason(error: Exception) -> str:
    """Why storage did not do it: the code alone, as the rest may quote the request."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", "unknown"))
    return type(error).__name__


def remember(connection: Connection, batch: int, message: Message, decided: Decided) -> None:
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


class Multiparts:
    """The uploads that were begun; each method is one transaction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def of_grant(self, tenant: str, grant: str) -> Open | None:
        """Find the upload that was begun for one grant of a tenant, by the grant's id."""
        batch, _, number = grant.rpartition(".")
        if not _NUMBER(number):
            return None
        with reading(self._engine) as connection:
            return _find(connection, tenant, batch, int(number))

    def lapsed(self, now: datetime, limit: int) -> list[Open]:
        """List open uploads whose grants have ended, longest first."""
        query = (
            select(Multipart)
            .where(Multipart.state == "open", Multipart.expires_at <= now)
            .order_by(Multipart.expires_at)
            .limit(limit)
        )
        with reading(self._engine) as connection:
            return [_open(row) for row in connection.execute(query)]

    def close(self, upload: Open) -> None:
        """Remember that an upload has ended."""
        one = (Multipart.batch == upload.batch, Multipart.number == upload.number)
        with writing(self._engine) as connection:
            connection.execute(update(Multipart).where(*one).values(state="closed"))


def _find(connection: Connection, tenant: str, batch: str, number: int) -> Open | None:
    query = (
        select(Multipart)
        .join(Batch, Batch.number == Multipart.batch)
        .where(Batch.tenant == tenant, Batch.id == batch, Multipart.number == number)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else _open(row)


def of_chunk(connection: Connection, batch: int, numbers: range) -> dict[int, Begun]:
    """Find what was begun for a chunk's items, open or not, by item number."""
    query = select(Multipart).where(
        Multipart.batch == batch,
        Multipart.number >= numbers.start,
        Multipart.number < numbers.stop,
    )
    return {row.number: _open(row).begun for row in connection.execute(query)}


def _open(row: Any) -> Open:
    begun = Begun(row.upload_id, Plan(row.size, row.part_size))
    return Open(
        batch=row.batch,
        number=row.number,
        tenant=row.tenant,
        bucket=row.bucket,
        key=row.key,
        begun=begun,
        expires_at=row.expires_at,
        is_open=row.state == "open",
    )
