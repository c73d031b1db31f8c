"""Create the audit log: requests, decisions, uses, changes of the config, and their trees."""

import sqlalchemy as sa
from alembic import op

from models.migrations.initial.columns import (
    NUMBER,
    TIME,
    batch_number,
    create_partial_index,
    is_postgres,
)


def create_batches() -> None:
    op.create_table(
        "batches",
        sa.Column("batch_number", NUMBER, autoincrement=True, nullable=False),
        sa.Column("batch_id", sa.String(36), nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("bucket", sa.String(63), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("requested_by", sa.String(200), nullable=False),
        sa.Column("reason", sa.String(200)),
        sa.Column("recipient", sa.String(200)),
        sa.Column("terms", sa.JSON(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("chunk_size", sa.Integer(), nullable=False),
        sa.Column("callback", sa.String(63)),
        sa.Column("notify", sa.JSON()),
        sa.Column("reissue_of", sa.String(48)),
        sa.Column("fingerprint", sa.LargeBinary(32), nullable=False),
        sa.Column("refusal", sa.JSON()),
        sa.Column("decided_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("batch_number", name="pk_batches"),
        sa.UniqueConstraint("tenant", "batch_id", name="uq_batches_tenant_batch_id"),
    )
    op.create_index("ix_batches_batch_id", "batches", ["batch_id"])
    op.create_index("ix_batches_decided_at", "batches", ["decided_at"])
    op.create_index("ix_batches_tenant_batch_number", "batches", ["tenant", "batch_number"])


def create_chunks() -> None:
    op.create_table(
        "chunks",
        batch_number("chunks"),
        sa.Column("chunk_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(32), nullable=False),
        sa.Column("issued", sa.Integer(), nullable=False),
        sa.Column("refused", sa.Integer(), nullable=False),
        sa.Column("issued_at", TIME, nullable=False),
        sa.Column("expires_in", sa.Integer(), nullable=False),
        sa.Column("limited_by", sa.String(16), nullable=False),
        sa.Column("access_key", sa.String(128)),
        sa.Column("refusal", sa.JSON()),
        sa.Column("signing_key", sa.String(63)),
        sa.PrimaryKeyConstraint("batch_number", "chunk_number", name="pk_chunks"),
    )
    create_partial_index(
        "ix_chunks_late", "chunks", ["issued_at", "batch_number"], "chunk_number > 0 AND issued = 0"
    )


def create_grants() -> None:
    """Create the table of grants, which PostgreSQL keeps in partitions by month."""
    month: list[sa.Column[int]] = []
    if is_postgres():
        # For rows that are inserted through the model, which has no such column.
        default = sa.text("CAST(to_char(now() AT TIME ZONE 'UTC', 'YYYYMM') AS integer)")
        month = [sa.Column("month", sa.Integer(), server_default=default, nullable=False)]
    key = ("batch_number", "item_number", *(column.name for column in month))
    op.create_table(
        "grants",
        sa.Column("batch_number", NUMBER, autoincrement=False, nullable=False),
        sa.Column("item_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("object_key", sa.Text(), nullable=False),
        sa.Column("code", sa.String(32)),
        sa.Column("detail", sa.JSON()),
        sa.Column("digest", sa.LargeBinary(32)),
        *month,
        sa.PrimaryKeyConstraint(*key, name="pk_grants"),
        postgresql_partition_by="RANGE (month)",
        sqlite_with_rowid=False,
    )
    create_partial_index(
        "ix_grants_refused", "grants", ["code", "batch_number", "item_number"], "code IS NOT NULL"
    )


def create_refused_chunks() -> None:
    op.create_table(
        "refused_chunks",
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("batch_number", NUMBER, autoincrement=False, nullable=False),
        sa.Column("chunk_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "batch_number", "chunk_number", name="pk_refused_chunks"),
        sqlite_with_rowid=False,
    )


def create_reissues() -> None:
    op.create_table(
        "reissues",
        batch_number("reissues"),
        sa.Column("chunk_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(32), nullable=False),
        sa.Column("access_key", sa.String(128), nullable=False),
        sa.Column("reissued_at", TIME, nullable=False),
        sa.Column("digests", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("batch_number", "chunk_number", "fingerprint", name="pk_reissues"),
    )


def create_cancellations() -> None:
    op.create_table(
        "cancellations",
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("batch_id", sa.String(36), nullable=False),
        sa.Column("signing_key", sa.String(63)),
        sa.Column("requested_by", sa.String(200), nullable=False),
        sa.Column("reason", sa.String(200)),
        sa.Column("cancelled_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "batch_id", name="pk_cancellations"),
    )


def create_uses() -> None:
    op.create_table(
        "uses",
        sa.Column("fingerprint", sa.LargeBinary(32), nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        batch_number("uses"),
        sa.Column("item_number", sa.Integer(), nullable=False),
        sa.Column("event", sa.String(16), nullable=False),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("problem", sa.String(200)),
        sa.Column("occurred_at", TIME, nullable=False),
        sa.Column("recorded_at", TIME, nullable=False),
        sa.Column("size", sa.BigInteger()),
        sa.Column("etag", sa.String(128)),
        sa.Column("version", sa.Text()),
        sa.Column("checksum", sa.String(128)),
        sa.Column("content_type", sa.String(255)),
        sa.Column("remote_address", sa.String(64)),
        sa.Column("user_agent", sa.String(256)),
        sa.Column("charged_bytes", sa.BigInteger()),
        sa.Column("group_id", sa.String(36), nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", name="pk_uses"),
    )
    op.create_index("ix_uses_batch_number_item_number", "uses", ["batch_number", "item_number"])
    create_partial_index(
        "ix_uses_exceptions", "uses", ["batch_number", "item_number"], "verdict <> 'as_granted'"
    )
    op.create_index("ix_uses_group_id", "uses", ["group_id"])


def create_settlements() -> None:
    op.create_table(
        "settlements",
        batch_number("settlements"),
        sa.Column("chunk_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("unused", sa.Text(), nullable=False),
        sa.Column("used_bytes", sa.BigInteger(), nullable=False),
        sa.Column("returned_bytes", sa.BigInteger(), nullable=False),
        sa.Column("settled_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("batch_number", "chunk_number", name="pk_settlements"),
    )


def create_revocations() -> None:
    op.create_table(
        "revocations",
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("revocation_id", sa.String(36), nullable=False),
        sa.Column("target_kind", sa.String(16), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("bucket", sa.String(63)),
        sa.Column("storage", sa.Text()),
        sa.Column("grants", sa.BigInteger(), nullable=False),
        sa.Column("revoked_by", sa.String(200), nullable=False),
        sa.Column("reason", sa.String(200)),
        sa.Column("revoked_at", TIME, nullable=False),
        sa.Column("lapses_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "revocation_id", name="pk_revocations"),
    )


def create_config_changes() -> None:
    op.create_table(
        "config_changes",
        sa.Column("change_number", NUMBER, autoincrement=True, nullable=False),
        sa.Column("changed_at", TIME, nullable=False),
        sa.Column("changed_by", sa.String(200), nullable=False),
        sa.Column("command", sa.String(32), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("before", sa.JSON()),
        sa.Column("after", sa.JSON()),
        sa.PrimaryKeyConstraint("change_number", name="pk_config_changes"),
    )
    op.create_index("ix_config_changes_changed_at", "config_changes", ["changed_at"])


def create_prunes() -> None:
    op.create_table(
        "prunes",
        sa.Column("prune_number", NUMBER, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("before", sa.String(7), nullable=False),
        sa.Column("pruned_by", sa.String(200), nullable=False),
        sa.Column("pruned_at", TIME, nullable=False),
        sa.Column("chunks", sa.BigInteger(), nullable=False),
        sa.Column("items", sa.BigInteger(), nullable=False),
        sa.Column("use_groups", sa.BigInteger(), nullable=False),
        sa.Column("edges", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("prune_number", name="pk_prunes"),
    )


def create_item_edges() -> None:
    op.create_table(
        "item_edges",
        sa.Column("batch_number", NUMBER, autoincrement=False, nullable=False),
        sa.Column("chunk_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("edge", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("batch_number", "chunk_number", name="pk_item_edges"),
        sqlite_with_rowid=False,
    )


def create_leaves() -> None:
    op.create_table(
        "leaves",
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("leaf_number", NUMBER, autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("batch_number", NUMBER),
        sa.Column("chunk_number", sa.Integer()),
        sa.Column("reference", sa.Text()),
        sa.Column("hash", sa.LargeBinary(32), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "leaf_number", name="pk_leaves"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_leaves_batch_number_chunk_number", "leaves", ["batch_number", "chunk_number"]
    )


def create_tree_heads() -> None:
    op.create_table(
        "tree_heads",
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("edge", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", name="pk_tree_heads"),
    )


def create_checkpoints() -> None:
    op.create_table(
        "checkpoints",
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("size", NUMBER, autoincrement=False, nullable=False),
        sa.Column("root", sa.LargeBinary(32), nullable=False),
        sa.Column("signed_at", TIME, nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("edge", sa.LargeBinary()),
        sa.PrimaryKeyConstraint("tenant", "size", name="pk_checkpoints"),
    )


AUDIT_TABLES = {
    "batches": create_batches,
    "chunks": create_chunks,
    "grants": create_grants,
    "refused_chunks": create_refused_chunks,
    "reissues": create_reissues,
    "cancellations": create_cancellations,
    "uses": create_uses,
    "settlements": create_settlements,
    "revocations": create_revocations,
    "config_changes": create_config_changes,
    "prunes": create_prunes,
    "item_edges": create_item_edges,
    "leaves": create_leaves,
    "tree_heads": create_tree_heads,
    "checkpoints": create_checkpoints,
}
"""The functions that create the tables, in an order in which no table refers to a later one."""
