"""The uses of grants: reports of storage, the object of each key, ended slots, imported logs."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import AppendOnly, Base, partial_index
from models.tenants import NAME, TENANT_ID


class Use(AppendOnly):
    """One use of a grant, as a source reported it. Rows are added and never changed.

    event is stored, completed, aborted, downloaded or deleted; source is probe, event or log.
    verdict compares the use with its grant: as_granted, late or mismatched; problem names the term
    that a mismatched one breaks. fingerprint identifies the use, so that it is recorded once,
    however many sources report it. A number would identify nothing more, and no leaf could cover
    it. charged_bytes are those that a settlement had given back and this use cost again, else None.
    group_id is common to the uses that one transaction recorded for one tenant, and the reference
    of their leaf.
    """

    __tablename__ = "uses"
    __table_args__ = (
        Index(None, "batch_number", "item_number"),
        Index(None, "group_id"),
        # The few uses that are not as granted, which are looked for most often.
        partial_index(
            "ix_uses_exceptions", "verdict <> 'as_granted'", "batch_number", "item_number"
        ),
    )

    fingerprint: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    tenant: Mapped[str] = mapped_column(TENANT_ID)
    batch_number: Mapped[int] = mapped_column(ForeignKey("batches.batch_number"))
    item_number: Mapped[int]
    event: Mapped[str] = mapped_column(String(16))
    source: Mapped[str] = mapped_column(String(16))
    verdict: Mapped[str] = mapped_column(String(16))
    problem: Mapped[str | None] = mapped_column(String(200))
    occurred_at: Mapped[datetime]
    recorded_at: Mapped[datetime]
    size: Mapped[int | None] = mapped_column(BigInteger)
    etag: Mapped[str | None] = mapped_column(String(128))
    version: Mapped[str | None] = mapped_column(Text)
    checksum: Mapped[str | None] = mapped_column(String(128))
    content_type: Mapped[str | None] = mapped_column(String(255))
    remote_address: Mapped[str | None] = mapped_column(String(64))
    user_agent: Mapped[str | None] = mapped_column(String(256))
    charged_bytes: Mapped[int | None] = mapped_column(BigInteger)
    group_id: Mapped[str] = mapped_column(String(36))


class StoredObject(Base):
    """The newest known object of a key in a real bucket, and the grant that stored it.

    bucket is the storage name: the host and the name, as two servers may have buckets of one name.
    Reports arrive in any order: an older one changes nothing. After a deletion the row stays, with
    is_deleted and a size of 0, for the same reason. version is None if the bucket has no versions.
    is_counted is true if the size counts as stored: until a slot is settled, its reservation does.
    """

    __tablename__ = "stored_objects"
    __table_args__ = (Index(None, "batch_number", "item_number"),)

    bucket: Mapped[str] = mapped_column(Text, primary_key=True)
    object_key: Mapped[str] = mapped_column(Text, primary_key=True)
    tenant: Mapped[str] = mapped_column(TENANT_ID)
    batch_number: Mapped[int] = mapped_column(ForeignKey("batches.batch_number"))
    item_number: Mapped[int]
    size: Mapped[int] = mapped_column(BigInteger)
    is_deleted: Mapped[bool]
    changed_at: Mapped[datetime]
    sequencer: Mapped[str] = mapped_column(String(64))
    version: Mapped[str | None] = mapped_column(Text)
    is_counted: Mapped[bool]


class EndedSlot(Base):
    """A chunk of upload slots that ended, while it is looked for what was stored.

    charged_at is the time of the windows that were charged, and bucket the bucket profile.
    reserved_bytes are still charged there and in the window live, until the chunk is settled: the
    bytes of aborted multipart uploads leave them when they are given back. check_at is when storage
    is asked next, and attempts how often that began. is_settled is true if that is the second look,
    for uploads that ended after the settlement.
    """

    __tablename__ = "ended_slots"
    __table_args__ = (Index(None, "bucket", "check_at"),)

    batch_number: Mapped[int] = mapped_column(ForeignKey("batches.batch_number"), primary_key=True)
    chunk_number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    tenant: Mapped[str] = mapped_column(TENANT_ID)
    bucket: Mapped[str] = mapped_column(NAME)
    charged_at: Mapped[datetime]
    ended_at: Mapped[datetime]
    check_at: Mapped[datetime]
    attempts: Mapped[int]
    reserved_bytes: Mapped[int] = mapped_column(BigInteger)
    is_settled: Mapped[bool]


class Settlement(AppendOnly):
    """The end of a chunk of upload slots: what was used, and what was given back.

    Rows are added and never changed. unused lists numbers of items as ranges, such as 0-5,9.
    returned_bytes left the windows in which the chunk was charged.
    """

    __tablename__ = "settlements"

    batch_number: Mapped[int] = mapped_column(ForeignKey("batches.batch_number"), primary_key=True)
    chunk_number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    tenant: Mapped[str] = mapped_column(TENANT_ID)
    unused: Mapped[str] = mapped_column(Text)
    used_bytes: Mapped[int] = mapped_column(BigInteger)
    returned_bytes: Mapped[int] = mapped_column(BigInteger)
    settled_at: Mapped[datetime]


class LogImport(Base):
    """The part of one access log that was imported.

    source is a path or s3://PROFILE/KEY. mark shows whether it is still the same log: the ETag of
    an object, or the SHA-256 of a file's first bytes. position is in bytes, uncompressed.
    """

    __tablename__ = "log_imports"

    source: Mapped[str] = mapped_column(Text, primary_key=True)
    mark: Mapped[str] = mapped_column(String(128))
    position: Mapped[int] = mapped_column(BigInteger)
    is_complete: Mapped[bool]
    imported_at: Mapped[datetime]
