from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base


class Probe(Base):
    """The only row, which each probe of the service writes to see that it can be committed."""

    __tablename__ = "probes"

    probe_number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    probed_at: Mapped[datetime]
