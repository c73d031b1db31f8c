from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base


class Manifest(Base):
    """The file that a batch's results are written to, under object_key in its bucket profile.

    A writer takes the row by storing a lease, and only the holder of that lease may report a
    result. state is pending, written or failed. issued and refused count the lines; bytes and
    sha256 describe the file as stored.
    """

    __tablename__ = "manifests"
    __table_args__ = (Index(None, "state", "next_attempt_at"),)

    batch_number: Mapped[int] = mapped_column(ForeignKey("batches.batch_number"), primary_key=True)
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
