from datetime import datetime

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from models.base import NUMBER, Base
from models.tenants import NAME, TENANT_ID


class Delivery(Base):
    """An outbox row: the outcome of one chunk, to be sent to one of its tenant's endpoints.

    A sender takes the row by storing a lease, and only the holder of that lease may report a
    result. state is pending, delivered or failed. status is the HTTP status of the last attempt.
    """

    __tablename__ = "deliveries"
    __table_args__ = (Index(None, "state", "next_attempt_at"),)

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
