from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base
from models.grants import BATCH_ID
from models.tenants import NAME, TENANT_ID


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
    granted_parts: Mapped[int] = mapped_column(server_default=text("0"))


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
