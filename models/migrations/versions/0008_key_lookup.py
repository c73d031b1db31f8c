"""Add the lookup of object keys.

All chunks so far are unindexed: the cleanup task indexes them, and until then they are scanned.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008_key_lookup"
down_revision = "0007_partitions"
branch_labels = None
depends_on = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        _create_tables()
        insert = "INSERT INTO unindexed_chunks VALUES (NEW.batch_number, NEW.chunk_number);"
        op.execute(f"CREATE TRIGGER chunks_unindexed AFTER INSERT ON chunks BEGIN {insert} END")
        op.execute("INSERT INTO unindexed_chunks SELECT batch_number, chunk_number FROM chunks")
        return
    # Workers wait for the transaction that creates the trigger, so it is not the one that reads all
    # chunks. If that one is interrupted, the first is done already.
    if not sa.inspect(op.get_bind()).has_table("unindexed_chunks"):
        _create_tables()
        _create_trigger()
    with op.get_context().autocommit_block():
        pass
    op.execute(
        "INSERT INTO unindexed_chunks SELECT batch_number, chunk_number FROM chunks"
        " ON CONFLICT DO NOTHING"
    )


def _create_tables() -> None:
    op.create_table(
        "unindexed_chunks",
        sa.Column("batch_number", _NUMBER, autoincrement=False, nullable=False),
        sa.Column("chunk_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("batch_number", "chunk_number", name=op.f("pk_unindexed_chunks")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "key_segments",
        sa.Column("segment_number", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("entries", sa.Integer(), nullable=False),
        sa.Column("page_bits", sa.Integer(), nullable=False),
        sa.Column("oldest_batch", _NUMBER, nullable=False),
        sa.Column("newest_batch", _NUMBER, nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("segment_number", name=op.f("pk_key_segments")),
    )
    op.create_table(
        "key_pages",
        sa.Column("segment_number", _NUMBER, nullable=False),
        sa.Column("page_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("entries", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["segment_number"],
            ["key_segments.segment_number"],
            name=op.f("fk_key_pages_segment_number"),
        ),
        sa.PrimaryKeyConstraint("segment_number", "page_number", name=op.f("pk_key_pages")),
    )


def _create_trigger() -> None:
    op.execute(
        "CREATE FUNCTION valetkey_unindexed_chunk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO unindexed_chunks VALUES (NEW.batch_number, NEW.chunk_number);"
        " RETURN NULL; END $$"
    )
    op.execute(
        "CREATE TRIGGER unindexed AFTER INSERT ON chunks "
        "FOR EACH ROW EXECUTE FUNCTION valetkey_unindexed_chunk()"
    )


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER chunks_unindexed")
    else:
        op.execute("DROP FUNCTION valetkey_unindexed_chunk() CASCADE")
    for table in ("key_pages", "key_segments", "unindexed_chunks"):
        op.drop_table(table)
