"""Quotas raised for a while."""

from dataclasses import asdict
from datetime import datetime

from sqlalchemy import Connection, delete, insert

from models import Raise
from worker.adapters import declarations
from worker.core import tenancy


def add(connection: Connection, tenant: str, one: tenancy.Raise, now: datetime) -> None:
    """Raise a quota at once for all workers, and forget what was raised until some earlier time."""
    declarations.count(connection)
    connection.execute(delete(Raise).where(Raise.until <= now))
    connection.execute(insert(Raise).values(tenant=tenant, **asdict(one)))
