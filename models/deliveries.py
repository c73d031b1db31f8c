"""Webhooks and manifests: the messages and files that follow a batch."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import NUMBER, Base
from models.tenants import NAME, TENANT_ID

_IS_PENDING, _IS_FAILED = text("state = 'pending'"), text("state = 'failed'")
_HAS_NO_BATCH = text("batch_number IS NULL")


class Delivery(Base):
    """An outbox row: one webhook of the type event, to be sent to one of its tenant's endpoints.

    A sender takes the row by storing a lease, and only the holder of that lease may report a
    result. state is pending, delivered or failed; that of `batch.completed` is waiting until its
    batch is complete, when a new row with a higher number replaces it. status and duration_ms are
    those of the last attempt. A delivery is not attempted before not_before, for which the endpoint
    asked, nor after expires_at; NULL sets no such limit. An event without a batch has its data in
    content. group_id distinguishes events of one batch or tenant, such as uses by their group.
    pages is the number of webhooks that the outcome of a chunk is divided into.
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
        Index(
            "ix_deliveries_failed",
            *("tenant", "endpoint", "created_at"),
            postgresql_where=_IS_FAILED,
            sqlite_where=_IS_FAILED,
        ),
        Index(
            "ix_deliveries_once",
            *("tenant", "endpoint", "event", "group_id"),
            unique=True,
            postgresql_where=_HAS_NO_BATCH,
            sqlite_where=_HAS_NO_BATCH,
        ),
    )

    delivery_number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=True)
    batch_number: Mapped[int | None] = mapped_column(ForeignKey("batches.batch_number"))
    chunk_number: Mapped[int | None]
    page: Mapped[int] = mapped_column(server_default="1")
    pages: Mapped[int] = mapped_column(server_default="1")
    tenant: Mapped[str] = mapped_column(TENANT_ID)
    endpoint: Mapped[str] = mapped_column(NAME)
    event: Mapped[str] = mapped_column(String(32))
    group_id: Mapped[str | None] = mapped_column(String(80))
    content: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int]
    next_attempt_at: Mapped[datetime]
    not_before: Mapped[datetime | None]
    lease: Mapped[str | None] = mapped_column(String(36))
    status: Mapped[int | None]
    problem: Mapped[str | None] = mapped_column(String(200))
    duration_ms: Mapped[int | None]
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]


class DeliveryAttempt(Base):
    """A failed attempt of a delivery. One that succeeded is in the delivery's own row."""

    __tablename__ = "delivery_attempts"

    attempt_number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=True)
    delivery_number: Mapped[int] = mapped_column(
        ForeignKey("deliveries.delivery_number"), index=True
    )
    attempted_at: Mapped[datetime]
    duration_ms: Mapped[int]
    status: Mapped[int | None]
    problem: Mapped[str] = mapped_column(String(200))


class EndpointState(Base):
    """An endpoint that failed or is disabled. A success deletes the row, unless it is disabled.

    failures are those in a row without a response below 500; until open_until, no delivery is
    attempted. failing_since is the time of the first attempt that failed since the last success,
    and problem says how the last one failed. Nothing is sent to an endpoint with disabled_at.
    disabled_by is an operator's account, or NULL if the service disabled it.
    """

    __tablename__ = "endpoint_states"

    tenant: Mapped[str] = mapped_column(TENANT_ID, primary_key=True)
    endpoint: Mapped[str] = mapped_column(NAME, primary_key=True)
    failures: Mapped[int]
    failed_at: Mapped[datetime | None]
    failing_since: Mapped[datetime | None]
    problem: Mapped[str | None] = mapped_column(String(200))
    open_until: Mapped[datetime | None]
    disabled_at: Mapped[datetime | None]
    disabled_by: Mapped[str | None] = mapped_column(String(200))


class EndpointHour(Base):
    """The number of attempts in one hour at one endpoint, by result and class of response time.

    latency_class is 0 without a response; the code that writes the others has their limits.
    """

    __tablename__ = "endpoint_hours"

    tenant: Mapped[str] = mapped_column(TENANT_ID, primary_key=True)
    endpoint: Mapped[str] = mapped_column(NAME, primary_key=True)
    hour: Mapped[datetime] = mapped_column(primary_key=True)
    is_success: Mapped[bool] = mapped_column(primary_key=True)
    latency_class: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    attempts: Mapped[int]


class WebhookListener(Base):
    """A `valetkey webhooks listen` that runs until expires_at, unless it asks again.

    Its events are sealed to the tenant's key of this name. cursor is the highest number of a
    delivery that was relayed to it, and recent are the numbers of the last ones: a lower number may
    be committed later.
    """

    __tablename__ = "webhook_listeners"

    listener_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    tenant: Mapped[str] = mapped_column(TENANT_ID, index=True)
    key: Mapped[str] = mapped_column(NAME)
    cursor: Mapped[int] = mapped_column(BigInteger)
    recent: Mapped[list[int]] = mapped_column(JSON)
    expires_at: Mapped[datetime]


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
