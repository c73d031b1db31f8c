from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from models.base import NUMBER, Base
from models.tenants import NAME, TENANT_ID

METRIC = String(16)
WINDOW = String(8)


class Quota(Base):
    """The limit of one metric (grants, download_grants, upload_bytes, stored_bytes) in one window.

    Windows are in UTC, except `live`: see Usage. Reaching warn_at causes warnings.
    """

    __tablename__ = "quotas"

    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name"), primary_key=True)
    metric: Mapped[str] = mapped_column(METRIC, primary_key=True)
    window: Mapped[str] = mapped_column(WINDOW, primary_key=True)
    limit: Mapped[int] = mapped_column(BigInteger)
    warn_at: Mapped[int | None] = mapped_column(BigInteger)


class QuotaOverride(Base):
    """A temporary increase of one quota by `extra`, kept when another config is applied."""

    __tablename__ = "quota_overrides"

    override_number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=True)
    tenant: Mapped[str] = mapped_column(TENANT_ID)
    metric: Mapped[str] = mapped_column(METRIC)
    window: Mapped[str] = mapped_column(WINDOW)
    extra: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[datetime] = mapped_column(index=True)


class Usage(Base):
    """The amount charged to a tenant in the window that began at window_start, by metric.

    The window `live` counts grants that have not expired, the bytes of upload slots until they are
    settled, and the bytes that are stored. The window `records` is a day, and counts in
    uncharged_bytes what was recorded without a charge: refusals above all. No foreign key: usage
    survives a changed limit, and the grants of a removed tenant are still released.
    """

    __tablename__ = "usage"
    __table_args__ = (
        CheckConstraint(
            "grants >= 0 AND download_grants >= 0 AND upload_bytes >= 0", "not_negative"
        ),
    )

    tenant: Mapped[str] = mapped_column(TENANT_ID, primary_key=True)
    window: Mapped[str] = mapped_column(WINDOW, primary_key=True)
    window_start: Mapped[datetime] = mapped_column(primary_key=True)
    grants: Mapped[int] = mapped_column(BigInteger)
    download_grants: Mapped[int] = mapped_column(BigInteger)
    upload_bytes: Mapped[int] = mapped_column(BigInteger)
    stored_bytes: Mapped[int] = mapped_column(BigInteger, server_default="0")
    uncharged_bytes: Mapped[int] = mapped_column(BigInteger, server_default="0")


class Reservation(Base):
    """Quota held for a chunk in the window `live` until its grants expire.

    A batch of several chunks has a second kind of row, with chunk_number -1: the items that have
    not arrived yet, and the amount reserved for them in every window since charged_at. Without
    that row, the batch accepts no further chunk. signing_key is the name of the tenant's key that
    signed the message.
    """

    __tablename__ = "reservations"
    __table_args__ = (Index(None, "tenant"),)

    batch_number: Mapped[int] = mapped_column(ForeignKey("batches.batch_number"), primary_key=True)
    chunk_number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    tenant: Mapped[str] = mapped_column(TENANT_ID)
    signing_key: Mapped[str | None] = mapped_column(NAME)
    items: Mapped[int]
    grants: Mapped[int] = mapped_column(BigInteger)
    download_grants: Mapped[int] = mapped_column(BigInteger)
    upload_bytes: Mapped[int] = mapped_column(BigInteger)
    charged_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
