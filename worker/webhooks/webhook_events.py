"""Renders webhooks under today's policy: grants in them are signed again.

The id of a webhook is the same for every attempt.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from pydantic_core import to_json
from sqlalchemy import exists, select

from models import Batch, Cancellation
from valetkey.wire.events import (
    MAX_WEBHOOK_BYTES,
    CompletedBatch,
    DecidedGrants,
    ReportedUpload,
    ReportedUploads,
)
from valetkey.wire.refusals import Refusal
from worker.base.database_engine import autocommit_read, read_transaction
from worker.context import Context
from worker.errors import Malformed
from worker.features import contributions, resolve
from worker.issue.chunk_signing import read_recorded, reissue_chunk
from worker.ledger.batches import count_decided
from worker.rules.admission import allowed_callback_names
from worker.rules.decisions import ChunkDecision, RecordedChunk
from worker.rules.tenant_config import Tenant, WebhookEndpoint
from worker.webhooks.outbox import DeliveryLease, read_manifest_state
from worker.webhooks.webhook_rules import WebhookName

EXPIRED = "its grants had expired"

_LISTS = ("items", "uploads")  # what a webhook that would be too large does not have


class RenderedWebhook(NamedTuple):
    """A webhook to send: its id, the endpoint by today's config, and the body."""

    message_id: str
    endpoint: WebhookEndpoint
    body: bytes


class _CheckedDelivery(NamedTuple):
    """A delivery, with the tenant and the endpoint by today's config."""

    delivery: DeliveryLease
    tenant: Tenant
    endpoint: WebhookEndpoint

    def check_bucket(self, bucket: str) -> None:
        """Check that the tenant's policy lets requests for a bucket profile call the endpoint."""
        if self.endpoint.name not in allowed_callback_names(self.tenant, bucket):
            raise Malformed("the tenant's policy no longer allows this endpoint")


class _Content(NamedTuple):
    batch_id: str | None
    timestamp: datetime
    data: Mapping[str, Any]


def render(delivery: DeliveryLease, context: Context) -> RenderedWebhook:
    """Render a webhook. Raises Malformed if it must not be sent any more, and Transient."""
    owner, hook = delivery.endpoint
    tenant = context.config.current().tenant_by_id(owner)
    endpoint = None if tenant is None else tenant.endpoints.get(hook)
    if tenant is None or endpoint is None:
        raise Malformed("the endpoint is no longer configured")
    if not endpoint.wants(delivery.event):
        raise Malformed("the endpoint no longer receives webhooks of this type")
    render_content = _RENDERERS.get(delivery.event, _render_uploads)
    content = render_content(_CheckedDelivery(delivery, tenant, endpoint), context)
    body = _encode(delivery.event, content)
    if len(body) > MAX_WEBHOOK_BYTES:
        thin = {name: value for name, value in content.data.items() if name not in _LISTS}
        body = _encode(delivery.event, content._replace(data=thin | {"thin": True}))
    place = delivery.chunk_number, delivery.page, delivery.pages, delivery.group_id
    name = WebhookName(delivery.event, owner, content.batch_id, *place)
    return RenderedWebhook(name.webhook_id, endpoint, body)


def _encode(event: str, content: _Content) -> bytes:
    return to_json({"type": event, "timestamp": content.timestamp, "data": content.data})


def _chunk(delivery: DeliveryLease) -> tuple[int, int]:
    if delivery.batch_number is None or delivery.chunk_number is None:
        raise Malformed("the event names no chunk")
    return delivery.batch_number, delivery.chunk_number


def _render_outcome(checked: _CheckedDelivery, context: Context) -> _Content:
    delivery, endpoint = checked.delivery, checked.endpoint
    recorded = read_recorded(*_chunk(delivery), context)
    if recorded.refusal is None and recorded.validity.expires_at <= context.now():
        raise Malformed(EXPIRED)
    checked.check_bucket(recorded.terms.bucket)
    if endpoint.thin:
        decision = ChunkDecision(recorded.rows, [], recorded.validity, refusal=recorded.refusal)
    else:
        decision = reissue_chunk(recorded, context)
    data = _outcome_data(checked, recorded, decision)
    return _Content(recorded.batch_id, recorded.validity.issued_at, data)


def _outcome_data(
    checked: _CheckedDelivery, recorded: RecordedChunk, decision: ChunkDecision
) -> dict[str, Any]:
    page, pages = checked.delivery.page, checked.delivery.pages
    issued = 0 if decision.refusal else decision.issued
    header = DecidedGrants(
        tenant=checked.tenant.name,
        batch=recorded.batch_id,
        chunk=recorded.chunk_number,
        status="refused" if decision.refusal else "issued",
        refusal=decision.refusal,
        issued=issued,
        refused=len(decision.rows) - issued,
        page=page,
        pages=pages,
        thin=checked.endpoint.thin,
        expires_at=None if decision.refusal else decision.validity.expires_at,
    )
    data = header.model_dump(mode="json", exclude_none=True, exclude={"items", "quotas"})
    if not checked.endpoint.thin:
        count = len(decision.results)
        items = decision.results[(page - 1) * count // pages : page * count // pages]
        data["items"] = list(items)
    return data


def _render_completed(checked: _CheckedDelivery, context: Context) -> _Content:
    is_cancelled = exists().where(
        Cancellation.tenant == Batch.tenant, Cancellation.batch_id == Batch.batch_id
    )
    query = select(Batch, is_cancelled.label("is_cancelled"))
    with read_transaction(context.engine) as connection:
        is_named = Batch.batch_number == checked.delivery.batch_number
        batch = connection.execute(query.where(is_named)).one()
        counts = count_decided(connection, batch.batch_number)
        manifest = read_manifest_state(connection, batch.batch_number)
    checked.check_bucket(batch.bucket)
    data = CompletedBatch(
        tenant=checked.tenant.name,
        batch=batch.batch_id,
        kind=batch.kind,
        bucket=batch.bucket,
        total=batch.total,
        **counts._asdict(),
        undecided=batch.total - counts.issued - counts.refused,
        cancelled=batch.is_cancelled,
        requested_at=batch.decided_at,
        refusal=batch.refusal and Refusal.model_validate(batch.refusal),
        manifest=manifest,
    )
    content = data.model_dump(mode="json", exclude_none=True)
    return _Content(batch.batch_id, checked.delivery.created_at, content)


class UploadNews(NamedTuple):
    """The content of a delivery about uploads. bucket is the bucket profile."""

    batch_id: str
    bucket: str
    recorded_at: datetime
    uploads: Sequence[ReportedUpload]


def _render_uploads(checked: _CheckedDelivery, context: Context) -> _Content:
    """Render a webhook about uploads: the same at each attempt."""
    chunk = _chunk(checked.delivery)
    read = contributions("events").get(checked.delivery.event)
    if read is None:
        raise Malformed("no feature of this service reads what it reports")
    with autocommit_read(context.engine) as connection:
        news: UploadNews | None = resolve(read)(connection, checked.delivery, chunk)
    if news is None:
        raise Malformed("the rows that it reports are not there")
    checked.check_bucket(news.bucket)
    data = ReportedUploads(
        tenant=checked.tenant.name,
        batch=news.batch_id,
        chunk=chunk[1],
        uploads=list(news.uploads),
    )
    content = data.model_dump(mode="json", exclude_defaults=True)
    return _Content(news.batch_id, news.recorded_at, content)


def _render_stored(checked: _CheckedDelivery, _context: Context) -> _Content:
    return _Content(None, checked.delivery.created_at, checked.delivery.content)


_RENDERERS: Mapping[str, Callable[[_CheckedDelivery, Context], _Content]] = {
    "grants.decided": _render_outcome,
    "batch.completed": _render_completed,
    "quota.warning": _render_stored,
    "endpoint.disabled": _render_stored,
}
