"""The tenant config, written by `apply` and read by the worker, and the log of its changes.

In the tables of the config, `tenant` is the tenant's name. In all others it is the tenant's id,
which no other tenant ever had: a name can be removed and used again.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import NUMBER, AppendOnly, Base

NAME = String(63)
TENANT_ID = String(63)


class ConfigRevisionCounter(Base):
    """A single row that counts the applied configs; workers reload the config when it changes."""

    __tablename__ = "config_revisions"

    id: Mapped[int] = mapped_column(primary_key=True)
    revision: Mapped[int]


class Tenant(Base):
    """A party that producers act for; it owns policies, quotas, keys and endpoints."""

    __tablename__ = "tenants"

    name: Mapped[str] = mapped_column(NAME, primary_key=True)
    trust: Mapped[str] = mapped_column(String(16))
    max_batch: Mapped[int]
    id: Mapped[str] = mapped_column(TENANT_ID, index=True, unique=True)
    refund_unused: Mapped[bool]
    max_waiting: Mapped[int | None]
    max_waiting_age: Mapped[int | None]


class TenantIdentity(AppendOnly):
    """The id and the name of a tenant that exists or was removed. Rows are added, never changed.

    The first tenant of a name has the name as its id, the second one NAME~2.
    """

    __tablename__ = "tenant_identities"

    id: Mapped[str] = mapped_column(TENANT_ID, primary_key=True)
    name: Mapped[str] = mapped_column(NAME, index=True)
    created_at: Mapped[datetime]


class TenantKey(Base):
    """A public key of a tenant: `sign` verifies its messages, `seal` encrypts its results.

    Both are base64url: Ed25519 and X25519. An expired or revoked key stays in the table, so that a
    message signed with it gets the matching refusal.
    """

    __tablename__ = "tenant_keys"

    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name"), primary_key=True)
    name: Mapped[str] = mapped_column(NAME, primary_key=True)
    sign: Mapped[str] = mapped_column(String(43))
    seal: Mapped[str] = mapped_column(String(43))
    expires: Mapped[datetime | None]
    revoked: Mapped[bool]


class Bucket(Base):
    """A bucket profile. worker.rules.tenant_config describes the columns, which are its fields."""

    __tablename__ = "buckets"

    name: Mapped[str] = mapped_column(NAME, primary_key=True)
    bucket: Mapped[str] = mapped_column(String(255))
    region: Mapped[str] = mapped_column(String(63))
    addressing: Mapped[str] = mapped_column(String(7))
    endpoint: Mapped[str | None] = mapped_column(String(2048))
    profile: Mapped[str | None] = mapped_column(String(255))
    internal_endpoint: Mapped[str | None] = mapped_column(String(2048))
    provider: Mapped[str] = mapped_column(String(8))
    post: Mapped[bool]
    conditional_writes: Mapped[bool]
    versioned: Mapped[bool]
    fips: Mapped[bool]
    dualstack: Mapped[bool]
    accelerate: Mapped[bool]
    owner: Mapped[str | None] = mapped_column(String(12))
    max_expires_in: Mapped[int]
    role_arn: Mapped[str | None] = mapped_column(String(2048))
    external_id: Mapped[str | None] = mapped_column(String(1224))
    role_seconds: Mapped[int]
    events_queue: Mapped[str | None] = mapped_column(String(2048))
    probe_rate: Mapped[int]


class Policy(Base):
    """The requests that one tenant may make in one bucket profile; columns as for Bucket."""

    __tablename__ = "policies"

    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name"), primary_key=True)
    bucket: Mapped[str] = mapped_column(ForeignKey("buckets.name"), primary_key=True)
    prefixes: Mapped[list[str]] = mapped_column(JSON)
    kinds: Mapped[list[str]] = mapped_column(JSON)
    max_expires_in: Mapped[int]
    max_size: Mapped[int] = mapped_column(BigInteger)
    content_types: Mapped[list[str]] = mapped_column(JSON)
    acls: Mapped[list[str]] = mapped_column(JSON)
    inline: Mapped[list[str]] = mapped_column(JSON)
    overrides: Mapped[list[str]] = mapped_column(JSON)
    storage_classes: Mapped[list[str]] = mapped_column(JSON)
    kms_keys: Mapped[list[str]] = mapped_column(JSON)
    redirects: Mapped[list[str]] = mapped_column(JSON)
    free_names: Mapped[bool]
    overwrite: Mapped[bool]
    plain: Mapped[bool]
    callbacks: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    max_batch: Mapped[int | None]
    shared: Mapped[bool]


class WebhookEndpoint(Base):
    """A webhook endpoint of a tenant; `secret` is a reference to the secret, never the secret."""

    __tablename__ = "endpoints"

    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name"), primary_key=True)
    name: Mapped[str] = mapped_column(NAME, primary_key=True)
    url: Mapped[str] = mapped_column(String(2048))
    secret: Mapped[str] = mapped_column(String(2048))
    events: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    thin: Mapped[bool]


class ConfigChange(AppendOnly):
    """One field of the tenant config before and after a change: the audit log of administration.

    Rows are added and never changed. changed_by is the operator's account, command the command
    that made the change.
    """

    __tablename__ = "config_changes"

    change_number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=True)
    changed_at: Mapped[datetime] = mapped_column(index=True)
    changed_by: Mapped[str] = mapped_column(String(200))
    command: Mapped[str] = mapped_column(String(32))
    path: Mapped[str] = mapped_column(Text)
    before: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))
    after: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))
