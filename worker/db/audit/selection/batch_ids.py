"""Finds the batches that have an id, which tenants choose."""

from sqlalchemy import Connection, select

from models import Batch


def find_batches(connection: Connection, batch_id: str) -> list[tuple[str, int]]:
    """Return the tenant id and the number of each batch with an id, by tenant."""
    query = select(Batch.tenant, Batch.batch_number).where(Batch.batch_id == batch_id)
    return [(row.tenant, row.batch_number) for row in connection.execute(query.order_by("tenant"))]
