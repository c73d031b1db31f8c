from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import NUMBER, Base
from models.tenants import TENANT_ID


class ConfigChange(Base):
    """One field of the tenant config before and after a change: the audit log of administration.

    Rows are added and never changed. changed_by is the operator's account, command the command
    that made the change.
    """

    __tablename__ = "config_changes"

    change_number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=True)
    changed_at: Mapped[datetime] = mapped_column(index=True)
    changed_by: Mapped[str] = mapped_column(String(200))
    command: Mapped[str] = mapped_column(String(32))
    path: Mapped[str] = mapped_column(Text)
    before: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))
    after: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))


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
