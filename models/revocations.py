"""Revocations: grants that were revoked before they expired, and the denials that do it."""

from datetime import datetime

from sqlalchemy import BigInteger, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import AppendOnly, Base
from models.tenants import NAME, TENANT_ID


class Revocation(AppendOnly):
    """A revocation, once for each tenant whose grants it ended. Rows are added and never changed.

    target_kind is grant, batch, key, prefix or tenant, and target the id, key, prefix or name;
    bucket is the bucket profile of a key or prefix, and storage the name of the real bucket to
    which it led, as `storage_name` writes it. Grants that were issued before revoked_at and are
    within the target are not signed again. lapses_at is the end of the last of these grants.
    """

    __tablename__ = "revocations"

    tenant: Mapped[str] = mapped_column(TENANT_ID, primary_key=True)
    revocation_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    target_kind: Mapped[str] = mapped_column(String(16))
    target: Mapped[str] = mapped_column(Text)
    bucket: Mapped[str | None] = mapped_column(NAME)
    storage: Mapped[str | None] = mapped_column(Text)
    grants: Mapped[int] = mapped_column(BigInteger)
    revoked_by: Mapped[str] = mapped_column(String(200))
    reason: Mapped[str | None] = mapped_column(String(200))
    revoked_at: Mapped[datetime]
    lapses_at: Mapped[datetime]


class Denial(Base):
    """A statement of our own in a bucket's policy, until it was seen removed after lapses_at.

    sid names the statement, which is JSON. storage is the name of the real bucket, as
    `storage_name` writes it, and bucket the bucket profile whose credentials changed the policy.
    policy_bytes is the size of the policy when the statement was last seen in it, and NULL if it is
    not.
    """

    __tablename__ = "denials"
    __table_args__ = (Index(None, "lapses_at"),)

    sid: Mapped[str] = mapped_column(String(64), primary_key=True)
    revocation_id: Mapped[str] = mapped_column(String(36))
    bucket: Mapped[str] = mapped_column(NAME)
    storage: Mapped[str] = mapped_column(Text)
    statement: Mapped[str] = mapped_column(Text)
    lapses_at: Mapped[datetime]
    policy_bytes: Mapped[int | None] = mapped_column(Integer)


class EndedSessions(Base):
    """A role whose sessions from before sessions_from were ended, until all would have ended.

    No worker signs with such a session. A policy of our own on the role denies them everything,
    until it was seen removed after lapses_at. bucket is the bucket profile whose credentials
    changed the role.
    """

    __tablename__ = "ended_sessions"

    role_arn: Mapped[str] = mapped_column(String(2048), primary_key=True)
    sessions_from: Mapped[datetime]
    bucket: Mapped[str] = mapped_column(NAME)
    lapses_at: Mapped[datetime]
