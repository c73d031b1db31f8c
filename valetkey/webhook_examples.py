"""An example of each webhook, for tests of receivers: `webhooks.sign` makes its headers."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from valetkey.arguments import Moment, checked
from valetkey.wire.events import (
    EVENT_TYPES,
    AnyEvent,
    BatchCompleted,
    CompletedBatch,
    DecidedGrants,
    DisabledEndpoint,
    EndpointDisabled,
    EndpointTest,
    EventType,
    GrantsDecided,
    QuotaWarning,
    ReportedUpload,
    ReportedUploads,
    TestedEndpoint,
    UploadMismatched,
    UploadStored,
    UploadUnused,
    WarnedQuota,
)
from valetkey.wire.grant_ids import grant_id
from valetkey.wire.refusals import Code, QuotaState, Refusal
from valetkey.wire.replies import Grant

_BATCH = "0199a000-0000-7000-8000-000000000000"
_ENDPOINT = "example"


@checked
def example_body(
    event_type: EventType, tenant: str = "acme", *, now: Moment | None = None
) -> bytes:
    """Return the body of an example of a webhook. Its links, batch and endpoint do not exist."""
    if event_type not in EVENT_TYPES:
        raise ValueError(f"event_type must be one of {', '.join(EVENT_TYPES)}")
    event = _examples(tenant, now or datetime.now(UTC))[event_type]
    return event.model_dump_json(exclude_none=True).encode()


def _examples(tenant: str, now: datetime) -> Mapping[EventType, AnyEvent]:
    expires_at = now + timedelta(minutes=15)
    photo, unused, other = (
        ReportedUpload(id=grant_id(_BATCH, item), item=item, key=f"{tenant}/{name}")
        for item, name in enumerate(("photo.jpg", "unused.jpg", "other.jpg"))
    )
    found = {"size": 48_211, "etag": '"9a0364b9e99bb480dd25e1f0284c8555"', "stored_at": now}
    events: tuple[AnyEvent, ...] = (
        GrantsDecided(timestamp=now, data=_decided_grants(tenant, expires_at)),
        BatchCompleted(timestamp=now, data=_completed_batch(tenant, now)),
        UploadStored(timestamp=now, data=_uploads(tenant, photo.model_copy(update=found))),
        UploadUnused(timestamp=now, data=_uploads(tenant, unused)),
        UploadMismatched(
            timestamp=now,
            data=_uploads(tenant, other.model_copy(update=found | {"problem": "max_size"})),
        ),
        QuotaWarning(timestamp=now, data=_warned_quota(tenant, expires_at)),
        EndpointDisabled(
            timestamp=now,
            data=DisabledEndpoint(
                tenant=tenant, endpoint=_ENDPOINT, reason="gone", problem="it responded with 410"
            ),
        ),
        EndpointTest(timestamp=now, data=TestedEndpoint(tenant=tenant, endpoint=_ENDPOINT)),
    )
    return {event.type: event for event in events}


def _decided_grants(tenant: str, expires_at: datetime) -> DecidedGrants:
    key = f"{tenant}/report.pdf"
    url = f"https://storage.example.com/{key}?X-Amz-Signature=example"
    grant = Grant(
        id=grant_id(_BATCH, 0), key=key, method="GET", url=url, expires_at=expires_at,
        limited_by="request",
    )  # fmt: skip
    refusal = Refusal(
        code=Code.KEY_OUTSIDE_PREFIX, field="items[1].key", key="other/report.pdf",
        message="the key is outside of the tenant's prefixes",
    )  # fmt: skip
    return DecidedGrants(
        tenant=tenant, batch=_BATCH, chunk=0, status="issued", items=[grant, refusal], issued=1,
        refused=1, expires_at=expires_at,
    )  # fmt: skip


def _completed_batch(tenant: str, now: datetime) -> CompletedBatch:
    return CompletedBatch(
        tenant=tenant, batch=_BATCH, kind="download", bucket="demo", total=2, chunks=1, issued=1,
        refused=1, requested_at=now,
    )  # fmt: skip


def _uploads(tenant: str, *uploads: ReportedUpload) -> ReportedUploads:
    return ReportedUploads(tenant=tenant, batch=_BATCH, chunk=0, uploads=list(uploads))


def _warned_quota(tenant: str, resets_at: datetime) -> WarnedQuota:
    quota = QuotaState(
        metric="grants", window="day", limit=1_000, used=800, warn_at=800, resets_at=resets_at
    )
    return WarnedQuota(tenant=tenant, quota=quota, batch=_BATCH)
