"""Counts the uses of recent grants."""

from datetime import datetime

from sqlalchemy import Connection, func, select

from models import Batch, Use

UseGroup = tuple[str, str, str, str]
"""The id of a tenant, the event, the source and the verdict of uses."""


def count_recent_uses(connection: Connection, since: datetime) -> dict[UseGroup, int]:
    """Count the uses of grants whose batch was decided since a moment.

    No index has the times of uses. That of batches leads to them.
    """
    columns = Use.tenant, Use.event, Use.source, Use.verdict
    query = (
        select(*columns, func.count())
        .join(Batch, Batch.batch_number == Use.batch_number)
        .where(Batch.decided_at >= since)
        .group_by(*columns)
    )
    return {(row[0], row[1], row[2], row[3]): row[4] for row in connection.execute(query)}
