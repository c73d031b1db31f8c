"""Add indexes for lists of the audit log, and for the deliveries of a batch.

The first two have only rows that are rare: in `grants` refused items, and in `chunks` those refused
after their batch was closed, the only ones whose time does not follow from that of their batch.

On PostgreSQL, workers go on while the indexes are built. On SQLite they wait.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009_list"
down_revision = "0008_key_lookup"
branch_labels = None
depends_on = None


REFUSED, LATE = "code IS NOT NULL", "chunk_number > 0 AND issued = 0"
LARGE = {
    "ix_chunks_late": f"chunks (issued_at, batch_number) WHERE {LATE}",
    "ix_deliveries_batch_number_chunk_number": "deliveries (batch_number, chunk_number)",
}


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        with op.get_context().autocommit_block():
            _build_indexes()
    else:
        for name, columns in LARGE.items():
            op.execute(f"CREATE INDEX {name} ON {columns}")
    # It takes over the indexes of the partitions that are the same.
    op.execute(
        "CREATE INDEX ix_grants_refused ON grants (code, batch_number, item_number)"
        f" WHERE {REFUSED}"
    )


def _build_indexes() -> None:
    """Build the indexes while workers go on writing. What an earlier attempt left is dropped."""
    indexes = dict(LARGE)
    partitions = "SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'grants'::regclass"
    for table in op.get_bind().scalars(sa.text(partitions)):
        columns = f"{table} (code, batch_number, item_number)"
        indexes[f"ix_{table}_refused"] = f"{columns} WHERE {REFUSED}"
    with op.get_bind().engine.connect().execution_options(purpose="autocommit") as connection:
        connection.detach()  # it is closed, because it waits for locks without a limit
        connection.exec_driver_sql("SET lock_timeout = 0")
        for name, columns in indexes.items():
            connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            connection.exec_driver_sql(f"CREATE INDEX CONCURRENTLY {name} ON {columns}")


def downgrade() -> None:
    op.drop_index("ix_deliveries_batch_number_chunk_number", "deliveries")
    op.drop_index("ix_chunks_late", "chunks")
    op.drop_index("ix_grants_refused", "grants")
