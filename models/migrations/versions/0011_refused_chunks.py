"""Add the list of each tenant's chunks that have refused items.

Without it, a list of a tenant's refusals reads all of its batches. A trigger adds to it, so that
the chunks of the previous release are in it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011_refused_chunks"
down_revision = "0009_list"
branch_labels = None
depends_on = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_INSERT = (
    "INSERT INTO refused_chunks SELECT tenant, NEW.batch_number, NEW.chunk_number"
    " FROM batches WHERE batch_number = NEW.batch_number;"
)
_FILL = (
    "INSERT INTO refused_chunks SELECT tenant, batch_number, chunk_number"
    " FROM chunks JOIN batches USING (batch_number) WHERE refused > 0"
)


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        _create_table()
        op.execute(
            "CREATE TRIGGER chunks_refused AFTER INSERT ON chunks WHEN NEW.refused > 0"
            f" BEGIN {_INSERT} END"
        )
        op.execute(_FILL)
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER refused_chunks_no_{verb.lower()} BEFORE {verb} ON refused_chunks"
                " BEGIN SELECT RAISE(ABORT, 'the audit log is append only'); END"
            )
        return
    # Workers wait for the transaction that creates the trigger, so it is not the one that reads all
    # chunks. If that one is interrupted, the first is done already.
    if not sa.inspect(op.get_bind()).has_table("refused_chunks"):
        _create_table()
        _create_triggers()
    with op.get_context().autocommit_block():
        pass
    op.execute(f"{_FILL} ON CONFLICT DO NOTHING")


def _create_table() -> None:
    op.create_table(
        "refused_chunks",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("batch_number", _NUMBER, autoincrement=False, nullable=False),
        sa.Column("chunk_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint(
            "tenant", "batch_number", "chunk_number", name=op.f("pk_refused_chunks")
        ),
        sqlite_with_rowid=False,
    )


def _create_triggers() -> None:
    op.execute(
        "CREATE FUNCTION valetkey_refused_chunk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" {_INSERT} RETURN NULL; END $$"
    )
    op.execute(
        "CREATE TRIGGER refused AFTER INSERT ON chunks"
        " FOR EACH ROW WHEN (NEW.refused > 0) EXECUTE FUNCTION valetkey_refused_chunk()"
    )
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON refused_chunks"
        " FOR EACH STATEMENT EXECUTE FUNCTION valetkey_append_only()"
    )


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER chunks_refused")
    else:
        op.execute("DROP FUNCTION valetkey_refused_chunk() CASCADE")
    op.drop_table("refused_chunks")
