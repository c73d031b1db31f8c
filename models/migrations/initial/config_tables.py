"""Create the tables of the tenant config, and of the ids that its tenants have."""

import sqlalchemy as sa
from alembic import op

from models.migrations.initial.columns import NUMBER, TIME


def create_config_revisions() -> None:
    op.create_table(
        "config_revisions",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_config_revisions"),
    )


def create_tenants() -> None:
    op.create_table(
        "tenants",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("trust", sa.String(16), nullable=False),
        sa.Column("max_batch", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(63), nullable=False),
        sa.Column("refund_unused", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_tenants"),
    )
    op.create_index("ix_tenants_id", "tenants", ["id"], unique=True)


def create_tenant_identities() -> None:
    op.create_table(
        "tenant_identities",
        sa.Column("id", sa.String(63), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_tenant_identities"),
    )
    op.create_index("ix_tenant_identities_name", "tenant_identities", ["name"])


def create_tenant_keys() -> None:
    op.create_table(
        "tenant_keys",
        _tenant("tenant_keys"),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("sign", sa.String(43), nullable=False),
        sa.Column("seal", sa.String(43), nullable=False),
        sa.Column("expires", TIME),
        sa.Column("revoked", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "name", name="pk_tenant_keys"),
    )


def create_buckets() -> None:
    op.create_table(
        "buckets",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("bucket", sa.String(255), nullable=False),
        sa.Column("region", sa.String(63), nullable=False),
        sa.Column("addressing", sa.String(7), nullable=False),
        sa.Column("endpoint", sa.String(2048)),
        sa.Column("profile", sa.String(255)),
        sa.Column("internal_endpoint", sa.String(2048)),
        sa.Column("provider", sa.String(8), nullable=False),
        sa.Column("post", sa.Boolean(), nullable=False),
        sa.Column("conditional_writes", sa.Boolean(), nullable=False),
        sa.Column("versioned", sa.Boolean(), nullable=False),
        sa.Column("fips", sa.Boolean(), nullable=False),
        sa.Column("dualstack", sa.Boolean(), nullable=False),
        sa.Column("accelerate", sa.Boolean(), nullable=False),
        sa.Column("owner", sa.String(12)),
        sa.Column("max_expires_in", sa.Integer(), nullable=False),
        sa.Column("role_arn", sa.String(2048)),
        sa.Column("external_id", sa.String(1224)),
        sa.Column("role_seconds", sa.Integer(), nullable=False),
        sa.Column("events_queue", sa.String(2048)),
        sa.Column("probe_rate", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_buckets"),
    )


def create_policies() -> None:
    op.create_table(
        "policies",
        _tenant("policies"),
        sa.Column(
            "bucket",
            sa.String(63),
            sa.ForeignKey("buckets.name", name="fk_policies_bucket"),
            nullable=False,
        ),
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
        sa.Column("callbacks", sa.JSON()),
        sa.Column("max_batch", sa.Integer()),
        sa.Column("shared", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "bucket", name="pk_policies"),
    )


def create_endpoints() -> None:
    op.create_table(
        "endpoints",
        _tenant("endpoints"),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("url", sa.String(2048), nullable=False),
        sa.Column("secret", sa.String(2048), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "name", name="pk_endpoints"),
    )


def create_quotas() -> None:
    op.create_table(
        "quotas",
        _tenant("quotas"),
        sa.Column("metric", sa.String(16), nullable=False),
        sa.Column("window", sa.String(8), nullable=False),
        sa.Column("limit", sa.BigInteger(), nullable=False),
        sa.Column("warn_at", sa.BigInteger()),
        sa.PrimaryKeyConstraint("tenant", "metric", "window", name="pk_quotas"),
    )


def create_quota_overrides() -> None:
    op.create_table(
        "quota_overrides",
        sa.Column("override_number", NUMBER, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("metric", sa.String(16), nullable=False),
        sa.Column("window", sa.String(8), nullable=False),
        sa.Column("extra", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("override_number", name="pk_quota_overrides"),
    )
    op.create_index("ix_quota_overrides_expires_at", "quota_overrides", ["expires_at"])


def _tenant(table: str) -> sa.Column[str]:
    """Return a table's column that refers to a tenant by name."""
    tenant = sa.ForeignKey("tenants.name", name=f"fk_{table}_tenant")
    return sa.Column("tenant", sa.String(63), tenant, nullable=False)


CONFIG_TABLES = {
    "config_revisions": create_config_revisions,
    "tenants": create_tenants,
    "tenant_identities": create_tenant_identities,
    "tenant_keys": create_tenant_keys,
    "buckets": create_buckets,
    "policies": create_policies,
    "endpoints": create_endpoints,
    "quotas": create_quotas,
    "quota_overrides": create_quota_overrides,
}
"""The functions that create the tables, in an order in which no table refers to a later one."""
