"""Webhooks and manifests: the messages and files that follow a batch."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import NUMBER, Base
from models.tenants import NAME, TENANT_ID

_IS_PENDING = text("state = 'pending'")


class Delivery(Base):
    """An outbox row: the outcome of one chunk, to be sent to one of its tenant's endpoints.

    A sender takes the row by storing a lease, and only the holder of that lease may report a
    result. state is pending, delivered or failed. status is the HTTP status of the last attempt.
    A delivery is not attempted after expires_at; NULL sets no such limit. event is NULL for the
    outcome. Else it is the type of the webhook, about the uses in group_id or a settlement.
    """

    __tablename__ = "deliveries"
    # Of finished deliveries, which are most of the table, the partial indexes contain nothing.
    __table_args__ = (
        Index(None, "batch_number", "chunk_number"),
        Index(
            "ix_deliveries_pending",
            *("tenant", "endpoint", "next_attempt_at"),
            postgresql_where=_IS_PENDING,
            sqlite_where=_IS_PENDING,
        ),
        Index(
            "ix_deliveries_pending_expires_at",
            "expires_at",
            postgresql_where=_IS_PENDING,
            sqlite_where=_IS_PENDING,
        ),
    )

    delivery_number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=True)
    batch_number: Mapped[int] = mapped_column(ForeignKey("batches.batch_number"))
    chunk_number: Mapped[int]
    tenant: Mapped[str] = mapped_column(TENANT_ID)
    endpoint: Mapped[str] = mapped_column(NAME)
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int]
    next_attempt_at: Mapped[datetime]
    lease: Mapped[str | None] = mapped_column(String(36))
    status: Mapped[int | None]
    problem: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    event: Mapped[str | None] = mapped_column(String(32))
    group_id: Mapped[str | None] = mapped_column(String(36))


class EndpointCircuit(Base):
    """The consecutive failures of an endpoint. A response of the endpoint deletes the row.

    Until open_until, no delivery to the endpoint is attempted.
    """

    __tablename__ = "endpoint_circuits"

    tenant: Mapped[str] = mapped_column(NAME, primary_key=True)
    endpoint: Mapped[str] = mapped_column(NAME, primary_key=True)
    failures: Mapped[int]
    failed_at: Mapped[datetime]
    open_until: Mapped[datetime | None]


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
