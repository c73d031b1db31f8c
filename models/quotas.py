from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base
from models.tenants import NAME


class Quota(Base):
    """How much of a metric (grants, upload_bytes) a tenant may be granted in one UTC window."""

    __tablename__ = "quotas"

    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name"), primary_key=True)
    metric: Mapped[str] = mapped_column(String(16), primary_key=True)
    window: Mapped[str] = mapped_column(String(8), primary_key=True)
    limit: Mapped[int] = mapped_column(BigInteger)


class Usage(Base):
    """What a tenant was charged in the window that began at start.

    It refers to no other row: neither a changed limit nor a tenant removed and declared again may
    forget what was used.
    """

    __tablename__ = "usage"
    __table_args__ = (CheckConstraint("used >= 0", "not_negative"),)

    tenant: Mapped[str] = mapped_column(NAME, primary_key=True)
    metric: Mapped[str] = mapped_column(String(16), primary_key=True)
    window: Mapped[str] = mapped_column(String(8), primary_key=True)
    start: Mapped[datetime] = mapped_column(primary_key=True)
    used: Mapped[int] = mapped_column(BigInteger)
