"""Add revocations, and the denials in bucket policies that do them."""

import sqlalchemy as sa
from alembic import op

revision = "0017_revocations"
down_revision = "0016_log_imports"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "revocations",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("revocation_id", sa.String(length=36), nullable=False),
        sa.Column("target_kind", sa.String(length=16), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("bucket", sa.String(length=63), nullable=True),
        sa.Column("storage", sa.Text(), nullable=True),
        sa.Column("grants", sa.BigInteger(), nullable=False),
        sa.Column("revoked_by", sa.String(length=200), nullable=False),
        sa.Column("reason", sa.String(length=200), nullable=True),
        sa.Column("revoked_at", TIME, nullable=False),
        sa.Column("lapses_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "revocation_id", name=op.f("pk_revocations")),
    )
    op.create_table(
        "denials",
        sa.Column("sid", sa.String(length=64), nullable=False),
        sa.Column("revocation_id", sa.String(length=36), nullable=False),
        sa.Column("bucket", sa.String(length=63), nullable=False),
        sa.Column("storage", sa.Text(), nullable=False),
        sa.Column("statement", sa.Text(), nullable=False),
        sa.Column("lapses_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("sid", name=op.f("pk_denials")),
    )
    op.create_index(op.f("ix_denials_lapses_at"), "denials", ["lapses_at"])
    _freeze("revocations")


def downgrade() -> None:
    op.drop_table("denials")
    op.drop_table("revocations")


def _freeze(table: str) -> None:
    """Have the database refuse to change or remove rows of a table."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION valetkey_append_only()"
        )
        return
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
            "BEGIN SELECT RAISE(ABORT, 'the audit log is append only'); END"
        )
