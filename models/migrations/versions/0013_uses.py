"""Add the uses of grants, the settlement of upload slots, and what requests say about both.

Workers of the previous release go on: they record no uses, and settle nothing.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0013_uses"
down_revision = "0012_item_edges"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)
# The conditions that find the row that a new one would replace: INSERT OR REPLACE deletes that row
# without firing the trigger of DELETE. ON CONFLICT DO NOTHING inserts uses, so those are ignored.
APPEND_ONLY = {
    "uses": ("fingerprint = NEW.fingerprint", "IGNORE"),
    "settlements": (
        "batch_number = NEW.batch_number AND chunk_number = NEW.chunk_number",
        "ABORT, 'the audit log is append only'",
    ),
}
ADDED: tuple[tuple[str, sa.Column[Any]], ...] = (
    ("batches", sa.Column("notify", sa.JSON(none_as_null=True), nullable=True)),
    ("batches", sa.Column("reissue_of", sa.String(length=48), nullable=True)),
    ("deliveries", sa.Column("event", sa.String(length=32), nullable=True)),
    ("deliveries", sa.Column("group_id", sa.String(length=36), nullable=True)),
    ("buckets", sa.Column("events_queue", sa.String(length=2048), nullable=True)),
    ("buckets", sa.Column("probe_rate", sa.Integer(), server_default="20", nullable=False)),
    ("tenants", sa.Column("refund_unused", sa.Boolean(), server_default=sa.true(), nullable=False)),
    ("prunes", sa.Column("use_groups", sa.BigInteger(), nullable=True)),
    ("usage", sa.Column("stored_bytes", sa.BigInteger(), server_default="0", nullable=False)),
)


def upgrade() -> None:
    _create_uses()
    _create_stored_objects()
    _create_slots()
    for table in APPEND_ONLY:
        _freeze(table)
    for table, column in ADDED:
        op.add_column(table, column)


def _create_uses() -> None:
    op.create_table(
        "uses",
        sa.Column("fingerprint", sa.LargeBinary(length=32), nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("batch_number", NUMBER, nullable=False),
        sa.Column("item_number", sa.Integer(), nullable=False),
        sa.Column("event", sa.String(length=16), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("problem", sa.String(length=200), nullable=True),
        sa.Column("occurred_at", TIME, nullable=False),
        sa.Column("recorded_at", TIME, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=True),
        sa.Column("etag", sa.String(length=128), nullable=True),
        sa.Column("version", sa.Text(), nullable=True),
        sa.Column("checksum", sa.String(length=128), nullable=True),
        sa.Column("content_type", sa.String(length=255), nullable=True),
        sa.Column("remote_address", sa.String(length=64), nullable=True),
        sa.Column("user_agent", sa.String(length=256), nullable=True),
        sa.Column("group_id", sa.String(length=36), nullable=False),
        _batch("uses"),
        sa.PrimaryKeyConstraint("fingerprint", name=op.f("pk_uses")),
    )
    op.create_index(
        op.f("ix_uses_batch_number_item_number"), "uses", ["batch_number", "item_number"]
    )
    op.create_index(op.f("ix_uses_group_id"), "uses", ["group_id"])
    is_exception = sa.text("verdict <> 'as_granted'")
    op.create_index(
        "ix_uses_exceptions",
        "uses",
        ["batch_number", "item_number"],
        postgresql_where=is_exception,
        sqlite_where=is_exception,
    )


def _create_stored_objects() -> None:
    op.create_table(
        "stored_objects",
        sa.Column("bucket", sa.Text(), nullable=False),
        sa.Column("object_key", sa.Text(), nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("batch_number", NUMBER, nullable=False),
        sa.Column("item_number", sa.Integer(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("is_deleted", sa.Boolean(), nullable=False),
        sa.Column("changed_at", TIME, nullable=False),
        sa.Column("sequencer", sa.String(length=64), nullable=False),
        _batch("stored_objects"),
        sa.PrimaryKeyConstraint("bucket", "object_key", name=op.f("pk_stored_objects")),
    )
    op.create_index(
        op.f("ix_stored_objects_batch_number_item_number"),
        "stored_objects",
        ["batch_number", "item_number"],
    )


def _create_slots() -> None:
    op.create_table(
        "ended_slots",
        sa.Column("batch_number", NUMBER, nullable=False),
        sa.Column("chunk_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("bucket", sa.String(length=63), nullable=False),
        sa.Column("charged_at", TIME, nullable=False),
        sa.Column("ended_at", TIME, nullable=False),
        sa.Column("check_at", TIME, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        _batch("ended_slots"),
        sa.PrimaryKeyConstraint("batch_number", "chunk_number", name=op.f("pk_ended_slots")),
    )
    op.create_index(op.f("ix_ended_slots_bucket_check_at"), "ended_slots", ["bucket", "check_at"])
    op.create_table(
        "settlements",
        sa.Column("batch_number", NUMBER, nullable=False),
        sa.Column("chunk_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("unused", sa.Text(), nullable=False),
        sa.Column("used_bytes", sa.BigInteger(), nullable=False),
        sa.Column("returned_bytes", sa.BigInteger(), nullable=False),
        sa.Column("settled_at", TIME, nullable=False),
        _batch("settlements"),
        sa.PrimaryKeyConstraint("batch_number", "chunk_number", name=op.f("pk_settlements")),
    )


def _batch(table: str) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{table}_batch_number")
    return sa.ForeignKeyConstraint(["batch_number"], ["batches.batch_number"], name=name)


def downgrade() -> None:
    for table, column in reversed(ADDED):
        op.drop_column(table, column.name)
    for table in ("settlements", "ended_slots", "stored_objects", "uses"):
        op.drop_table(table)


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
    condition, action = APPEND_ONLY[table]
    exists = f"EXISTS (SELECT 1 FROM {table} WHERE {condition})"  # noqa: S608 - constants
    trigger = f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table}"
    op.execute(f"{trigger} WHEN {exists} BEGIN SELECT RAISE({action}); END")
