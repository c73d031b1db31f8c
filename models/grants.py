"""The audit log: what was asked and decided. Rows are added and never changed.

What is the same for a whole batch stands once, on the batch; for a chunk, once on the chunk.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base
from models.tenants import NAME

# SQLite counts rows by itself only in a column that it calls INTEGER.
NUMBER = BigInteger().with_variant(Integer, "sqlite")


class Batch(Base):
    """One request: its header as sent, and whether it was admitted.

    Its id is its tenant's own choice, so another tenant's may be the same. bucket is what the
    message claimed, known or not, and a tenant may be removed: they refer to no other table.
    """

    __tablename__ = "batches"
    __table_args__ = (
        UniqueConstraint("tenant", "id"),
        Index(None, "tenant", "number"),
        Index(None, "id"),
    )

    number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(36))
    tenant: Mapped[str] = mapped_column(NAME)
    bucket: Mapped[str] = mapped_column(NAME)
    kind: Mapped[str] = mapped_column(String(16))
    requested_by: Mapped[str] = mapped_column(String(200))
    reason: Mapped[str | None] = mapped_column(String(200))
    terms: Mapped[dict[str, Any]] = mapped_column(JSON)
    total: Mapped[int]
    chunk_size: Mapped[int]
    callback: Mapped[str | None] = mapped_column(NAME)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary(32))
    refusal: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    decided_at: Mapped[datetime] = mapped_column(index=True)


class Chunk(Base):
    """One decided message: enough to sign its grants again to the byte.

    access_key is the credentials' public id, expires_in (seconds) what was left after every limit,
    refusal what refused all of its items at once, key the name of the tenant's key that signed the
    message; nothing where the queue alone vouched for it.
    """

    __tablename__ = "chunks"

    batch: Mapped[int] = mapped_column(ForeignKey("batches.number"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary(32))
    issued: Mapped[int]
    refused: Mapped[int]
    issued_at: Mapped[datetime]
    expires_in: Mapped[int]
    limited_by: Mapped[str] = mapped_column(String(16))
    access_key: Mapped[str | None] = mapped_column(String(128))
    refusal: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    key: Mapped[str | None] = mapped_column(NAME)


class Grant(Base):
    """One audit row: the key that was asked for, and a refusal's code or a signature's digest.

    detail holds what only this item has: its own filename, or its refusal. batch is that of a row
    of batches, which is written in the same transaction and never deleted: to have it checked for
    each of 500 rows takes an eighth of the transaction.
    """

    __tablename__ = "grants"
    __table_args__ = ({"sqlite_with_rowid": False},)

    batch: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    key: Mapped[str] = mapped_column(Text)
    code: Mapped[str | None] = mapped_column(String(32))
    detail: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    digest: Mapped[bytes | None] = mapped_column(LargeBinary(32))


class Reissue(Base):
    """A chunk whose grants came out other than recorded when they were signed again.

    New credentials do that. digests: of its issued grants, in order; fingerprint: of the digests.
    """

    __tablename__ = "reissues"

    batch: Mapped[int] = mapped_column(ForeignKey("batches.number"), primary_key=True)
    chunk: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    access_key: Mapped[str] = mapped_column(String(128))
    at: Mapped[datetime]
    digests: Mapped[bytes] = mapped_column(LargeBinary)


class Cancellation(Base):
    """That a tenant cancelled a batch, whether or not anything of it had arrived by then."""

    __tablename__ = "cancellations"

    tenant: Mapped[str] = mapped_column(NAME, primary_key=True)
    batch: Mapped[str] = mapped_column(String(36), primary_key=True)
    key: Mapped[str | None] = mapped_column(NAME)
    requested_by: Mapped[str] = mapped_column(String(200))
    reason: Mapped[str | None] = mapped_column(String(200))
    at: Mapped[datetime]
