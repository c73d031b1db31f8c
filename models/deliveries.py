from datetime import datetime

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base
from models.grants import NUMBER
from models.tenants import NAME


class Delivery(Base):
    """What still has to be told: one chunk's outcome, to one of its tenant's endpoints.

    Whoever sends takes the row for a while by writing a lease; only that lease may then report.
    state is pending, delivered or failed.
    """

    __tablename__ = "deliveries"
    __table_args__ = (Index(None, "state", "next_attempt_at"),)

    number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=True)
    batch: Mapped[int] = mapped_column(ForeignKey("batches.number"))
    chunk: Mapped[int]
    tenant: Mapped[str] = mapped_column(NAME)
    endpoint: Mapped[str] = mapped_column(NAME)
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int]
    next_attempt_at: Mapped[datetime]
    lease: Mapped[str | None] = mapped_column(String(36))
    status: Mapped[int | None]
    problem: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
