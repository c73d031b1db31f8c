from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base


class Manifest(Base):
    """The file that a batch's answers are to be written to, in its bucket profile, under key.

    Whoever writes takes the row for a while by writing a lease; only that lease may then report.
    state is pending, written or failed; issued and refused count the lines, bytes and sha256 are of
    the file as it is stored.
    """

    __tablename__ = "manifests"
    __table_args__ = (Index(None, "state", "next_attempt_at"),)

    batch: Mapped[int] = mapped_column(ForeignKey("batches.number"), primary_key=True)
    key: Mapped[str] = mapped_column(Text)
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
