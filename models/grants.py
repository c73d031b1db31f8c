"""The audit log: requests and decisions. Rows are added and never changed.

Values common to a batch are stored once, in `batches`; values common to a chunk, in `chunks`.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from models.base import NUMBER, Base
from models.tenants import NAME, TENANT_ID

BATCH_ID = String(36)
REASON = String(200)


class Batch(Base):
    """One request: its header as sent, and its refusal if it was refused as a whole.

    The tenant chooses batch_id, so two tenants may use the same one. `bucket` is the profile that
    the message named, whether or not it exists, and `tenant` the id of a tenant that can be
    removed: neither column is a foreign key.
    """

    __tablename__ = "batches"
    __table_args__ = (
        UniqueConstraint("tenant", "batch_id"),
        Index(None, "tenant", "batch_number"),
        Index(None, "batch_id"),
    )

    batch_number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=True)
    batch_id: Mapped[str] = mapped_column(BATCH_ID)
    tenant: Mapped[str] = mapped_column(TENANT_ID)
    bucket: Mapped[str] = mapped_column(NAME)
    kind: Mapped[str] = mapped_column(String(16))
    requested_by: Mapped[str] = mapped_column(String(200))
    reason: Mapped[str | None] = mapped_column(REASON)
    recipient: Mapped[str | None] = mapped_column(REASON)
    terms: Mapped[dict[str, Any]] = mapped_column(JSON)
    total: Mapped[int]
    chunk_size: Mapped[int]
    callback: Mapped[str | None] = mapped_column(NAME)
    notify: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    reissue_of: Mapped[str | None] = mapped_column(String(48))
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary(32))
    refusal: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    decided_at: Mapped[datetime] = mapped_column(index=True)


class Chunk(Base):
    """One decided message, with everything needed to sign its grants again byte for byte.

    access_key is the public id of the credentials. expires_in is the validity in seconds after
    every limit was applied. refusal is set if all items were refused together. signing_key is the
    name of the tenant's key that signed the message, NULL if the message was not signed.
    """

    __tablename__ = "chunks"

    batch_number: Mapped[int] = mapped_column(ForeignKey("batches.batch_number"), primary_key=True)
    chunk_number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary(32))
    issued: Mapped[int]
    refused: Mapped[int]
    issued_at: Mapped[datetime]
    expires_in: Mapped[int]
    limited_by: Mapped[str] = mapped_column(String(16))
    access_key: Mapped[str | None] = mapped_column(String(128))
    refusal: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    signing_key: Mapped[str | None] = mapped_column(NAME)


class RefusedChunk(Base):
    """A chunk that has refused items, by its tenant: it leads to them, whatever their codes are.

    A trigger on `chunks` inserts the row, which saves the issuing transaction a statement.
    """

    __tablename__ = "refused_chunks"
    __table_args__ = ({"sqlite_with_rowid": False},)

    tenant: Mapped[str] = mapped_column(TENANT_ID, primary_key=True)
    batch_number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=False)
    chunk_number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class Grant(Base):
    """One audit row: the requested object key, and either a refusal code or a signature's digest.

    detail holds the fields that only this item has, such as its filename, or its refusal.
    batch_number has no foreign key: its row is written in the same transaction and never deleted,
    and checking the key for each of 600 rows would take an eighth of the transaction.
    """

    __tablename__ = "grants"
    __table_args__ = ({"sqlite_with_rowid": False},)

    batch_number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=False)
    item_number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    object_key: Mapped[str] = mapped_column(Text)
    code: Mapped[str | None] = mapped_column(String(32))
    detail: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    digest: Mapped[bytes | None] = mapped_column(LargeBinary(32))


class Reissue(Base):
    """A second signing of a chunk that gave other grants than the recorded ones.

    New credentials cause that. digests concatenates the digests of the issued grants, in order;
    fingerprint identifies digests.
    """

    __tablename__ = "reissues"

    batch_number: Mapped[int] = mapped_column(ForeignKey("batches.batch_number"), primary_key=True)
    chunk_number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    access_key: Mapped[str] = mapped_column(String(128))
    reissued_at: Mapped[datetime]
    digests: Mapped[bytes] = mapped_column(LargeBinary)


class Cancellation(Base):
    """The cancellation of a batch by its tenant, even if none of its chunks has arrived."""

    __tablename__ = "cancellations"

    tenant: Mapped[str] = mapped_column(TENANT_ID, primary_key=True)
    batch_id: Mapped[str] = mapped_column(BATCH_ID, primary_key=True)
    signing_key: Mapped[str | None] = mapped_column(NAME)
    requested_by: Mapped[str] = mapped_column(String(200))
    reason: Mapped[str | None] = mapped_column(REASON)
    cancelled_at: Mapped[datetime]
