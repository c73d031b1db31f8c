"""Keep the trees of items that `audit prune` removes, so that their chunks and batches verify."""

import sqlalchemy as sa
from alembic import op

revision = "0012_item_edges"
down_revision = "0011_refused_chunks"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TABLE = "item_edges"


def upgrade() -> None:
    op.add_column("prunes", sa.Column("edges", sa.BigInteger(), nullable=True))
    op.create_table(
        TABLE,
        sa.Column("batch_number", NUMBER, autoincrement=False, nullable=False),
        sa.Column("chunk_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("edge", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("batch_number", "chunk_number", name=op.f("pk_item_edges")),
        sqlite_with_rowid=False,
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {TABLE} "
            "FOR EACH STATEMENT EXECUTE FUNCTION valetkey_append_only()"
        )
        return
    refuse = "BEGIN SELECT RAISE(ABORT, 'the audit log is append only'); END"
    for verb in ("UPDATE", "DELETE"):
        op.execute(f"CREATE TRIGGER {TABLE}_no_{verb.lower()} BEFORE {verb} ON {TABLE} {refuse}")
    # INSERT OR REPLACE deletes rows without firing DELETE triggers.
    is_row = "batch_number = NEW.batch_number AND chunk_number = NEW.chunk_number"
    exists = f"EXISTS (SELECT 1 FROM {TABLE} WHERE {is_row})"  # noqa: S608 - constants
    trigger = f"CREATE TRIGGER {TABLE}_no_replace BEFORE INSERT ON {TABLE}"
    op.execute(f"{trigger} WHEN {exists} {refuse}")


def downgrade() -> None:
    op.drop_table(TABLE)
    op.drop_column("prunes", "edges")
