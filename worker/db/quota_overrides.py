"""Quotas raised for a while."""

from dataclasses import asdict
from datetime import datetime

from sqlalchemy import Connection, delete, insert

from models import QuotaOverride
from worker.core.tenants import config
from worker.db import tenants


def add_override(
    connection: Connection, tenant: str, one: config.QuotaOverride, now: datetime
) -> None:
    """Raise a quota at once for all workers, and forget what was raised until some earlier time."""
    tenants.increment_revision(connection)
    connection.execute(delete(QuotaOverride).where(QuotaOverride.until <= now))
    connection.execute(insert(QuotaOverride).values(tenant=tenant, **asdict(one)))
