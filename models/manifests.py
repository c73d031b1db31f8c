from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base
from models.tenants import TENANT_ID

_IS_PENDING = text("state = 'pending'")


class Manifest(Base):
    """The file that a batch's results are written to, under object_key in its bucket profile.

    A writer takes the row by storing a lease, and only the holder of that lease may report a
    result. state is pending, written or failed. issued and refused count the lines; bytes and
    sha256 describe the file as stored. tenant is the batch's.
    """

    __tablename__ = "manifests"
    __table_args__ = (
        Index(
            "ix_manifests_pending",
            *("tenant", "next_attempt_at"),
            postgresql_where=_IS_PENDING,
            sqlite_where=_IS_PENDING,
        ),
    )

    batch_number: Mapped[int] = mapped_column(ForeignKey("batches.batch_number"), primary_key=True)
    tenant: Mapped[str] = mapped_column(TENANT_ID)
    object_key: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int]
    next_attempt_at: Mapped[datetime]
    lease: Mapped[str | None] = mapped_column(String(36))
    problem: Mapped[str | None] = mapped_column(String(200))
    issued: Mapped[int]
    refused: Mapped[int]
    bytes: Mapped[int | None] = mapped_column(BigInteger)
    sha256: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
