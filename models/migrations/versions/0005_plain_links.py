"""Add the permission for plain links, and the providers without conditional writes."""

import sqlalchemy as sa
from alembic import op

revision = "0005_plain_links"
down_revision = "0004_upload_starts"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The previous release still writes rows, and knows neither column.
    op.add_column(
        "policies", sa.Column("plain", sa.Boolean(), server_default=sa.false(), nullable=False)
    )
    op.add_column(
        "buckets",
        sa.Column("conditional_writes", sa.Boolean(), server_default=sa.true(), nullable=False),
    )


def downgrade() -> None:
    op.drop_column("buckets", "conditional_writes")
    op.drop_column("policies", "plain")
