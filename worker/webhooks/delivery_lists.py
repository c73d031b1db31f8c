"""The lists of webhook deliveries and of manifests."""

from datetime import datetime
from typing import Literal, NamedTuple

from sqlalchemy import Connection, and_, case, select

from models import Batch, Delivery, EndpointCircuit, Manifest
from worker.base.pages import Page, fetch_page
from worker.ledger.tenant_history import is_of_tenant

DeliveryState = Literal["pending", "delivered", "failed"]


class DeliveryRecord(NamedTuple):
    """The delivery of one chunk's outcome, or of news about its uploads, to one endpoint.

    status and problem are those of the last attempt. next_attempt_at is None unless the delivery is
    pending. paused_until is the time until which its endpoint is not called after many failures.
    event is the type of a webhook about uploads, and None for an outcome.
    """

    number: int
    tenant: str
    endpoint: str
    batch: str
    chunk: int
    state: str
    attempts: int
    next_attempt_at: datetime | None
    status: int | None
    problem: str | None
    created_at: datetime
    paused_until: datetime | None
    event: str | None


def read_deliveries(
    connection: Connection,
    limit: int,
    *,
    state: DeliveryState | None = None,
    tenant: str | None = None,
    after: int | None = None,
) -> Page[DeliveryRecord]:
    """Read at most limit deliveries, newest first. A filter that is None matches everything.

    after is the number of the last delivery of the previous page.
    """
    next_attempt_at, paused_until = (
        case((Delivery.state == "pending", column))
        for column in (Delivery.next_attempt_at, EndpointCircuit.open_until)
    )
    is_endpoint = and_(
        EndpointCircuit.tenant == Delivery.tenant, EndpointCircuit.endpoint == Delivery.endpoint
    )
    query = (
        select(
            *(Delivery.delivery_number, Delivery.tenant, Delivery.endpoint),
            *(Batch.batch_id, Delivery.chunk_number, Delivery.state, Delivery.attempts),
            *(next_attempt_at, Delivery.status, Delivery.problem, Delivery.created_at),
            *(paused_until, Delivery.event),
        )
        .join(Batch, Batch.batch_number == Delivery.batch_number)
        .outerjoin(EndpointCircuit, is_endpoint)
        .order_by(Delivery.delivery_number.desc())
    )
    if state is not None:
        query = query.where(Delivery.state == state)
    if tenant is not None:
        query = query.where(is_of_tenant(connection, Delivery.tenant, tenant))
    if after is not None:
        query = query.where(Delivery.delivery_number < after)
    return fetch_page(connection, query, limit, lambda row: DeliveryRecord(*row))


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
