"""The list of manifests."""

from datetime import datetime
from typing import Literal, NamedTuple

from sqlalchemy import Connection, case, select

from models import Batch, Manifest
from worker.db.audit.pages import Page, fetch_page
from worker.db.audit.selection.tenant_filter import is_of_tenant

ManifestStateName = Literal["pending", "written", "failed"]


class ManifestRecord(NamedTuple):
    """The manifest of one batch.

    problem is that of the last attempt. next_attempt_at is None unless the manifest is pending.
    """

    number: int
    tenant: str
    batch: str
    bucket: str
    key: str
    state: str
    attempts: int
    next_attempt_at: datetime | None
    problem: str | None
    created_at: datetime


def read_manifests(
    connection: Connection,
    limit: int,
    *,
    state: ManifestStateName | None = None,
    tenant: str | None = None,
    after: int | None = None,
) -> Page[ManifestRecord]:
    """Read at most limit manifests, newest first. A filter that is None matches everything.

    after is the number of the last manifest of the previous page.
    """
    next_attempt_at = case((Manifest.state == "pending", Manifest.next_attempt_at))
    query = (
        select(
            *(Manifest.batch_number, Batch.tenant, Batch.batch_id, Batch.bucket),
            *(Manifest.object_key, Manifest.state, Manifest.attempts, next_attempt_at),
            *(Manifest.problem, Manifest.created_at),
        )
        .join(Batch, Batch.batch_number == Manifest.batch_number)
        .order_by(Manifest.batch_number.desc())
    )
    if state is not None:
        query = query.where(Manifest.state == state)
    if tenant is not None:
        query = query.where(is_of_tenant(connection, Batch.tenant, tenant))
    if after is not None:
        query = query.where(Manifest.batch_number < after)
    return fetch_page(connection, query, limit, lambda row: ManifestRecord(*row))
