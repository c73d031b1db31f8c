"""Who may have what, as declared: written by apply, read by the worker."""

from sqlalchemy import JSON, BigInteger, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base

NAME = String(63)


class Revision(Base):
    """One row that counts applied declarations: the worker rereads them when it has changed."""

    __tablename__ = "revisions"

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int]


class Tenant(Base):
    """Whom a producer acts for. Its row is what concurrent admissions of the tenant lock."""

    __tablename__ = "tenants"

    name: Mapped[str] = mapped_column(NAME, primary_key=True)
    trust: Mapped[str] = mapped_column(String(16))
    max_batch: Mapped[int]


class Bucket(Base):
    """A bucket profile: how to reach and address one real bucket, and whose credentials sign."""

    __tablename__ = "buckets"

    name: Mapped[str] = mapped_column(NAME, primary_key=True)
    bucket: Mapped[str] = mapped_column(String(255))
    region: Mapped[str] = mapped_column(String(63))
    addressing: Mapped[str] = mapped_column(String(7))
    endpoint: Mapped[str | None] = mapped_column(String(2048))
    profile: Mapped[str | None] = mapped_column(String(255))


class Policy(Base):
    """What one tenant may ask for in one bucket profile. Lives in seconds, sizes in bytes."""

    __tablename__ = "policies"

    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name"), primary_key=True)
    bucket: Mapped[str] = mapped_column(ForeignKey("buckets.name"), primary_key=True)
    prefixes: Mapped[list[str]] = mapped_column(JSON)
    kinds: Mapped[list[str]] = mapped_column(JSON)
    max_expires_in: Mapped[int]
    max_size: Mapped[int] = mapped_column(BigInteger)
    content_types: Mapped[list[str]] = mapped_column(JSON)
    acls: Mapped[list[str]] = mapped_column(JSON)


class Endpoint(Base):
    """Where a tenant's webhooks go. secret names where the secret is kept, and is never one."""

    __tablename__ = "endpoints"

    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name"), primary_key=True)
    name: Mapped[str] = mapped_column(NAME, primary_key=True)
    url: Mapped[str] = mapped_column(String(2048))
    secret: Mapped[str] = mapped_column(String(2048))
