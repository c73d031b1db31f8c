"""Add indexes for lists of the audit log, and for the deliveries of a batch.

The first two have only rows that are rare: in `grants` refused items, and in `chunks` those refused
after their batch was closed, the only ones whose time does not follow from that of their batch.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009_list"
down_revision = "0008_key_lookup"
branch_labels = None
depends_on = None


def upgrade() -> None:
    is_refused = sa.text("code IS NOT NULL")
    op.create_index(
        "ix_grants_refused",
        "grants",
        ["code", "batch_number", "item_number"],
        postgresql_where=is_refused,
        sqlite_where=is_refused,
    )
    is_late = sa.text("chunk_number > 0 AND issued = 0")
    op.create_index(
        "ix_chunks_late",
        "chunks",
        ["issued_at", "batch_number"],
        postgresql_where=is_late,
        sqlite_where=is_late,
    )
    op.create_index(
        "ix_deliveries_batch_number_chunk_number", "deliveries", ["batch_number", "chunk_number"]
    )


def downgrade() -> None:
    op.drop_index("ix_deliveries_batch_number_chunk_number", "deliveries")
    op.drop_index("ix_chunks_late", "chunks")
    op.drop_index("ix_grants_refused", "grants")
