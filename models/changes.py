from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base
from models.grants import NUMBER


class ConfigChange(Base):
    """One field of what is declared, as it was before and after: the audit log of administration.

    Rows are added and never changed. by is the operator's account, through what it used.
    """

    __tablename__ = "changes"

    number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=True)
    at: Mapped[datetime] = mapped_column(index=True)
    by: Mapped[str] = mapped_column(String(200))
    through: Mapped[str] = mapped_column(String(32))
    path: Mapped[str] = mapped_column(Text)
    before: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))
    after: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))


class Rejection(Base):
    """Messages of one hour that nobody could be shown to have sent, or that could not be read.

    tenant is there where a declared one was named, which is no proof that it asked; of the rest of
    what they claimed, only the last one's SHA-256 is kept. So a flood of them is a few rows.
    """

    __tablename__ = "rejections"

    hour: Mapped[datetime] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(String(63), primary_key=True)
    code: Mapped[str] = mapped_column(String(32), primary_key=True)
    count: Mapped[int] = mapped_column(BigInteger)
    last_at: Mapped[datetime]
    last_digest: Mapped[bytes] = mapped_column(LargeBinary(32))
