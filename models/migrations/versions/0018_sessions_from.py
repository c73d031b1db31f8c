"""Add the moments before which the sessions of roles were ended."""

import sqlalchemy as sa
from alembic import op

revision = "0018_sessions_from"
down_revision = "0017_revocations"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "ended_sessions",
        sa.Column("role_arn", sa.String(length=2048), nullable=False),
        sa.Column("sessions_from", TIME, nullable=False),
        sa.Column("bucket", sa.String(length=63), nullable=False),
        sa.Column("lapses_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("role_arn", name=op.f("pk_ended_sessions")),
    )


def downgrade() -> None:
    op.drop_table("ended_sessions")
