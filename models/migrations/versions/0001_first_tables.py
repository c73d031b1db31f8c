"""The first tables.

A migration runs while the previous release still serves. Add columns first, remove them one
release later, and hold no lock for longer than a moment.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001_first_tables"
down_revision = None
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
APPEND_ONLY = ("batches", "chunks", "grants", "reissues", "cancellations", "config_changes")


def upgrade() -> None:
    op.create_table(
        "batches",
        sa.Column("batch_number", NUMBER, autoincrement=True, nullable=False),
        sa.Column("batch_id", sa.String(length=36), nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("bucket", sa.String(length=63), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("requested_by", sa.String(length=200), nullable=False),
        sa.Column("reason", sa.String(length=200), nullable=True),
        sa.Column("terms", sa.JSON(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("chunk_size", sa.Integer(), nullable=False),
        sa.Column("callback", sa.String(length=63), nullable=True),
        sa.Column("fingerprint", sa.LargeBinary(length=32), nullable=False),
        sa.Column("refusal", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False),
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
        sa.Column("fips", sa.Boolean(), nullable=False),
        sa.Column("dualstack", sa.Boolean(), nullable=False),
        sa.Column("accelerate", sa.Boolean(), nullable=False),
        sa.Column("owner", sa.String(length=12), nullable=True),
        sa.Column("max_expires_in", sa.Integer(), nullable=False),
        sa.Column("role_arn", sa.String(length=2048), nullable=True),
        sa.Column("external_id", sa.String(length=1224), nullable=True),
        sa.Column("role_seconds", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_buckets")),
    )
    op.create_table(
        "cancellations",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("batch_id", sa.String(length=36), nullable=False),
        sa.Column("signing_key", sa.String(length=63), nullable=True),
        sa.Column("requested_by", sa.String(length=200), nullable=False),
        sa.Column("reason", sa.String(length=200), nullable=True),
        sa.Column("cancelled_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "batch_id", name=op.f("pk_cancellations")),
    )
    op.create_table(
        "config_changes",
        sa.Column("change_number", NUMBER, autoincrement=True, nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_by", sa.String(length=200), nullable=False),
        sa.Column("command", sa.String(length=32), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("before", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("after", sa.JSON(none_as_null=True), nullable=True),
        sa.PrimaryKeyConstraint("change_number", name=op.f("pk_config_changes")),
    )
    op.create_index(op.f("ix_config_changes_changed_at"), "config_changes", ["changed_at"])
    op.create_table(
        "quota_overrides",
        sa.Column("override_number", NUMBER, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("metric", sa.String(length=16), nullable=False),
        sa.Column("window", sa.String(length=8), nullable=False),
        sa.Column("extra", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("override_number", name=op.f("pk_quota_overrides")),
    )
    op.create_index(op.f("ix_quota_overrides_expires_at"), "quota_overrides", ["expires_at"])
    op.create_table(
        "rejections",
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("code", sa.String(length=32), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_digest", sa.LargeBinary(length=32), nullable=False),
        sa.PrimaryKeyConstraint("hour", "tenant", "code", name=op.f("pk_rejections")),
    )
    op.create_table(
        "config_revisions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_config_revisions")),
    )
    op.create_table(
        "tenants",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("trust", sa.String(length=16), nullable=False),
        sa.Column("max_batch", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_tenants")),
    )
    op.create_table(
        "usage",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("window", sa.String(length=8), nullable=False),
        sa.Column("window_start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("grants", sa.BigInteger(), nullable=False),
        sa.Column("download_grants", sa.BigInteger(), nullable=False),
        sa.Column("upload_bytes", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "grants >= 0 AND download_grants >= 0 AND upload_bytes >= 0",
            name=op.f("ck_usage_not_negative"),
        ),
        sa.PrimaryKeyConstraint("tenant", "window", "window_start", name=op.f("pk_usage")),
    )
    op.create_table(
        "chunks",
        sa.Column("batch_number", NUMBER, nullable=False),
        sa.Column("chunk_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(length=32), nullable=False),
        sa.Column("issued", sa.Integer(), nullable=False),
        sa.Column("refused", sa.Integer(), nullable=False),
        sa.Column("issued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_in", sa.Integer(), nullable=False),
        sa.Column("limited_by", sa.String(length=16), nullable=False),
        sa.Column("access_key", sa.String(length=128), nullable=True),
        sa.Column("refusal", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("signing_key", sa.String(length=63), nullable=True),
        sa.ForeignKeyConstraint(
            ["batch_number"], ["batches.batch_number"], name=op.f("fk_chunks_batch_number")
        ),
        sa.PrimaryKeyConstraint("batch_number", "chunk_number", name=op.f("pk_chunks")),
    )
    op.create_table(
        "deliveries",
        sa.Column("delivery_number", NUMBER, autoincrement=True, nullable=False),
        sa.Column("batch_number", NUMBER, nullable=False),
        sa.Column("chunk_number", sa.Integer(), nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("endpoint", sa.String(length=63), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease", sa.String(length=36), nullable=True),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("problem", sa.String(length=200), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["batch_number"], ["batches.batch_number"], name=op.f("fk_deliveries_batch_number")
        ),
        sa.PrimaryKeyConstraint("delivery_number", name=op.f("pk_deliveries")),
    )
    op.create_index(
        op.f("ix_deliveries_state_next_attempt_at"), "deliveries", ["state", "next_attempt_at"]
    )

    op.create_table(
        "endpoints",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("url", sa.String(length=2048), nullable=False),
        sa.Column("secret", sa.String(length=2048), nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.name"], name=op.f("fk_endpoints_tenant")),
        sa.PrimaryKeyConstraint("tenant", "name", name=op.f("pk_endpoints")),
    )
    op.create_table(
        "grants",
        sa.Column("batch_number", NUMBER, nullable=False),
        sa.Column("item_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("object_key", sa.Text(), nullable=False),
        sa.Column("code", sa.String(length=32), nullable=True),
        sa.Column("detail", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=True),
        sa.PrimaryKeyConstraint("batch_number", "item_number", name=op.f("pk_grants")),
        sqlite_with_rowid=False,
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
        sa.Column("charged_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_number"], ["batches.batch_number"], name=op.f("fk_reservations_batch_number")
        ),
        sa.PrimaryKeyConstraint("batch_number", "chunk_number", name=op.f("pk_reservations")),
    )
    op.create_index(op.f("ix_reservations_expires_at"), "reservations", ["expires_at"])
    op.create_index(op.f("ix_reservations_tenant"), "reservations", ["tenant"])
    op.create_table(
        "tenant_keys",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("sign", sa.String(length=43), nullable=False),
        sa.Column("seal", sa.String(length=43), nullable=False),
        sa.Column("expires", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.name"], name=op.f("fk_tenant_keys_tenant")),
        sa.PrimaryKeyConstraint("tenant", "name", name=op.f("pk_tenant_keys")),
    )
    op.create_table(
        "manifests",
        sa.Column("batch_number", NUMBER, nullable=False),
        sa.Column("object_key", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease", sa.String(length=36), nullable=True),
        sa.Column("problem", sa.String(length=200), nullable=True),
        sa.Column("issued", sa.Integer(), nullable=False),
        sa.Column("refused", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["batch_number"], ["batches.batch_number"], name=op.f("fk_manifests_batch_number")
        ),
        sa.PrimaryKeyConstraint("batch_number", name=op.f("pk_manifests")),
    )
    op.create_index(
        op.f("ix_manifests_state_next_attempt_at"), "manifests", ["state", "next_attempt_at"]
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
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
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
        sa.Column("callbacks", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("max_batch", sa.Integer(), nullable=True),
        sa.Column("shared", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["bucket"], ["buckets.name"], name=op.f("fk_policies_bucket")),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.name"], name=op.f("fk_policies_tenant")),
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
        sa.Column("reissued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("digests", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_number"], ["batches.batch_number"], name=op.f("fk_reissues_batch_number")
        ),
        sa.PrimaryKeyConstraint(
            "batch_number", "chunk_number", "fingerprint", name=op.f("pk_reissues")
        ),
    )
    freeze()


def downgrade() -> None:
    thaw()
    # Indexes are dropped with their tables; tables that others refer to are dropped last.
    for table in (
        *("reissues", "quotas", "policies", "multipart_uploads", "manifests", "tenant_keys"),
        *("reservations", "grants", "endpoints", "deliveries", "chunks", "usage", "tenants"),
        *("config_revisions", "rejections", "quota_overrides", "config_changes", "cancellations"),
        *("buckets", "batches"),
    ):
        op.drop_table(table)


def freeze() -> None:
    """Have the database refuse to change or remove rows of the audit log."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION valetkey_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'the audit log is append only'; END $$"
        )
    for table in APPEND_ONLY:
        for statement in _triggers(table, op.get_bind().dialect.name):
            op.execute(statement)


def _triggers(table: str, dialect: str) -> list[str]:
    if dialect == "postgresql":
        statement = (
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION valetkey_append_only()"
        )
        return [statement]
    return [
        f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
        "BEGIN SELECT RAISE(ABORT, 'the audit log is append only'); END"
        for verb in ("UPDATE", "DELETE")
    ]


def thaw() -> None:
    """Drop the triggers on PostgreSQL; SQLite drops them with their tables."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION valetkey_append_only() CASCADE")
