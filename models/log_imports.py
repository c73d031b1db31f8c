"""The progress of imports of access logs."""

from datetime import datetime

from sqlalchemy import BigInteger, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base


class LogImport(Base):
    """How much of one access log was imported.

    source is a path or s3://PROFILE/KEY. mark tells whether it is still the same log: the ETag of
    an object, or the SHA-256 of a file's first bytes. position is in bytes, uncompressed.
    """

    __tablename__ = "log_imports"

    source: Mapped[str] = mapped_column(Text, primary_key=True)
    mark: Mapped[str] = mapped_column(String(128))
    position: Mapped[int] = mapped_column(BigInteger)
    is_complete: Mapped[bool]
    imported_at: Mapped[datetime]
