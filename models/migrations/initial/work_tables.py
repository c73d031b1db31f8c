"""Create the tables of the service's own work: quotas in use, outboxes, searches and leftovers."""

import sqlalchemy as sa
from alembic import op

from models.migrations.initial.columns import NUMBER, TIME, batch_number, create_partial_index


def create_usage() -> None:
    op.create_table(
        "usage",
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("window", sa.String(8), nullable=False),
        sa.Column("window_start", TIME, nullable=False),
        sa.Column("grants", sa.BigInteger(), nullable=False),
        sa.Column("download_grants", sa.BigInteger(), nullable=False),
        sa.Column("upload_bytes", sa.BigInteger(), nullable=False),
        sa.Column("stored_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("uncharged_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.CheckConstraint(
            "grants >= 0 AND download_grants >= 0 AND upload_bytes >= 0",
            name=op.f("ck_usage_not_negative"),
        ),
        sa.PrimaryKeyConstraint("tenant", "window", "window_start", name="pk_usage"),
    )


def create_reservations() -> None:
    op.create_table(
        "reservations",
        batch_number("reservations"),
        sa.Column("chunk_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("signing_key", sa.String(63)),
        sa.Column("items", sa.Integer(), nullable=False),
        sa.Column("grants", sa.BigInteger(), nullable=False),
        sa.Column("download_grants", sa.BigInteger(), nullable=False),
        sa.Column("upload_bytes", sa.BigInteger(), nullable=False),
        sa.Column("charged_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("batch_number", "chunk_number", name="pk_reservations"),
    )
    op.create_index("ix_reservations_expires_at", "reservations", ["expires_at"])
    op.create_index("ix_reservations_tenant", "reservations", ["tenant"])


def create_multipart_uploads() -> None:
    op.create_table(
        "multipart_uploads",
        batch_number("multipart_uploads"),
        sa.Column("item_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("bucket", sa.String(63), nullable=False),
        sa.Column("object_key", sa.Text(), nullable=False),
        sa.Column("upload_id", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("part_size", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("granted_parts", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("batch_number", "item_number", name="pk_multipart_uploads"),
    )
    op.create_index(
        "ix_multipart_uploads_state_expires_at", "multipart_uploads", ["state", "expires_at"]
    )


def create_upload_starts() -> None:
    op.create_table(
        "upload_starts",
        sa.Column("attempt", sa.String(36), nullable=False),
        sa.Column("item_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("batch_id", sa.String(36), nullable=False),
        sa.Column("bucket", sa.String(63), nullable=False),
        sa.Column("object_key", sa.Text(), nullable=False),
        sa.Column("upload_id", sa.Text()),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("cleanup_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("attempt", "item_number", name="pk_upload_starts"),
    )
    op.create_index("ix_upload_starts_cleanup_at", "upload_starts", ["cleanup_at"])


def create_deliveries() -> None:
    op.create_table(
        "deliveries",
        sa.Column("delivery_number", NUMBER, autoincrement=True, nullable=False),
        batch_number("deliveries"),
        sa.Column("chunk_number", sa.Integer(), nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("endpoint", sa.String(63), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", TIME, nullable=False),
        sa.Column("lease", sa.String(36)),
        sa.Column("status", sa.Integer()),
        sa.Column("problem", sa.String(200)),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("finished_at", TIME),
        sa.Column("expires_at", TIME),
        sa.Column("event", sa.String(32)),
        sa.Column("group_id", sa.String(36)),
        sa.PrimaryKeyConstraint("delivery_number", name="pk_deliveries"),
    )
    op.create_index(
        "ix_deliveries_batch_number_chunk_number", "deliveries", ["batch_number", "chunk_number"]
    )
    create_partial_index(
        "ix_deliveries_pending",
        "deliveries",
        ["tenant", "endpoint", "next_attempt_at"],
        "state = 'pending'",
    )
    create_partial_index(
        "ix_deliveries_pending_expires_at", "deliveries", ["expires_at"], "state = 'pending'"
    )


def create_endpoint_circuits() -> None:
    op.create_table(
        "endpoint_circuits",
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("endpoint", sa.String(63), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("failed_at", TIME, nullable=False),
        sa.Column("open_until", TIME),
        sa.PrimaryKeyConstraint("tenant", "endpoint", name="pk_endpoint_circuits"),
    )


def create_manifests() -> None:
    op.create_table(
        "manifests",
        batch_number("manifests"),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("object_key", sa.Text(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", TIME, nullable=False),
        sa.Column("lease", sa.String(36)),
        sa.Column("problem", sa.String(200)),
        sa.Column("issued", sa.Integer(), nullable=False),
        sa.Column("refused", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger()),
        sa.Column("sha256", sa.String(64)),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("finished_at", TIME),
        sa.PrimaryKeyConstraint("batch_number", name="pk_manifests"),
    )
    create_partial_index(
        "ix_manifests_pending", "manifests", ["tenant", "next_attempt_at"], "state = 'pending'"
    )


def create_stored_objects() -> None:
    op.create_table(
        "stored_objects",
        sa.Column("bucket", sa.Text(), nullable=False),
        sa.Column("object_key", sa.Text(), nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        batch_number("stored_objects"),
        sa.Column("item_number", sa.Integer(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("is_deleted", sa.Boolean(), nullable=False),
        sa.Column("changed_at", TIME, nullable=False),
        sa.Column("sequencer", sa.String(64), nullable=False),
        sa.Column("version", sa.Text()),
        sa.Column("is_counted", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("bucket", "object_key", name="pk_stored_objects"),
    )
    op.create_index(
        "ix_stored_objects_batch_number_item_number",
        "stored_objects",
        ["batch_number", "item_number"],
    )


def create_ended_slots() -> None:
    op.create_table(
        "ended_slots",
        batch_number("ended_slots"),
        sa.Column("chunk_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("bucket", sa.String(63), nullable=False),
        sa.Column("charged_at", TIME, nullable=False),
        sa.Column("ended_at", TIME, nullable=False),
        sa.Column("check_at", TIME, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("reserved_bytes", sa.BigInteger(), nullable=False),
        sa.Column("is_settled", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("batch_number", "chunk_number", name="pk_ended_slots"),
    )
    op.create_index("ix_ended_slots_bucket_check_at", "ended_slots", ["bucket", "check_at"])


def create_log_imports() -> None:
    op.create_table(
        "log_imports",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("mark", sa.String(128), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("is_complete", sa.Boolean(), nullable=False),
        sa.Column("imported_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("source", name="pk_log_imports"),
    )


def create_denials() -> None:
    op.create_table(
        "denials",
        sa.Column("sid", sa.String(64), nullable=False),
        sa.Column("revocation_id", sa.String(36), nullable=False),
        sa.Column("bucket", sa.String(63), nullable=False),
        sa.Column("storage", sa.Text(), nullable=False),
        sa.Column("statement", sa.Text(), nullable=False),
        sa.Column("lapses_at", TIME, nullable=False),
        sa.Column("policy_bytes", sa.Integer()),
        sa.PrimaryKeyConstraint("sid", name="pk_denials"),
    )
    op.create_index("ix_denials_lapses_at", "denials", ["lapses_at"])


def create_ended_sessions() -> None:
    op.create_table(
        "ended_sessions",
        sa.Column("role_arn", sa.String(2048), nullable=False),
        sa.Column("sessions_from", TIME, nullable=False),
        sa.Column("bucket", sa.String(63), nullable=False),
        sa.Column("lapses_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("role_arn", name="pk_ended_sessions"),
    )


def create_key_segments() -> None:
    op.create_table(
        "key_segments",
        sa.Column("segment_number", NUMBER, autoincrement=True, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("entries", sa.Integer(), nullable=False),
        sa.Column("page_bits", sa.Integer(), nullable=False),
        sa.Column("oldest_batch", NUMBER, nullable=False),
        sa.Column("newest_batch", NUMBER, nullable=False),
        sa.Column("changed_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("segment_number", name="pk_key_segments"),
    )


def create_key_pages() -> None:
    op.create_table(
        "key_pages",
        sa.Column(
            "segment_number",
            NUMBER,
            sa.ForeignKey("key_segments.segment_number", name="fk_key_pages_segment_number"),
            nullable=False,
        ),
        sa.Column("page_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("entries", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("segment_number", "page_number", name="pk_key_pages"),
    )


def create_unindexed_chunks() -> None:
    op.create_table(
        "unindexed_chunks",
        sa.Column("batch_number", NUMBER, autoincrement=False, nullable=False),
        sa.Column("chunk_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("batch_number", "chunk_number", name="pk_unindexed_chunks"),
        sqlite_with_rowid=False,
    )


def create_checkpoint_publications() -> None:
    op.create_table(
        "checkpoint_publications",
        sa.Column("destination", sa.String(32), nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("problem", sa.Text()),
        sa.Column("attempted_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("destination", "tenant", name="pk_checkpoint_publications"),
    )


def create_rejections() -> None:
    op.create_table(
        "rejections",
        sa.Column("hour", TIME, nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("code", sa.String(32), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("last_at", TIME, nullable=False),
        sa.Column("last_digest", sa.LargeBinary(32), nullable=False),
        sa.PrimaryKeyConstraint("hour", "tenant", "code", name="pk_rejections"),
    )


WORK_TABLES = {
    "usage": create_usage,
    "reservations": create_reservations,
    "multipart_uploads": create_multipart_uploads,
    "upload_starts": create_upload_starts,
    "deliveries": create_deliveries,
    "endpoint_circuits": create_endpoint_circuits,
    "manifests": create_manifests,
    "stored_objects": create_stored_objects,
    "ended_slots": create_ended_slots,
    "log_imports": create_log_imports,
    "denials": create_denials,
    "ended_sessions": create_ended_sessions,
    "key_segments": create_key_segments,
    "key_pages": create_key_pages,
    "unindexed_chunks": create_unindexed_chunks,
    "checkpoint_publications": create_checkpoint_publications,
    "rejections": create_rejections,
}
"""The functions that create the tables, in an order in which no table refers to a later one."""
