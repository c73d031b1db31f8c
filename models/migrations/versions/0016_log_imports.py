"""Add the progress of imports of access logs."""

import sqlalchemy as sa
from alembic import op

revision = "0016_log_imports"
down_revision = "0015_object_versions"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "log_imports",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("mark", sa.String(length=128), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("is_complete", sa.Boolean(), nullable=False),
        sa.Column("imported_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("source", name=op.f("pk_log_imports")),
    )


def downgrade() -> None:
    op.drop_table("log_imports")
