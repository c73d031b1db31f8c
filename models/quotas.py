from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base
from models.grants import NUMBER
from models.tenants import NAME


class Quota(Base):
    """How much of a metric (grants, download_grants, upload_bytes) a tenant may be granted.

    In one window of UTC, or live: granted and not lapsed. From warn_at on there are warnings.
    """

    __tablename__ = "quotas"

    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name"), primary_key=True)
    metric: Mapped[str] = mapped_column(String(16), primary_key=True)
    window: Mapped[str] = mapped_column(String(8), primary_key=True)
    limit: Mapped[int] = mapped_column(BigInteger)
    warn_at: Mapped[int | None] = mapped_column(BigInteger)


class QuotaOverride(Base):
    """So much more than its limit a quota has until then, whatever is declared meanwhile."""

    __tablename__ = "raises"

    number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=True)
    tenant: Mapped[str] = mapped_column(NAME)
    metric: Mapped[str] = mapped_column(String(16))
    window: Mapped[str] = mapped_column(String(8))
    extra: Mapped[int] = mapped_column(BigInteger)
    until: Mapped[datetime] = mapped_column(index=True)


class Usage(Base):
    """What a tenant was charged in the window that began at start, by metric.

    The window live has what was granted and has not lapsed. A row refers to no other: neither a
    changed limit nor a tenant removed and declared again may forget what was used.
    """

    __tablename__ = "usage"
    __table_args__ = (
        CheckConstraint(
            "grants >= 0 AND download_grants >= 0 AND upload_bytes >= 0", "not_negative"
        ),
    )

    tenant: Mapped[str] = mapped_column(NAME, primary_key=True)
    window: Mapped[str] = mapped_column(String(8), primary_key=True)
    start: Mapped[datetime] = mapped_column(primary_key=True)
    grants: Mapped[int] = mapped_column(BigInteger)
    download_grants: Mapped[int] = mapped_column(BigInteger)
    upload_bytes: Mapped[int] = mapped_column(BigInteger)


class Reservation(Base):
    """What a chunk has in the window live, until its grants lapse at ends_at.

    A batch of several chunks has another, of chunk -1: items that did not arrive yet, and what is
    reserved for them in every window since charged_at. Without it, no more of the batch is granted.
    key is the name of the key that asked.
    """

    __tablename__ = "holds"
    __table_args__ = (Index(None, "tenant"),)

    batch: Mapped[int] = mapped_column(ForeignKey("batches.number"), primary_key=True)
    chunk: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    tenant: Mapped[str] = mapped_column(NAME)
    key: Mapped[str | None] = mapped_column(NAME)
    items: Mapped[int]
    grants: Mapped[int] = mapped_column(BigInteger)
    download_grants: Mapped[int] = mapped_column(BigInteger)
    upload_bytes: Mapped[int] = mapped_column(BigInteger)
    charged_at: Mapped[datetime]
    ends_at: Mapped[datetime] = mapped_column(index=True)
