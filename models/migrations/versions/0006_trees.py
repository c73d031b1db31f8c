"""Add the Merkle trees over the audit log, and the recipient of a request.

The previous release still writes rows, and no leaves for them: `audit adopt` adds those.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006_trees"
down_revision = "0005_plain_links"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
APPEND_ONLY = ("leaves", "checkpoints")


def upgrade() -> None:
    op.create_table(
        "leaves",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("leaf_number", NUMBER, autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("batch_number", NUMBER, nullable=True),
        sa.Column("chunk_number", sa.Integer(), nullable=True),
        sa.Column("reference", sa.Text(), nullable=True),
        sa.Column("hash", sa.LargeBinary(length=32), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "leaf_number", name=op.f("pk_leaves")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("ix_leaves_batch_number_chunk_number"), "leaves", ["batch_number", "chunk_number"]
    )
    op.create_table(
        "tree_heads",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("edge", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", name=op.f("pk_tree_heads")),
    )
    op.create_table(
        "checkpoints",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("size", NUMBER, autoincrement=False, nullable=False),
        sa.Column("root", sa.LargeBinary(length=32), nullable=False),
        sa.Column("signed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("edge", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("tenant", "size", name=op.f("pk_checkpoints")),
    )
    op.create_table(
        "checkpoint_publications",
        sa.Column("destination", sa.String(length=32), nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("attempted_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("destination", "tenant", name=op.f("pk_checkpoint_publications")),
    )
    for table in APPEND_ONLY:
        _freeze(table)
    op.add_column("batches", sa.Column("recipient", sa.String(length=200), nullable=True))


def downgrade() -> None:
    for table in (*APPEND_ONLY, "tree_heads", "checkpoint_publications"):
        op.drop_table(table)
    op.drop_column("batches", "recipient")


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
