"""Keep the bytes that ended upload slots still have reserved in the windows that were charged."""

import sqlalchemy as sa
from alembic import op

revision = "0014_settling"
down_revision = "0013_uses"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "ended_slots",
        sa.Column("reserved_bytes", sa.BigInteger(), server_default="0", nullable=False),
    )


def downgrade() -> None:
    op.drop_column("ended_slots", "reserved_bytes")
