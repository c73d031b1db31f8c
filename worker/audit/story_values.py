"""The story of a batch or grant as values, without links, signatures or tokens."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, TypedDict, final
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from valetkey.wire.grant_ids import grant_id
from valetkey.wire.messages import Item
from valetkey.wire.terms import AnyTerms
from worker.audit.grant_story import ChunkStory, Story, UseStory
from worker.core.grant_kinds import issued_cost, reserved_cost
from worker.core.quota_rules import NO_COST, WINDOWS, Cost, window_start
from worker.core.revocation_targets import RecordedRevocation
from worker.uses.use_rules import grant_state


class ItemCounts(TypedDict):
    """The numbers of a batch's items and chunks. awaited are those that have not arrived yet."""

    total: int
    issued: int
    refused: int
    awaited: int
    chunks: int
    first_at: datetime | None
    last_at: datetime | None


class CancellationStory(TypedDict):
    """A cancellation: by whom, and why."""

    at: datetime
    requested_by: str
    signed_by: str | None
    reason: str | None


class RevocationStory(TypedDict):
    """A revocation: by whom, and why. target is the option of `revoke`, and value its value."""

    at: datetime
    revoked_by: str
    reason: str | None
    target: str
    value: str


class ManifestStory(TypedDict):
    """The file of a batch's results."""

    object_key: str
    state: str
    attempts: int
    issued: int
    refused: int
    bytes: int | None
    problem: str | None
    created_at: datetime
    finished_at: datetime | None


class DeliveryStory(TypedDict):
    """A webhook of a chunk. status is that of the last HTTP response.

    event is None for the outcome, else the type of a webhook about uploads.
    """

    chunk_number: int
    endpoint: str
    state: str
    attempts: int
    status: int | None
    problem: str | None
    created_at: datetime
    finished_at: datetime | None
    next_attempt_at: datetime | None
    event: str | None


class ReissueStory(TypedDict):
    """A later signing of a grant. The access key is shortened."""

    at: datetime
    access_key: str | None


class UploadStory(TypedDict):
    """The multipart upload of a grant."""

    size: int
    part_size: int
    state: str
    expires_at: datetime


class QuotaStory(TypedDict, total=False):
    """The amounts that were charged by metric, and the beginnings of the windows.

    A grant has counts_as_live. A batch has the number of items that are still reserved.
    """

    charged: Mapping[str, int]
    windows: Mapping[str, datetime]
    counts_as_live: bool
    awaited_items: int


class UseValues(TypedDict):
    """The state of a grant, and the newest of number_of_uses uses. Refused items have no state."""

    state: str | None
    uses: list[dict[str, Any]]
    number_of_uses: int
    settlement: dict[str, Any] | None


class RequestStory(TypedDict):
    """The part that the stories of a batch and of a grant have in common.

    real_bucket is the bucket behind the profile when the batch was decided. quota is None if
    nothing was charged, or if a later release wrote terms that this one does not know.
    """

    tenant: str
    batch: str
    requested_by: str
    reason: str | None
    recipient: str | None
    reissue_of: str | None
    kind: str
    bucket: str
    real_bucket: str | None
    terms: Mapping[str, Any]
    callback: str | None
    notify: list[str] | None
    decided_at: datetime
    refusal: Mapping[str, Any] | None
    items: ItemCounts
    cancellation: CancellationStory | None
    revocations: list[RevocationStory]
    manifest: ManifestStory | None
    deliveries: list[DeliveryStory]
    quota: QuotaStory | None


@final
class BatchStory(RequestStory):
    """Everything that is known about a batch. states counts its grants by state."""

    grant: None
    states: Mapping[str, int]


@final
class GrantStory(RequestStory, UseValues):
    """Everything that is known about one item of a batch, granted or refused.

    decision is `issued` or the code of the refusal. detail has the fields of this item alone. The
    access key is shortened. leaf_number is the position of its chunk in the tenant's tree.
    """

    grant: str
    key: str
    detail: Mapping[str, Any] | None
    decision: str
    signed_by: str | None
    chunk: int
    expires_at: datetime | None
    expires_in: int | None
    limited_by: str | None
    is_alive: bool
    access_key: str | None
    reissues: list[ReissueStory]
    upload: UploadStory | None
    leaf_number: int | None


def use_values(story: UseStory, now: datetime) -> UseValues:
    """Return the state, the uses and the settlement as JSON values, with times as datetimes."""
    settlement = story.settlement
    return {
        "state": None if story.facts is None else grant_state(story.facts, now),
        "uses": [dict(row._mapping) for row in story.uses],  # noqa: SLF001 - public API
        "number_of_uses": story.number,
        "settlement": None if settlement is None else dict(settlement._mapping),  # noqa: SLF001
    }


_SHOWN = 4  # characters at each end of an access key id
_TERMS: TypeAdapter[AnyTerms] = TypeAdapter(AnyTerms)


def story_values(story: Story, now: datetime) -> GrantStory | BatchStory:
    """Return the story of a grant, or of its batch if there is none."""
    if story.grant is None:
        return {"grant": None, **_request_story(story), "states": dict(story.states)}
    return _grant_story(story, story.grant, now)


def _request_story(story: Story) -> RequestStory:
    batch = story.batch
    return {
        "tenant": batch.tenant,
        "batch": batch.batch_id,
        "requested_by": batch.requested_by,
        "reason": batch.reason,
        "recipient": batch.recipient,
        "reissue_of": batch.reissue_of,
        "kind": batch.kind,
        "bucket": batch.bucket,
        "real_bucket": story.bucket_then,
        "terms": _terms(batch.terms),
        "callback": batch.callback,
        "notify": batch.notify,
        "decided_at": batch.decided_at,
        "refusal": batch.refusal,
        "items": _item_counts(story),
        "cancellation": _cancellation(story),
        "revocations": [_revocation(each) for each in story.revocations],
        "manifest": _manifest(story),
        "deliveries": [_delivery(row) for row in story.deliveries],
        "quota": _batch_quota(story) if story.grant is None else None,
    }


def shorten_access_key(access_key: str | None) -> str | None:
    """Return enough of an access key's id to tell keys apart."""
    if access_key is None or len(access_key) <= 2 * _SHOWN:
        return access_key
    return f"{access_key[:_SHOWN]}…{access_key[-_SHOWN:]}"


def _item_counts(story: Story) -> ItemCounts:
    counts = story.counts
    return {
        "total": story.batch.total,
        "issued": int(counts.issued),
        "refused": int(counts.refused),
        "awaited": story.remaining,
        "chunks": counts.chunks,
        "first_at": counts.first,
        "last_at": counts.last,
    }


def _grant_story(story: Story, grant: ChunkStory, now: datetime) -> GrantStory:
    batch, chunk, item = story.batch, grant.chunk, grant.item
    is_issued = item.code is None
    expires_at = chunk.issued_at + timedelta(seconds=chunk.expires_in) if is_issued else None
    refusal = item.detail if not is_issued else None
    return {
        **_request_story(story),
        "grant": grant_id(batch.batch_id, item.item_number),
        "key": item.object_key,
        "detail": item.detail if is_issued else None,
        "decision": item.code or "issued",
        "refusal": None if is_issued else batch.refusal or chunk.refusal or refusal,
        "decided_at": chunk.issued_at,
        "signed_by": chunk.signing_key,
        "chunk": chunk.chunk_number,
        "expires_at": expires_at,
        "expires_in": chunk.expires_in if is_issued else None,
        "limited_by": chunk.limited_by if is_issued else None,
        "is_alive": expires_at is not None and now < expires_at,
        "access_key": shorten_access_key(chunk.access_key) if is_issued else None,
        "reissues": [
            {"at": row.reissued_at, "access_key": shorten_access_key(row.access_key)}
            for row in grant.reissues
        ],
        "upload": _upload(grant.upload),
        "quota": _grant_quota(story, grant),
        "leaf_number": grant.leaf_number,
        **use_values(grant.uses, now),
    }


def _terms(terms: Mapping[str, Any]) -> dict[str, Any]:
    """Return the terms; of URLs only the page, because a query may contain a secret."""
    left_out = {"kind", "bucket"}
    return {name: _without_query(value) for name, value in terms.items() if name not in left_out}


def _without_query(value: Any) -> Any:
    if isinstance(value, str) and "://" in value:
        url = urlsplit(value)
        return f"{url.scheme}://{url.hostname or ''}{url.path}"
    return value


def _cancellation(story: Story) -> CancellationStory | None:
    row = story.cancellation
    if row is None:
        return None
    return {
        "at": row.cancelled_at,
        "requested_by": row.requested_by,
        "signed_by": row.signing_key,
        "reason": row.reason,
    }


def _revocation(revocation: RecordedRevocation) -> RevocationStory:
    return {
        "at": revocation.revoked_at,
        "revoked_by": revocation.revoked_by,
        "reason": revocation.reason,
        "target": revocation.target.kind,
        "value": revocation.target.value,
    }


def _manifest(story: Story) -> ManifestStory | None:
    row = story.manifest
    if row is None:
        return None
    return {
        "object_key": row.object_key,
        "state": row.state,
        "attempts": row.attempts,
        "issued": row.issued,
        "refused": row.refused,
        "bytes": row.bytes,
        "problem": row.problem,
        "created_at": row.created_at,
        "finished_at": row.finished_at,
    }


def _delivery(row: Any) -> DeliveryStory:
    return {
        "chunk_number": row.chunk_number,
        "endpoint": row.endpoint,
        "state": row.state,
        "attempts": row.attempts,
        "status": row.status,
        "problem": row.problem,
        "created_at": row.created_at,
        "finished_at": row.finished_at,
        "next_attempt_at": row.next_attempt_at,
        "event": row.event,
    }


def _upload(row: Any) -> UploadStory | None:
    if row is None:
        return None
    return {
        "size": row.size,
        "part_size": row.part_size,
        "state": row.state,
        "expires_at": row.expires_at,
    }


def _grant_quota(story: Story, grant: ChunkStory) -> QuotaStory | None:
    """Return what an issued grant was charged, and in which windows; None if nothing was."""
    terms = _parse_terms(story)
    if grant.item.code is not None or terms is None:
        return None
    detail = grant.item.detail or {}
    # A later release may have written fields that this one does not know.
    known = {name: value for name, value in detail.items() if name in Item.model_fields}
    try:
        item = Item.model_validate({"key": grant.item.object_key, **known})
    except ValidationError:
        return None
    charge = _charge(story, issued_cost(terms, [item]))
    if charge is not None:
        charge["counts_as_live"] = grant.is_reserved
    return charge


def _batch_quota(story: Story) -> QuotaStory | None:
    """Return what was reserved for all items of a batch when it began; None if it was refused."""
    terms = _parse_terms(story)
    if story.batch.refusal is not None or terms is None:
        return None
    charge = _charge(story, reserved_cost(terms, story.batch.total))
    if charge is not None:
        charge["awaited_items"] = story.remaining
    return charge


def _parse_terms(story: Story) -> AnyTerms | None:
    try:
        return _TERMS.validate_python(story.batch.terms)
    except ValidationError:  # those of a later release, or of a test
        return None


def _charge(story: Story, cost: Cost) -> QuotaStory | None:
    if cost == NO_COST:
        return None
    began_at = story.batch.decided_at
    starts: dict[str, datetime] = {
        window: window_start(window, began_at) for window in WINDOWS if window != "live"
    }
    amounts = {metric: amount for metric, amount in cost._asdict().items() if amount}
    return {"charged": amounts, "windows": starts}
