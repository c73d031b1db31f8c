"""Inserts the deliveries and the manifest of a batch, in the transaction that decides it."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from math import ceil
from typing import Any, NamedTuple

from pydantic_core import to_json
from sqlalchemy import Connection, insert

from models import Manifest
from valetkey.wire.events import MAX_WEBHOOK_BYTES, WarnedQuota
from valetkey.wire.messages import AnyMessage, BundleMessage, ChunkMessage, ListenMessage
from worker.hooks import InsertedChunk, ReleasedRow
from worker.rules.admission import allowed_callback_names
from worker.rules.decisions import ChunkDecision, ChunkRequest
from worker.rules.quota_rules import (
    LIVE_WINDOWS,
    UsageByWindow,
    effective_quotas,
    quota_state,
    used_amount,
    window_start,
)
from worker.rules.tenant_config import Quota, Tenant, WebhookEndpoint
from worker.webhooks.batch_completion import release_completions
from worker.webhooks.outbox import (
    TenantEvent,
    delivery_values,
    insert_deliveries,
    insert_event,
    pending_values,
    read_manifest_state,
)

DELIVER_TASK = "valetkey.deliver"
MANIFESTS_TASK = "valetkey.manifests"

_INSERT_MANIFEST = insert(Manifest)

# A reissue may have longer URLs, as with a longer session token: a page has room for them.
_PAGE_BYTES = MAX_WEBHOOK_BYTES * 5 // 8
_CALLED = "called_endpoint"


class _CalledEndpoint(NamedTuple):
    """The endpoint of a chunk, and the number of webhooks with its outcome."""

    endpoint: WebhookEndpoint
    pages: int


def prepare_outcome(request: ChunkRequest, decision: ChunkDecision) -> dict[str, _CalledEndpoint]:
    """Find the endpoint that a chunk calls, and the number of webhooks with its outcome.

    Before the transaction, because it takes as long as encoding all results.
    """
    endpoint = called_endpoint(request.tenant, request.message)
    if endpoint is None:
        return {}
    pages = 0
    if endpoint.wants("grants.decided"):
        pages = 1 if endpoint.thin else ceil(len(to_json(decision.results)) / _PAGE_BYTES)
        pages = min(max(pages, 1), len(decision.rows))
    return {_CALLED: _CalledEndpoint(endpoint, pages)}


def insert_outcomes(connection: Connection, chunks: Sequence[InsertedChunk], now: datetime) -> None:
    """Insert the webhooks and manifests of chunks, and release what waits for the last of them."""
    rows: list[dict[str, Any]] = []
    unreported: list[int] = []
    for chunk in chunks:
        request = chunk.request
        if chunk.charged is not None:
            _insert_quota_warnings(connection, request, *chunk.charged, now)
        called = chunk.prepared.get(_CALLED)
        if called is not None:
            rows += _delivery_rows(chunk, called, now)
        # No delivery of an outcome will release the last one. The endpoint may be gone since.
        if request.message.callback is not None and not (called and called.pages):
            unreported.append(chunk.batch_number)
        is_opened = chunk.opens_batch and chunk.decision.refusal is None
        if is_opened and request.message.manifest is not None:
            connection.execute(_INSERT_MANIFEST, _manifest_row(chunk, now))
    if rows:
        insert_deliveries(connection, rows)
    release_completions(connection, unreported, now)


def _delivery_rows(
    chunk: InsertedChunk, called: _CalledEndpoint, now: datetime
) -> Iterator[dict[str, Any]]:
    """Yield the rows of the webhooks with a chunk's outcome, and of the last one of its batch.

    The last one waits until the batch is complete.
    """
    request, decision = chunk.request, chunk.decision
    (endpoint, pages), owner = called, (request.tenant.id, called.endpoint.name)
    row = delivery_values(*owner, "grants.decided", now)
    if decision.refusal is None:
        row["expires_at"] = decision.validity.expires_at
    else:
        pages = min(pages, 1)  # without results, one page has the refusal
    of_batch = {"batch_number": chunk.batch_number}
    of_chunk = {**of_batch, "chunk_number": request.message.chunk, "pages": pages}
    yield from (row | of_chunk | {"page": page} for page in range(1, pages + 1))
    if chunk.opens_batch and endpoint.wants("batch.completed"):
        last = delivery_values(*owner, "batch.completed", now)
        yield last | of_batch | {"state": "waiting"}


def _manifest_row(chunk: InsertedChunk, now: datetime) -> dict[str, Any]:
    return pending_values(now) | {
        "batch_number": chunk.batch_number,
        "tenant": chunk.request.tenant.id,
        "object_key": chunk.request.message.manifest,
        "issued": 0,
        "refused": 0,
    }


def complete_closed(
    connection: Connection, rows: Sequence[ReleasedRow], now: datetime
) -> set[tuple[int, int]]:
    """Release the last webhooks of batches that receive no further chunks."""
    closed = (row.batch_number for row in rows if row.chunk_number is None)
    release_completions(connection, closed, now)
    return set()


def _insert_quota_warnings(
    connection: Connection,
    request: ChunkRequest,
    before: UsageByWindow,
    after: UsageByWindow,
    now: datetime,
) -> None:
    """Insert `quota.warning` for quotas that a request brought to warn_at, once in each window.

    The window live, which has no end, counts as a day.
    """
    tenant = request.tenant
    for quota in newly_warned(tenant, before, after, now):
        start = window_start("day" if quota.window in LIVE_WINDOWS else quota.window, now)
        group_id = f"{quota.metric}-{quota.window}-{int(start.timestamp())}"
        state = quota_state(quota, after, now)
        content = WarnedQuota(tenant=tenant.name, quota=state, batch=request.message.batch)
        insert_event(connection, tenant, TenantEvent("quota.warning", group_id, content), now)


def describe_manifest(connection: Connection, batch_number: int) -> dict[str, Any]:
    """Return the state of a batch's manifest, None if it has none."""
    return {"manifest": read_manifest_state(connection, batch_number)}


def trigger_deliveries(message: AnyMessage, tenant: Tenant, trigger: Callable[[str], None]) -> None:
    """Trigger the jobs that a message has given something to do; in vain is cheap."""
    match message:
        case BundleMessage(messages=bundled):
            if any(isinstance(raw, dict) and raw.get("callback") for raw in bundled):
                trigger(DELIVER_TASK)
        case ListenMessage():
            trigger(DELIVER_TASK)
        case ChunkMessage(ask="grants"):
            if called_endpoint(tenant, message) is not None:
                trigger(DELIVER_TASK)
            # If others are decided after the last chunk, the next sweep finds the manifest.
            is_last = message.first_item + len(message.items) == message.total
            if is_last and message.manifest is not None:
                trigger(MANIFESTS_TASK)


def called_endpoint(tenant: Tenant, message: ChunkMessage) -> WebhookEndpoint | None:
    """Return the endpoint that a message names, if there is one, and it is allowed."""
    name = message.callback or ""
    is_allowed = name in allowed_callback_names(tenant, message.grant.bucket)
    return tenant.endpoints[name] if is_allowed else None


def newly_warned(
    tenant: Tenant, before: UsageByWindow, after: UsageByWindow, now: datetime
) -> Iterator[Quota]:
    """Yield the quotas whose usage has reached warn_at."""
    for quota in effective_quotas(tenant, now):
        used = (used_amount(usage, quota.metric, quota.window) for usage in (before, after))
        if quota.warn_at is not None and next(used) < quota.warn_at <= next(used):
            yield quota
