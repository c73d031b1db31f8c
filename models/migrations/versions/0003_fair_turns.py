"""Find the pending deliveries of each endpoint, and the pending manifests of each tenant, at once.

Also adds the end of a delivery, and the circuits of endpoints. The indexes that are dropped serve
only queries of the previous release, which stays correct without them.
"""

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from alembic import op

revision = "0003_fair_turns"
down_revision = "0002_tenant_ids"
branch_labels = None
depends_on = None

IS_PENDING = sa.text("state = 'pending'")
MAX_AGE = timedelta(days=7)  # the longest life of a grant


def upgrade() -> None:
    op.create_table(
        "endpoint_circuits",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("endpoint", sa.String(length=63), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("failed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("open_until", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("tenant", "endpoint", name=op.f("pk_endpoint_circuits")),
    )
    op.add_column("deliveries", sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))
    deliveries = sa.table(
        "deliveries", sa.column("state"), sa.column("expires_at", sa.DateTime(timezone=True))
    )
    # A later time than its grants expire is no fault: each attempt checks that by itself.
    latest = datetime.now(UTC) + MAX_AGE
    if op.get_bind().dialect.name == "sqlite":
        latest = latest.replace(tzinfo=None)
    op.execute(deliveries.update().where(IS_PENDING).values(expires_at=latest))
    op.add_column(
        "manifests",
        sa.Column("tenant", sa.String(length=63), server_default="", nullable=False),
    )
    op.execute(
        "UPDATE manifests SET tenant = (SELECT tenant FROM batches"
        " WHERE batches.batch_number = manifests.batch_number) WHERE state = 'pending'"
    )
    for name, table, columns in (
        ("ix_deliveries_pending", "deliveries", ["tenant", "endpoint", "next_attempt_at"]),
        ("ix_deliveries_pending_expires_at", "deliveries", ["expires_at"]),
        ("ix_manifests_pending", "manifests", ["tenant", "next_attempt_at"]),
    ):
        op.create_index(name, table, columns, postgresql_where=IS_PENDING, sqlite_where=IS_PENDING)
    op.drop_index("ix_deliveries_state_next_attempt_at", "deliveries")
    op.drop_index("ix_manifests_state_next_attempt_at", "manifests")


def downgrade() -> None:
    op.create_index("ix_manifests_state_next_attempt_at", "manifests", ["state", "next_attempt_at"])
    op.create_index(
        "ix_deliveries_state_next_attempt_at", "deliveries", ["state", "next_attempt_at"]
    )
    for name, table in (
        ("ix_manifests_pending", "manifests"),
        ("ix_deliveries_pending_expires_at", "deliveries"),
        ("ix_deliveries_pending", "deliveries"),
    ):
        op.drop_index(name, table)
    op.drop_column("manifests", "tenant")
    op.drop_column("deliveries", "expires_at")
    op.drop_table("endpoint_circuits")
