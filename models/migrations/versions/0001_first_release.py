"""Create all tables of release 0.1.0.

Databases have these tables: never change this file or those of `initial`, which a test holds by
their digests. Change tables with another migration (docs/architecture.md, Recipes).
"""

import sqlalchemy as sa
from alembic import op

from models.migrations.initial.partitions import create_partitions, month_column
from models.migrations.initial.triggers import create_triggers, drop_functions, is_postgres

revision = "0001_first_release"
down_revision = None
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:  # noqa: PLR0915 - all tables, one after the other
    month = month_column()
    op.create_table(
        "annotations",
        sa.Column("batch_number", NUMBER, autoincrement=False, nullable=False),
        sa.Column("item_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("recipient", sa.String(length=200), nullable=True),
        sa.Column("recipient_salt", sa.LargeBinary(), nullable=True),
        sa.Column("reason", sa.String(length=200), nullable=True),
        sa.Column("reason_salt", sa.LargeBinary(), nullable=True),
        sa.Column("ref", sa.String(length=200), nullable=True),
        sa.Column("ref_salt", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("batch_number", "item_number", name=op.f("pk_annotations")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_annotations_recipient", "annotations", [sa.literal_column("lower(recipient)")]
    )
    op.create_index("ix_annotations_ref", "annotations", [sa.literal_column("lower(ref)")])
    op.create_table(
        "batches",
        sa.Column("batch_number", NUMBER, autoincrement=True, nullable=False),
        sa.Column("batch_id", sa.String(length=36), nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("bucket", sa.String(length=63), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("requested_by", sa.String(length=200), nullable=True),
        sa.Column("requested_by_salt", sa.LargeBinary(), nullable=True),
        sa.Column("reason", sa.String(length=200), nullable=True),
        sa.Column("reason_salt", sa.LargeBinary(), nullable=True),
        sa.Column("recipient", sa.String(length=200), nullable=True),
        sa.Column("recipient_salt", sa.LargeBinary(), nullable=True),
        sa.Column("terms", sa.JSON(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("chunk_size", sa.Integer(), nullable=False),
        sa.Column("callback", sa.String(length=63), nullable=True),
        sa.Column("notify", sa.JSON(), nullable=True),
        sa.Column("reissue_of", sa.String(length=48), nullable=True),
        sa.Column("fingerprint", sa.LargeBinary(length=32), nullable=False),
        sa.Column("request_salt", sa.LargeBinary(), nullable=True),
        sa.Column("refusal", sa.JSON(), nullable=True),
        sa.Column("decided_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("batch_number", name=op.f("pk_batches")),
        sa.UniqueConstraint("tenant", "batch_id", name=op.f("uq_batches_tenant_batch_id")),
    )
    op.create_index(op.f("ix_batches_batch_id"), "batches", ["batch_id"])
    op.create_index(op.f("ix_batches_decided_at"), "batches", ["decided_at"])
    op.create_index(op.f("ix_batches_tenant_batch_number"), "batches", ["tenant", "batch_number"])
    op.create_table(
        "buckets",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("bucket", sa.String(length=255), nullable=False),
        sa.Column("region", sa.String(length=63), nullable=False),
        sa.Column("addressing", sa.String(length=7), nullable=False),
        sa.Column("endpoint", sa.String(length=2048), nullable=True),
        sa.Column("profile", sa.String(length=255), nullable=True),
        sa.Column("internal_endpoint", sa.String(length=2048), nullable=True),
        sa.Column("provider", sa.String(length=8), nullable=False),
        sa.Column("post", sa.Boolean(), nullable=False),
        sa.Column("conditional_writes", sa.Boolean(), nullable=False),
        sa.Column("versioned", sa.Boolean(), nullable=False),
        sa.Column("fips", sa.Boolean(), nullable=False),
        sa.Column("dualstack", sa.Boolean(), nullable=False),
        sa.Column("accelerate", sa.Boolean(), nullable=False),
        sa.Column("owner", sa.String(length=12), nullable=True),
        sa.Column("max_expires_in", sa.Integer(), nullable=False),
        sa.Column("role_arn", sa.String(length=2048), nullable=True),
        sa.Column("external_id", sa.String(length=1224), nullable=True),
        sa.Column("role_seconds", sa.Integer(), nullable=False),
        sa.Column("events_queue", sa.String(length=2048), nullable=True),
        sa.Column("probe_rate", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_buckets")),
    )
    op.create_table(
        "cancellations",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("batch_id", sa.String(length=36), nullable=False),
        sa.Column("signing_key", sa.String(length=63), nullable=True),
        sa.Column("requested_by", sa.String(length=200), nullable=True),
        sa.Column("requested_by_salt", sa.LargeBinary(), nullable=True),
        sa.Column("reason", sa.String(length=200), nullable=True),
        sa.Column("reason_salt", sa.LargeBinary(), nullable=True),
        sa.Column("cancelled_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "batch_id", name=op.f("pk_cancellations")),
    )
    op.create_table(
        "checkpoint_publications",
        sa.Column("destination", sa.String(length=32), nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("attempted_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("destination", "tenant", name=op.f("pk_checkpoint_publications")),
    )
    op.create_table(
        "checkpoints",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("size", NUMBER, autoincrement=False, nullable=False),
        sa.Column("root", sa.LargeBinary(length=32), nullable=False),
        sa.Column("signed_at", TIME, nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("edge", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("tenant", "size", name=op.f("pk_checkpoints")),
    )
    op.create_table(
        "config_changes",
        sa.Column("change_number", NUMBER, autoincrement=True, nullable=False),
        sa.Column("changed_at", TIME, nullable=False),
        sa.Column("changed_by", sa.String(length=200), nullable=False),
        sa.Column("command", sa.String(length=32), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("before", sa.JSON(), nullable=True),
        sa.Column("after", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("change_number", name=op.f("pk_config_changes")),
    )
    op.create_index(op.f("ix_config_changes_changed_at"), "config_changes", ["changed_at"])
    op.create_table(
        "config_revisions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_config_revisions")),
    )
    op.create_table(
        "denials",
        sa.Column("sid", sa.String(length=64), nullable=False),
        sa.Column("revocation_id", sa.String(length=36), nullable=False),
        sa.Column("bucket", sa.String(length=63), nullable=False),
        sa.Column("storage", sa.Text(), nullable=False),
        sa.Column("statement", sa.Text(), nullable=False),
        sa.Column("lapses_at", TIME, nullable=False),
        sa.Column("policy_bytes", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("sid", name=op.f("pk_denials")),
    )
    op.create_index(op.f("ix_denials_lapses_at"), "denials", ["lapses_at"])
    op.create_table(
        "ended_sessions",
        sa.Column("role_arn", sa.String(length=2048), nullable=False),
        sa.Column("sessions_from", TIME, nullable=False),
        sa.Column("bucket", sa.String(length=63), nullable=False),
        sa.Column("lapses_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("role_arn", name=op.f("pk_ended_sessions")),
    )
    op.create_table(
        "endpoint_hours",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("endpoint", sa.String(length=63), nullable=False),
        sa.Column("hour", TIME, nullable=False),
        sa.Column("is_success", sa.Boolean(), nullable=False),
        sa.Column("latency_class", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint(
            "tenant",
            "endpoint",
            "hour",
            "is_success",
            "latency_class",
            name=op.f("pk_endpoint_hours"),
        ),
    )
    op.create_table(
        "endpoint_states",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("endpoint", sa.String(length=63), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("failed_at", TIME, nullable=True),
        sa.Column("failing_since", TIME, nullable=True),
        sa.Column("problem", sa.String(length=200), nullable=True),
        sa.Column("open_until", TIME, nullable=True),
        sa.Column("disabled_at", TIME, nullable=True),
        sa.Column("disabled_by", sa.String(length=200), nullable=True),
        sa.PrimaryKeyConstraint("tenant", "endpoint", name=op.f("pk_endpoint_states")),
    )
    op.create_table(
        "erasures",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("erasure_id", sa.String(length=36), nullable=False),
        sa.Column("erased_by", sa.String(length=200), nullable=False),
        sa.Column("reason", sa.String(length=200), nullable=True),
        sa.Column("texts", sa.BigInteger(), nullable=False),
        sa.Column("erased_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "erasure_id", name=op.f("pk_erasures")),
    )
    op.create_table(
        "grants",
        sa.Column("batch_number", NUMBER, autoincrement=False, nullable=False),
        sa.Column("item_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("object_key", sa.Text(), nullable=False),
        sa.Column("code", sa.String(length=32), nullable=True),
        sa.Column("detail", sa.JSON(), nullable=True),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=True),
        *month,
        sa.PrimaryKeyConstraint(
            "batch_number",
            "item_number",
            *(column.name for column in month),
            name=op.f("pk_grants"),
        ),
        sqlite_with_rowid=False,
        postgresql_partition_by="RANGE (month)",
    )
    op.create_index(
        "ix_grants_refused",
        "grants",
        ["code", "batch_number", "item_number"],
        postgresql_where=sa.text("code IS NOT NULL"),
        sqlite_where=sa.text("code IS NOT NULL"),
    )
    op.create_table(
        "item_edges",
        sa.Column("batch_number", NUMBER, autoincrement=False, nullable=False),
        sa.Column("chunk_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("edge", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("batch_number", "chunk_number", name=op.f("pk_item_edges")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "key_segments",
        sa.Column("segment_number", NUMBER, autoincrement=True, nullable=False),
        sa.Column("entries", sa.Integer(), nullable=False),
        sa.Column("page_bits", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("segment_number", name=op.f("pk_key_segments")),
    )
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
        "log_imports",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("mark", sa.String(length=128), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("is_complete", sa.Boolean(), nullable=False),
        sa.Column("imported_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("source", name=op.f("pk_log_imports")),
    )
    op.create_table(
        "probes",
        sa.Column("probe_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("probed_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("probe_number", name=op.f("pk_probes")),
    )
    op.create_table(
        "prunes",
        sa.Column("prune_number", NUMBER, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("before", sa.String(length=7), nullable=False),
        sa.Column("pruned_by", sa.String(length=200), nullable=False),
        sa.Column("pruned_at", TIME, nullable=False),
        sa.Column("chunks", sa.BigInteger(), nullable=False),
        sa.Column("items", sa.BigInteger(), nullable=False),
        sa.Column("use_groups", sa.BigInteger(), nullable=False),
        sa.Column("edges", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("prune_number", name=op.f("pk_prunes")),
    )
    op.create_table(
        "quota_overrides",
        sa.Column("override_number", NUMBER, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("metric", sa.String(length=16), nullable=False),
        sa.Column("window", sa.String(length=8), nullable=False),
        sa.Column("extra", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("override_number", name=op.f("pk_quota_overrides")),
    )
    op.create_index(op.f("ix_quota_overrides_expires_at"), "quota_overrides", ["expires_at"])
    op.create_table(
        "refused_chunks",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("batch_number", NUMBER, autoincrement=False, nullable=False),
        sa.Column("chunk_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint(
            "tenant", "batch_number", "chunk_number", name=op.f("pk_refused_chunks")
        ),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "rejections",
        sa.Column("hour", TIME, nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("code", sa.String(length=32), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("last_at", TIME, nullable=False),
        sa.Column("last_digest", sa.LargeBinary(length=32), nullable=False),
        sa.PrimaryKeyConstraint("hour", "tenant", "code", name=op.f("pk_rejections")),
    )
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
        "tenant_identities",
        sa.Column("id", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tenant_identities")),
    )
    op.create_index(op.f("ix_tenant_identities_name"), "tenant_identities", ["name"])
    op.create_table(
        "tenants",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("trust", sa.String(length=16), nullable=False),
        sa.Column("max_batch", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(length=63), nullable=False),
        sa.Column("refund_unused", sa.Boolean(), nullable=False),
        sa.Column("max_waiting", sa.Integer(), nullable=True),
        sa.Column("max_waiting_age", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_tenants")),
    )
    op.create_index(op.f("ix_tenants_id"), "tenants", ["id"], unique=True)
    op.create_table(
        "tree_heads",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("edge", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", name=op.f("pk_tree_heads")),
    )
    op.create_table(
        "unindexed_chunks",
        sa.Column("batch_number", NUMBER, autoincrement=False, nullable=False),
        sa.Column("chunk_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("batch_number", "chunk_number", name=op.f("pk_unindexed_chunks")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "upload_starts",
        sa.Column("attempt", sa.String(length=36), nullable=False),
        sa.Column("item_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("batch_id", sa.String(length=36), nullable=False),
        sa.Column("bucket", sa.String(length=63), nullable=False),
        sa.Column("object_key", sa.Text(), nullable=False),
        sa.Column("upload_id", sa.Text(), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("cleanup_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("attempt", "item_number", name=op.f("pk_upload_starts")),
    )
    op.create_index(op.f("ix_upload_starts_cleanup_at"), "upload_starts", ["cleanup_at"])
    op.create_table(
        "usage",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("window", sa.String(length=8), nullable=False),
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
        sa.PrimaryKeyConstraint("tenant", "window", "window_start", name=op.f("pk_usage")),
    )
    op.create_table(
        "webhook_listeners",
        sa.Column("listener_id", sa.String(length=36), nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("key", sa.String(length=63), nullable=False),
        sa.Column("cursor", sa.BigInteger(), nullable=False),
        sa.Column("recent", sa.JSON(), nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("listener_id", name=op.f("pk_webhook_listeners")),
    )
    op.create_index(op.f("ix_webhook_listeners_tenant"), "webhook_listeners", ["tenant"])
    op.create_table(
        "chunks",
        sa.Column("batch_number", NUMBER, nullable=False),
        sa.Column("chunk_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(length=32), nullable=False),
        sa.Column("issued", sa.Integer(), nullable=False),
        sa.Column("refused", sa.Integer(), nullable=False),
        sa.Column("issued_at", TIME, nullable=False),
        sa.Column("expires_in", sa.Integer(), nullable=False),
        sa.Column("limited_by", sa.String(length=16), nullable=False),
        sa.Column("access_key", sa.String(length=128), nullable=True),
        sa.Column("refusal", sa.JSON(), nullable=True),
        sa.Column("signing_key", sa.String(length=63), nullable=True),
        sa.Column("key_thumbprint", sa.String(length=43), nullable=True),
        sa.Column("config_change", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["batch_number"], ["batches.batch_number"], name=op.f("fk_chunks_batch_number")
        ),
        sa.PrimaryKeyConstraint("batch_number", "chunk_number", name=op.f("pk_chunks")),
    )
    op.create_index(
        "ix_chunks_late",
        "chunks",
        ["issued_at", "batch_number"],
        postgresql_where=sa.text("chunk_number > 0 AND issued = 0"),
        sqlite_where=sa.text("chunk_number > 0 AND issued = 0"),
    )
    op.create_table(
        "deliveries",
        sa.Column("delivery_number", NUMBER, autoincrement=True, nullable=False),
        sa.Column("batch_number", NUMBER, nullable=True),
        sa.Column("chunk_number", sa.Integer(), nullable=True),
        sa.Column("page", sa.Integer(), server_default="1", nullable=False),
        sa.Column("pages", sa.Integer(), server_default="1", nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("endpoint", sa.String(length=63), nullable=False),
        sa.Column("event", sa.String(length=32), nullable=False),
        sa.Column("group_id", sa.String(length=80), nullable=True),
        sa.Column("content", sa.JSON(), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", TIME, nullable=False),
        sa.Column("not_before", TIME, nullable=True),
        sa.Column("lease", sa.String(length=36), nullable=True),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("problem", sa.String(length=200), nullable=True),
        sa.Column("duration_ms", sa.Integer(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("finished_at", TIME, nullable=True),
        sa.Column("expires_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["batch_number"], ["batches.batch_number"], name=op.f("fk_deliveries_batch_number")
        ),
        sa.PrimaryKeyConstraint("delivery_number", name=op.f("pk_deliveries")),
    )
    op.create_index(
        op.f("ix_deliveries_batch_number_chunk_number"),
        "deliveries",
        ["batch_number", "chunk_number"],
    )
    op.create_index(
        "ix_deliveries_failed",
        "deliveries",
        ["tenant", "endpoint", "created_at"],
        postgresql_where=sa.text("state = 'failed'"),
        sqlite_where=sa.text("state = 'failed'"),
    )
    op.create_index(
        "ix_deliveries_once",
        "deliveries",
        ["tenant", "endpoint", "event", "group_id"],
        unique=True,
        postgresql_where=sa.text("batch_number IS NULL"),
        sqlite_where=sa.text("batch_number IS NULL"),
    )
    op.create_index(
        "ix_deliveries_pending",
        "deliveries",
        ["tenant", "endpoint", "next_attempt_at"],
        postgresql_where=sa.text("state = 'pending'"),
        sqlite_where=sa.text("state = 'pending'"),
    )
    op.create_index(
        "ix_deliveries_pending_expires_at",
        "deliveries",
        ["expires_at"],
        postgresql_where=sa.text("state = 'pending'"),
        sqlite_where=sa.text("state = 'pending'"),
    )
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
        sa.Column("reserved_bytes", sa.BigInteger(), nullable=False),
        sa.Column("is_settled", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_number"], ["batches.batch_number"], name=op.f("fk_ended_slots_batch_number")
        ),
        sa.PrimaryKeyConstraint("batch_number", "chunk_number", name=op.f("pk_ended_slots")),
    )
    op.create_index(op.f("ix_ended_slots_bucket_check_at"), "ended_slots", ["bucket", "check_at"])
    op.create_table(
        "endpoints",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("url", sa.String(length=2048), nullable=False),
        sa.Column("secret", sa.String(length=2048), nullable=False),
        sa.Column("events", sa.JSON(), nullable=True),
        sa.Column("thin", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.name"], name=op.f("fk_endpoints_tenant")),
        sa.PrimaryKeyConstraint("tenant", "name", name=op.f("pk_endpoints")),
    )
    op.create_table(
        "key_pages",
        sa.Column("segment_number", NUMBER, nullable=False),
        sa.Column("page_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("entries", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["segment_number"],
            ["key_segments.segment_number"],
            name=op.f("fk_key_pages_segment_number"),
        ),
        sa.PrimaryKeyConstraint("segment_number", "page_number", name=op.f("pk_key_pages")),
    )
    op.create_table(
        "manifests",
        sa.Column("batch_number", NUMBER, nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("object_key", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", TIME, nullable=False),
        sa.Column("lease", sa.String(length=36), nullable=True),
        sa.Column("problem", sa.String(length=200), nullable=True),
        sa.Column("issued", sa.Integer(), nullable=False),
        sa.Column("refused", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("finished_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["batch_number"], ["batches.batch_number"], name=op.f("fk_manifests_batch_number")
        ),
        sa.PrimaryKeyConstraint("batch_number", name=op.f("pk_manifests")),
    )
    op.create_index(
        "ix_manifests_pending",
        "manifests",
        ["tenant", "next_attempt_at"],
        postgresql_where=sa.text("state = 'pending'"),
        sqlite_where=sa.text("state = 'pending'"),
    )
    op.create_table(
        "multipart_uploads",
        sa.Column("batch_number", NUMBER, nullable=False),
        sa.Column("item_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("bucket", sa.String(length=63), nullable=False),
        sa.Column("object_key", sa.Text(), nullable=False),
        sa.Column("upload_id", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("part_size", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("granted_parts", sa.Integer(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_number"],
            ["batches.batch_number"],
            name=op.f("fk_multipart_uploads_batch_number"),
        ),
        sa.PrimaryKeyConstraint("batch_number", "item_number", name=op.f("pk_multipart_uploads")),
    )
    op.create_index(
        op.f("ix_multipart_uploads_state_expires_at"), "multipart_uploads", ["state", "expires_at"]
    )
    op.create_table(
        "policies",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("bucket", sa.String(length=63), nullable=False),
        sa.Column("prefixes", sa.JSON(), nullable=False),
        sa.Column("kinds", sa.JSON(), nullable=False),
        sa.Column("max_expires_in", sa.Integer(), nullable=False),
        sa.Column("max_size", sa.BigInteger(), nullable=False),
        sa.Column("content_types", sa.JSON(), nullable=False),
        sa.Column("acls", sa.JSON(), nullable=False),
        sa.Column("inline", sa.JSON(), nullable=False),
        sa.Column("overrides", sa.JSON(), nullable=False),
        sa.Column("storage_classes", sa.JSON(), nullable=False),
        sa.Column("kms_keys", sa.JSON(), nullable=False),
        sa.Column("redirects", sa.JSON(), nullable=False),
        sa.Column("free_names", sa.Boolean(), nullable=False),
        sa.Column("overwrite", sa.Boolean(), nullable=False),
        sa.Column("plain", sa.Boolean(), nullable=False),
        sa.Column("callbacks", sa.JSON(), nullable=True),
        sa.Column("max_batch", sa.Integer(), nullable=True),
        sa.Column("shared", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.name"], name=op.f("fk_policies_tenant")),
        sa.ForeignKeyConstraint(["bucket"], ["buckets.name"], name=op.f("fk_policies_bucket")),
        sa.PrimaryKeyConstraint("tenant", "bucket", name=op.f("pk_policies")),
    )
    op.create_table(
        "quotas",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("metric", sa.String(length=16), nullable=False),
        sa.Column("window", sa.String(length=8), nullable=False),
        sa.Column("limit", sa.BigInteger(), nullable=False),
        sa.Column("warn_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.name"], name=op.f("fk_quotas_tenant")),
        sa.PrimaryKeyConstraint("tenant", "metric", "window", name=op.f("pk_quotas")),
    )
    op.create_table(
        "reissues",
        sa.Column("batch_number", NUMBER, nullable=False),
        sa.Column("chunk_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(length=32), nullable=False),
        sa.Column("access_key", sa.String(length=128), nullable=False),
        sa.Column("reissued_at", TIME, nullable=False),
        sa.Column("digests", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_number"], ["batches.batch_number"], name=op.f("fk_reissues_batch_number")
        ),
        sa.PrimaryKeyConstraint(
            "batch_number", "chunk_number", "fingerprint", name=op.f("pk_reissues")
        ),
    )
    op.create_table(
        "reservations",
        sa.Column("batch_number", NUMBER, nullable=False),
        sa.Column("chunk_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("signing_key", sa.String(length=63), nullable=True),
        sa.Column("items", sa.Integer(), nullable=False),
        sa.Column("grants", sa.BigInteger(), nullable=False),
        sa.Column("download_grants", sa.BigInteger(), nullable=False),
        sa.Column("upload_bytes", sa.BigInteger(), nullable=False),
        sa.Column("charged_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_number"], ["batches.batch_number"], name=op.f("fk_reservations_batch_number")
        ),
        sa.PrimaryKeyConstraint("batch_number", "chunk_number", name=op.f("pk_reservations")),
    )
    op.create_index(op.f("ix_reservations_expires_at"), "reservations", ["expires_at"])
    op.create_index(op.f("ix_reservations_tenant"), "reservations", ["tenant"])
    op.create_table(
        "settlements",
        sa.Column("batch_number", NUMBER, nullable=False),
        sa.Column("chunk_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("unused", sa.Text(), nullable=False),
        sa.Column("used_bytes", sa.BigInteger(), nullable=False),
        sa.Column("returned_bytes", sa.BigInteger(), nullable=False),
        sa.Column("settled_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_number"], ["batches.batch_number"], name=op.f("fk_settlements_batch_number")
        ),
        sa.PrimaryKeyConstraint("batch_number", "chunk_number", name=op.f("pk_settlements")),
    )
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
        sa.Column("version", sa.Text(), nullable=True),
        sa.Column("is_counted", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_number"], ["batches.batch_number"], name=op.f("fk_stored_objects_batch_number")
        ),
        sa.PrimaryKeyConstraint("bucket", "object_key", name=op.f("pk_stored_objects")),
    )
    op.create_index(
        op.f("ix_stored_objects_batch_number_item_number"),
        "stored_objects",
        ["batch_number", "item_number"],
    )
    op.create_table(
        "tenant_keys",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("sign", sa.String(length=43), nullable=False),
        sa.Column("seal", sa.String(length=43), nullable=False),
        sa.Column("expires", TIME, nullable=True),
        sa.Column("revoked", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.name"], name=op.f("fk_tenant_keys_tenant")),
        sa.PrimaryKeyConstraint("tenant", "name", name=op.f("pk_tenant_keys")),
    )
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
        sa.Column("charged_bytes", sa.BigInteger(), nullable=True),
        sa.Column("group_id", sa.String(length=36), nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_number"], ["batches.batch_number"], name=op.f("fk_uses_batch_number")
        ),
        sa.PrimaryKeyConstraint("fingerprint", name=op.f("pk_uses")),
    )
    op.create_index(
        op.f("ix_uses_batch_number_item_number"), "uses", ["batch_number", "item_number"]
    )
    op.create_index(
        "ix_uses_exceptions",
        "uses",
        ["batch_number", "item_number"],
        postgresql_where=sa.text("verdict <> 'as_granted'"),
        sqlite_where=sa.text("verdict <> 'as_granted'"),
    )
    op.create_index(op.f("ix_uses_group_id"), "uses", ["group_id"])
    op.create_table(
        "delivery_attempts",
        sa.Column("attempt_number", NUMBER, autoincrement=True, nullable=False),
        sa.Column("delivery_number", NUMBER, nullable=False),
        sa.Column("attempted_at", TIME, nullable=False),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("problem", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(
            ["delivery_number"],
            ["deliveries.delivery_number"],
            name=op.f("fk_delivery_attempts_delivery_number"),
        ),
        sa.PrimaryKeyConstraint("attempt_number", name=op.f("pk_delivery_attempts")),
    )
    op.create_index(
        op.f("ix_delivery_attempts_delivery_number"), "delivery_attempts", ["delivery_number"]
    )
    # ### end Alembic commands ###
    if is_postgres():
        create_partitions()
    create_triggers()


def downgrade() -> None:
    drop_functions()
    op.drop_table("delivery_attempts")
    op.drop_table("uses")
    op.drop_table("tenant_keys")
    op.drop_table("stored_objects")
    op.drop_table("settlements")
    op.drop_table("reservations")
    op.drop_table("reissues")
    op.drop_table("quotas")
    op.drop_table("policies")
    op.drop_table("multipart_uploads")
    op.drop_table("manifests")
    op.drop_table("key_pages")
    op.drop_table("endpoints")
    op.drop_table("ended_slots")
    op.drop_table("deliveries")
    op.drop_table("chunks")
    op.drop_table("webhook_listeners")
    op.drop_table("usage")
    op.drop_table("upload_starts")
    op.drop_table("unindexed_chunks")
    op.drop_table("tree_heads")
    op.drop_table("tenants")
    op.drop_table("tenant_identities")
    op.drop_table("revocations")
    op.drop_table("rejections")
    op.drop_table("refused_chunks")
    op.drop_table("quota_overrides")
    op.drop_table("prunes")
    op.drop_table("probes")
    op.drop_table("log_imports")
    op.drop_table("leaves")
    op.drop_table("key_segments")
    op.drop_table("item_edges")
    op.drop_table("grants")
    op.drop_table("erasures")
    op.drop_table("endpoint_states")
    op.drop_table("endpoint_hours")
    op.drop_table("ended_sessions")
    op.drop_table("denials")
    op.drop_table("config_revisions")
    op.drop_table("config_changes")
    op.drop_table("checkpoints")
    op.drop_table("checkpoint_publications")
    op.drop_table("cancellations")
    op.drop_table("buckets")
    op.drop_table("batches")
    op.drop_table("annotations")
