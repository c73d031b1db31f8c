"""Record multipart uploads before they are started, so that none is left behind in storage.

Workers of the previous release start uploads without a record, as before.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004_upload_starts"
down_revision = "0003_fair_turns"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "upload_starts",
        sa.Column("attempt", sa.String(length=36), nullable=False),
        sa.Column("item_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("batch_id", sa.String(length=36), nullable=False),
        sa.Column("bucket", sa.String(length=63), nullable=False),
        sa.Column("object_key", sa.Text(), nullable=False),
        sa.Column("upload_id", sa.Text(), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("cleanup_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("attempt", "item_number", name=op.f("pk_upload_starts")),
    )
    op.create_index(op.f("ix_upload_starts_cleanup_at"), "upload_starts", ["cleanup_at"])


def downgrade() -> None:
    # Uploads that are recorded here alone are left to the bucket's lifecycle rule.
    op.drop_table("upload_starts")
