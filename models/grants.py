"""The audit log of grants: requests, decisions, uploads in parts, and where object keys are.

Rows of requests and decisions are added and never changed. Values common to a batch are stored
once, in `batches`; values common to a chunk, in `chunks`. The key lookup can be built again.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from models.base import NUMBER, AppendOnly, Base, partial_index
from models.tenants import NAME, TENANT_ID

BATCH_ID = String(36)
ANNOTATION = String(200)
"""Text of the producer about a request, which may be personal: the log keeps a commitment to it.

A column of this type has a second one, for its salt. `audit erase` sets the text to NULL, and
replaces the salt by the commitment (worker/ledger/merkle.py).
"""
SALT = LargeBinary()
PARTITIONED = "grants"
DEFAULT_PARTITION = f"{PARTITIONED}_default"
"""The table that has partitions on PostgreSQL, and the partition of months without their own."""


class Batch(AppendOnly):
    """One request: its header as sent, and its refusal if it was refused as a whole.

    The tenant chooses batch_id, so two tenants may use the same one. `bucket` is the profile that
    the message named, whether or not it exists, and `tenant` the id of a tenant that can be
    removed: neither column is a foreign key. request_salt makes the fingerprints of the batch
    and of its chunks useless to confirm a guess once it is erased.
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
    requested_by: Mapped[str | None] = mapped_column(ANNOTATION)
    requested_by_salt: Mapped[bytes | None] = mapped_column(SALT)
    reason: Mapped[str | None] = mapped_column(ANNOTATION)
    reason_salt: Mapped[bytes | None] = mapped_column(SALT)
    recipient: Mapped[str | None] = mapped_column(ANNOTATION)
    recipient_salt: Mapped[bytes | None] = mapped_column(SALT)
    terms: Mapped[dict[str, Any]] = mapped_column(JSON)
    total: Mapped[int]
    chunk_size: Mapped[int]
    callback: Mapped[str | None] = mapped_column(NAME)
    notify: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    reissue_of: Mapped[str | None] = mapped_column(String(48))
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary(32))
    request_salt: Mapped[bytes | None] = mapped_column(SALT)
    refusal: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    decided_at: Mapped[datetime] = mapped_column(index=True)


class Chunk(AppendOnly):
    """One decided message, with everything needed to sign its grants again byte for byte.

    access_key is the public id of the credentials. expires_in is the validity in seconds after
    every limit was applied. refusal is set if all items were refused together. signing_key is the
    name of the tenant's key that signed the message, key_thumbprint that of the public key (RFC
    7638), both NULL if the message was not signed. config_change is the number of the newest change
    of the config that was in force, 0 if there was none. The service always writes it.
    """

    __tablename__ = "chunks"
    # Chunks that were refused after their batch was closed: their times do not follow from its.
    __table_args__ = (
        partial_index(
            "ix_chunks_late", "chunk_number > 0 AND issued = 0", "issued_at", "batch_number"
        ),
    )

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
    key_thumbprint: Mapped[str | None] = mapped_column(String(43))
    config_change: Mapped[int | None] = mapped_column(BigInteger)


class RefusedChunk(AppendOnly):
    """A chunk that has refused items, by its tenant: it leads to them, whatever their codes are.

    A trigger on `chunks` inserts the row, which saves the issuing transaction a statement.
    """

    __tablename__ = "refused_chunks"
    __table_args__ = ({"sqlite_with_rowid": False},)

    tenant: Mapped[str] = mapped_column(TENANT_ID, primary_key=True)
    batch_number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=False)
    chunk_number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class Grant(AppendOnly):
    """One audit row: the requested object key, and either a refusal code or a signature's digest.

    detail holds the fields that only this item has, such as its filename, or its refusal. Its kind
    is `put` if the item was issued as a PUT of exactly its size, though its batch asked for forms.
    batch_number has no foreign key: its row is written in the same transaction and never deleted,
    and checking the key for each of 600 rows would take an eighth of the transaction.
    """

    __tablename__ = "grants"
    __table_args__ = (
        partial_index(
            "ix_grants_refused", "code IS NOT NULL", "code", "batch_number", "item_number"
        ),
        {"sqlite_with_rowid": False},
    )

    batch_number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=False)
    item_number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    object_key: Mapped[str] = mapped_column(Text)
    code: Mapped[str | None] = mapped_column(String(32))
    detail: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    digest: Mapped[bytes | None] = mapped_column(LargeBinary(32))


INDEXED_TEXTS = ("recipient", "ref")
"""The columns of `Annotation` that an index has in lower case: those that most items differ in."""


class Annotation(AppendOnly):
    """The producer's own texts about one item. They take precedence over those of its batch.

    Items without such texts have no row. ref is the producer's reference, which comes back with the
    result.
    """

    __tablename__ = "annotations"
    __table_args__ = (
        *(Index(f"ix_annotations_{name}", func.lower(text(name))) for name in INDEXED_TEXTS),
        {"sqlite_with_rowid": False},
    )

    batch_number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=False)
    item_number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    recipient: Mapped[str | None] = mapped_column(ANNOTATION)
    recipient_salt: Mapped[bytes | None] = mapped_column(SALT)
    reason: Mapped[str | None] = mapped_column(ANNOTATION)
    reason_salt: Mapped[bytes | None] = mapped_column(SALT)
    ref: Mapped[str | None] = mapped_column(ANNOTATION)
    ref_salt: Mapped[bytes | None] = mapped_column(SALT)


class Reissue(AppendOnly):
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


class Cancellation(AppendOnly):
    """The cancellation of a batch by its tenant, even if none of its chunks has arrived."""

    __tablename__ = "cancellations"

    tenant: Mapped[str] = mapped_column(TENANT_ID, primary_key=True)
    batch_id: Mapped[str] = mapped_column(BATCH_ID, primary_key=True)
    signing_key: Mapped[str | None] = mapped_column(NAME)
    requested_by: Mapped[str | None] = mapped_column(ANNOTATION)
    requested_by_salt: Mapped[bytes | None] = mapped_column(SALT)
    reason: Mapped[str | None] = mapped_column(ANNOTATION)
    reason_salt: Mapped[bytes | None] = mapped_column(SALT)
    cancelled_at: Mapped[datetime]


class Erasure(AppendOnly):
    """An erasure of texts, once for each tenant whose texts it erased. Rows never change.

    texts is their number.
    """

    __tablename__ = "erasures"

    tenant: Mapped[str] = mapped_column(TENANT_ID, primary_key=True)
    erasure_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    erased_by: Mapped[str] = mapped_column(String(200))
    reason: Mapped[str | None] = mapped_column(String(200))
    texts: Mapped[int] = mapped_column(BigInteger)
    erased_at: Mapped[datetime]


class RejectionCount(Base):
    """The messages of one hour that could not be authenticated or parsed, counted by code.

    The code not_recorded counts those that were refused, and are recorded nowhere else.
    tenant is the id of the existing tenant that the message named, which does not prove that the
    tenant sent it; else it is empty. Of everything else only the SHA-256 of the last message is
    kept, so that a flood of them costs few rows.
    """

    __tablename__ = "rejections"

    hour: Mapped[datetime] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(TENANT_ID, primary_key=True)
    code: Mapped[str] = mapped_column(String(32), primary_key=True)
    count: Mapped[int] = mapped_column(BigInteger)
    last_at: Mapped[datetime]
    last_digest: Mapped[bytes] = mapped_column(LargeBinary(32))


class MultipartUpload(Base):
    """A multipart upload started for one grant, until it is known to have ended.

    size and part_size are in bytes. state is open, aborted or closed; an upload that is still open
    at expires_at is aborted. If storage had it until then, state becomes aborted, and expires_at is
    the time at which the service checks that nothing is stored, and gives the bytes back.
    granted_parts is the number of grants of parts that its charge paid for.
    """

    __tablename__ = "multipart_uploads"
    __table_args__ = (Index(None, "state", "expires_at"),)

    batch_number: Mapped[int] = mapped_column(ForeignKey("batches.batch_number"), primary_key=True)
    item_number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    tenant: Mapped[str] = mapped_column(TENANT_ID)
    bucket: Mapped[str] = mapped_column(NAME)
    object_key: Mapped[str] = mapped_column(Text)
    upload_id: Mapped[str] = mapped_column(Text)
    size: Mapped[int] = mapped_column(BigInteger)
    part_size: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[datetime]
    state: Mapped[str] = mapped_column(String(16))
    granted_parts: Mapped[int] = mapped_column(server_default="0")


class UploadStart(Base):
    """A multipart upload that an attempt to decide a chunk starts, from before the call to storage.

    The transaction that records the upload with its grant deletes the row. If there is none, the
    upload is aborted from cleanup_at on: state is then abandoned, and no grant can use it any more.
    upload_id is None as long as it is unknown, as after a crash or a lost answer.
    """

    __tablename__ = "upload_starts"
    __table_args__ = (Index(None, "cleanup_at"),)

    attempt: Mapped[str] = mapped_column(String(36), primary_key=True)
    item_number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    tenant: Mapped[str] = mapped_column(TENANT_ID)
    batch_id: Mapped[str] = mapped_column(BATCH_ID)
    bucket: Mapped[str] = mapped_column(NAME)
    object_key: Mapped[str] = mapped_column(Text)
    upload_id: Mapped[str | None] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16))
    started_at: Mapped[datetime]
    cleanup_at: Mapped[datetime]


class UnindexedChunk(Base):
    """A chunk whose object keys are in no segment yet.

    A trigger on `chunks` inserts the row, which saves the issuing transaction a statement.
    """

    __tablename__ = "unindexed_chunks"
    __table_args__ = ({"sqlite_with_rowid": False},)

    batch_number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=False)
    chunk_number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class KeySegment(Base):
    """A sorted list of the object keys of some chunks, divided into pages by their hash.

    The number of pages is 2 to the power of page_bits.
    """

    __tablename__ = "key_segments"

    segment_number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=True)
    entries: Mapped[int]
    page_bits: Mapped[int]


class KeyPage(Base):
    """The entries of a segment whose hashes begin with the bits of page_number.

    A page without entries has no row.
    """

    __tablename__ = "key_pages"

    segment_number: Mapped[int] = mapped_column(
        ForeignKey("key_segments.segment_number"), primary_key=True
    )
    page_number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    entries: Mapped[bytes] = mapped_column(LargeBinary)
