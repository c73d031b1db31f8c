"""Finds the grant or batch that an id names, and reads all that the database has about it.

The stories that it returns have no links, signatures or tokens.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypedDict, cast, final
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import ColumnElement, Connection, Row, Select, and_, func, select

from models import (
    Batch,
    Bucket,
    Cancellation,
    Chunk,
    ConfigChange,
    Delivery,
    Grant,
    Leaf,
    Manifest,
    MultipartUpload,
    Reissue,
    Reservation,
    Settlement,
    Use,
)
from valetkey.wire.grant_ids import grant_id
from valetkey.wire.messages import Item
from valetkey.wire.terms import AnyTerms
from worker.audit.grant_filters import ISSUED, GrantFilter
from worker.audit.item_counts import CountOptions, count_items
from worker.audit.link_lookup import find_batches
from worker.audit.text_conditions import batch_text, item_text, shown_text
from worker.core.annotations import ANNOTATION_FIELDS, TextValues
from worker.core.grant_kinds import issued_cost, reserved_cost
from worker.core.issued_grants import GrantName
from worker.core.quota_rules import NO_COST, WINDOWS, Cost, window_start
from worker.core.revocation_targets import RecordedRevocation, RevokedItem
from worker.ledger.merkle import CHUNK_KINDS
from worker.ledger.reservations import REMAINING
from worker.ledger.tenant_history import find_tenant_ids, pruned_item_month
from worker.revoke.revocation_rows import (
    read_batch_revocations,
    read_item_revocations,
    read_storage,
)
from worker.uses.state_facts import read_state_facts
from worker.uses.use_rules import grant_state

MAX_USES = 100
"""A link may be opened a million times: only so many uses are read, the newest ones."""

_Row = Row[*tuple[Any, ...]]
_Conditions = tuple[ColumnElement[bool], ...]
_LEFT_OUT = {"tenant", "batch_number", "item_number", "fingerprint", "group_id"}  # of uses
_SHOWN = 4  # characters at each end of an access key id
_TERMS: TypeAdapter[AnyTerms] = TypeAdapter(AnyTerms)
_BATCH_TEXTS = {"requested_by", *ANNOTATION_FIELDS}
_BATCH_COLUMNS = (
    *(column for column in Batch.__table__.columns if column.name not in _BATCH_TEXTS),
    shown_text(Batch, "requested_by"),
)


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


class RequestStory(TextValues):
    """The part that the stories of a batch and of a grant have in common.

    real_bucket is the bucket behind the profile when the batch was decided. quota is None if
    nothing was charged, or if a later release wrote terms that this one does not know.
    """

    tenant: str
    batch: str
    requested_by: str
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


def _read_batch_story(connection: Connection, batch: _Row, now: datetime) -> BatchStory:
    storage = read_storage(connection, batch.bucket)
    item = RevokedItem(batch.batch_id, 0, batch.bucket, storage, "")
    revocations = read_batch_revocations(
        connection, batch.tenant, batch.batch_number, item, batch.decided_at
    )
    request = _read_request(connection, batch, revocations)
    of_batch = GrantFilter(
        tenant=batch.tenant, batch_id=batch.batch_id, decisions=(ISSUED,), states_at=now
    )
    counts = count_items(connection, of_batch, CountOptions(("state",)))
    return {
        "grant": None,
        **request,
        "quota": _batch_quota(batch, request["items"]["awaited"]),
        "states": {str(count.group[0]): count.issued for count in counts},
    }


def _read_grant_story(connection: Connection, batch: _Row, item: _Row, now: datetime) -> GrantStory:
    number = item.item_number // batch.chunk_size
    chunk = connection.execute(select(Chunk).where(*_is_chunk(Chunk, batch, number))).one()
    storage = read_storage(connection, batch.bucket)
    revoked = RevokedItem(batch.batch_id, item.item_number, batch.bucket, storage, item.object_key)
    revocations = read_item_revocations(connection, batch.tenant, revoked, chunk.issued_at)
    is_issued = item.code is None
    expires_at = chunk.issued_at + timedelta(seconds=chunk.expires_in) if is_issued else None
    refusal = None if is_issued else batch.refusal or chunk.refusal or item.detail
    return {
        **_read_request(connection, batch, revocations, number),
        "grant": grant_id(batch.batch_id, item.item_number),
        "key": item.object_key,
        "detail": item.detail if is_issued else None,
        "decision": item.code or ISSUED,
        "refusal": refusal,
        "decided_at": chunk.issued_at,
        "signed_by": chunk.signing_key,
        "chunk": number,
        "expires_at": expires_at,
        "expires_in": chunk.expires_in if is_issued else None,
        "limited_by": chunk.limited_by if is_issued else None,
        "is_alive": expires_at is not None and now < expires_at,
        "access_key": _shorten_access_key(chunk.access_key) if is_issued else None,
        "reissues": _read_reissues(connection, batch, number),
        "upload": _read_values(
            connection,
            _select(MultipartUpload, UploadStory).where(
                *_is_item(MultipartUpload, batch, item.item_number)
            ),
        ),
        "quota": _read_grant_quota(connection, batch, item, number),
        "leaf_number": connection.scalar(
            select(Leaf.leaf_number).where(
                *_is_chunk(Leaf, batch, number), Leaf.kind.in_(CHUNK_KINDS)
            )
        ),
        **_read_uses(connection, batch, item.item_number, number, now),
    }


def _read_request(
    connection: Connection,
    batch: _Row,
    revocations: Sequence[RecordedRevocation],
    chunk_number: int | None = None,
) -> RequestStory:
    """Read the common part of a story. With chunk_number, deliveries are those of the chunk."""
    return {
        "tenant": batch.tenant,
        "batch": batch.batch_id,
        "requested_by": batch.requested_by,
        **_texts(batch),
        "reissue_of": batch.reissue_of,
        "kind": batch.kind,
        "bucket": batch.bucket,
        "real_bucket": _bucket_then(connection, batch.bucket, batch.decided_at),
        "terms": _terms(batch.terms),
        "callback": batch.callback,
        "notify": batch.notify,
        "decided_at": batch.decided_at,
        "refusal": batch.refusal,
        "items": _count_items(connection, batch),
        "cancellation": _read_values(
            connection,
            select(
                *(Cancellation.cancelled_at.label("at"), shown_text(Cancellation, "requested_by")),
                *(Cancellation.signing_key.label("signed_by"), shown_text(Cancellation, "reason")),
            ).where(Cancellation.tenant == batch.tenant, Cancellation.batch_id == batch.batch_id),
        ),
        "revocations": [_revocation(each) for each in revocations],
        "manifest": _read_values(
            connection,
            _select(Manifest, ManifestStory).where(Manifest.batch_number == batch.batch_number),
        ),
        "deliveries": _read_deliveries(connection, batch, chunk_number),
        "quota": None,
    }


def _texts(batch: _Row) -> TextValues:
    return cast("TextValues", {name: getattr(batch, name) for name in ANNOTATION_FIELDS})


def _read_rows(connection: Connection, query: Select[*tuple[Any, ...]]) -> list[Any]:
    """Read rows as dicts."""
    return [dict(row) for row in connection.execute(query).mappings()]


def _read_values(connection: Connection, query: Select[*tuple[Any, ...]]) -> Any:
    """Read one row as a dict, None if there is none."""
    return next(iter(_read_rows(connection, query)), None)


def _select(table: Any, story: type) -> Select[*tuple[Any, ...]]:
    """Return a SELECT of those columns of a table that a story has."""
    return select(*(getattr(table, name) for name in story.__annotations__))


def _is_chunk(table: Any, batch: _Row, chunk_number: int) -> _Conditions:
    return table.batch_number == batch.batch_number, table.chunk_number == chunk_number


def _is_item(table: Any, batch: _Row, item_number: int) -> _Conditions:
    return table.batch_number == batch.batch_number, table.item_number == item_number


def _count_items(connection: Connection, batch: _Row) -> ItemCounts:
    counts = connection.execute(
        select(
            func.count().label("chunks"),
            func.coalesce(func.sum(Chunk.issued), 0).label("issued"),
            func.coalesce(func.sum(Chunk.refused), 0).label("refused"),
            func.min(Chunk.issued_at).label("first"),
            func.max(Chunk.issued_at).label("last"),
        ).where(Chunk.batch_number == batch.batch_number)
    ).one()
    awaited = select(Reservation.items).where(*_is_chunk(Reservation, batch, REMAINING))
    return {
        "total": batch.total,
        "issued": int(counts.issued),
        "refused": int(counts.refused),
        "awaited": connection.scalar(awaited) or 0,
        "chunks": counts.chunks,
        "first_at": counts.first,
        "last_at": counts.last,
    }


def _bucket_then(connection: Connection, profile: str, moment: datetime) -> str | None:
    """Return the real bucket of a profile at a moment: before its first change after that."""
    change = connection.execute(
        select(ConfigChange.before)
        .where(ConfigChange.path == f"buckets.{profile}.bucket")
        .where(ConfigChange.changed_at > moment)
        .order_by(ConfigChange.change_number)
        .limit(1)
    ).first()
    if change is not None:
        return None if change.before is None else str(change.before)
    return connection.scalar(select(Bucket.bucket).where(Bucket.name == profile))


def _terms(terms: Mapping[str, Any]) -> dict[str, Any]:
    """Return the terms; of URLs only the page, because a query may contain a secret."""
    left_out = {"kind", "bucket"}
    return {name: _without_query(value) for name, value in terms.items() if name not in left_out}


def _without_query(value: Any) -> Any:
    if isinstance(value, str) and "://" in value:
        url = urlsplit(value)
        return f"{url.scheme}://{url.hostname or ''}{url.path}"
    return value


def _revocation(revocation: RecordedRevocation) -> RevocationStory:
    return {
        "at": revocation.revoked_at,
        "revoked_by": revocation.revoked_by,
        "reason": revocation.reason,
        "target": revocation.target.kind,
        "value": revocation.target.value,
    }


def _read_deliveries(
    connection: Connection, batch: _Row, chunk_number: int | None
) -> list[DeliveryStory]:
    query = _select(Delivery, DeliveryStory).where(Delivery.batch_number == batch.batch_number)
    if chunk_number is not None:
        query = query.where(Delivery.chunk_number == chunk_number)
    return _read_rows(connection, query.order_by(Delivery.delivery_number))


def _shorten_access_key(access_key: str | None) -> str | None:
    """Return enough of an access key's id to tell keys apart."""
    if access_key is None or len(access_key) <= 2 * _SHOWN:
        return access_key
    return f"{access_key[:_SHOWN]}…{access_key[-_SHOWN:]}"


def _read_reissues(connection: Connection, batch: _Row, chunk_number: int) -> list[ReissueStory]:
    query = select(Reissue.reissued_at, Reissue.access_key).order_by(Reissue.reissued_at)
    rows = connection.execute(query.where(*_is_chunk(Reissue, batch, chunk_number)))
    return [{"at": at, "access_key": _shorten_access_key(key)} for at, key in rows]


def _read_uses(
    connection: Connection, batch: _Row, item_number: int, chunk_number: int, now: datetime
) -> UseValues:
    """Read the state, the newest uses and the settlement of a grant."""
    facts = read_state_facts(connection, batch.batch_number, [item_number]).get(item_number)
    is_of_grant = _is_item(Use, batch, item_number)
    columns = [column for column in Use.__table__.columns if column.name not in _LEFT_OUT]
    newest = select(*columns).where(*is_of_grant)
    newest = newest.order_by(Use.occurred_at.desc(), Use.fingerprint.desc()).limit(MAX_USES)
    settlement = select(
        *(Settlement.unused, Settlement.used_bytes, Settlement.returned_bytes),
        Settlement.settled_at,
    ).where(*_is_chunk(Settlement, batch, chunk_number))
    return {
        "state": None if facts is None else grant_state(facts, now),
        "uses": _read_rows(connection, newest)[::-1],
        "number_of_uses": connection.scalar(select(func.count()).where(*is_of_grant)) or 0,
        "settlement": _read_values(connection, settlement),
    }


def _read_grant_quota(
    connection: Connection, batch: _Row, grant: _Row, chunk_number: int
) -> QuotaStory | None:
    """Return what an issued grant was charged, and in which windows; None if nothing was."""
    terms = _parse_terms(batch)
    if grant.code is not None or terms is None:
        return None
    # A later release may have written fields that this one does not know.
    known = {k: value for k, value in (grant.detail or {}).items() if k in Item.model_fields}
    try:
        item = Item.model_validate({"key": grant.object_key, **known})
    except ValidationError:
        return None
    charge = _charge(batch, issued_cost(terms, [item]))
    if charge is not None:
        is_reserved = _is_chunk(Reservation, batch, chunk_number)
        number = connection.scalar(select(func.count()).where(*is_reserved))
        charge["counts_as_live"] = bool(number)
    return charge


def _batch_quota(batch: _Row, awaited: int) -> QuotaStory | None:
    """Return what was reserved for all items of a batch when it began; None if it was refused."""
    terms = _parse_terms(batch)
    if batch.refusal is not None or terms is None:
        return None
    charge = _charge(batch, reserved_cost(terms, batch.total))
    if charge is not None:
        charge["awaited_items"] = awaited
    return charge


def _parse_terms(batch: _Row) -> AnyTerms | None:
    try:
        return _TERMS.validate_python(batch.terms)
    except ValidationError:  # those of a later release, or of a test
        return None


def _charge(batch: _Row, cost: Cost) -> QuotaStory | None:
    if cost == NO_COST:
        return None
    starts: dict[str, datetime] = {
        window: window_start(window, batch.decided_at) for window in WINDOWS if window != "live"
    }
    amounts = {metric: amount for metric, amount in cost._asdict().items() if amount}
    return {"charged": amounts, "windows": starts}


class UnknownGrant(LookupError):
    """The audit log has no such grant or batch, or several tenants have a batch with this id."""


def find_story(connection: Connection, grant: str, now: datetime) -> GrantStory | BatchStory:
    """Read the story of a grant, [TENANT/]BATCH.NUMBER, or a batch. Raises UnknownGrant.

    now decides which grants are open.
    """
    tenant, batch_id, item_number = _parse_id(grant)
    batches = find_batches(connection, batch_id)
    if not batches:
        raise UnknownGrant(
            "the audit log has no batch with this id: find a grant with `audit list --key KEY` or"
            " `audit list --requester NAME --since 1d`"
        )
    ids = None if tenant is None else find_tenant_ids(connection, tenant)
    selected = [(id_, number) for id_, number in batches if ids is None or id_ in ids]
    suffix = "" if item_number is None else f".{item_number}"
    names = [f"{id_}/{batch_id}{suffix}" for id_, _ in selected or batches]
    if not selected:
        raise UnknownGrant(
            f"{tenant} has no batch with this id: did you mean {' or '.join(names)}?"
        )
    if len(selected) > 1:
        raise UnknownGrant(f"several tenants have a batch with this id: {' or '.join(names)}?")
    batch_number = selected[0][1]
    of_batch = select(*_BATCH_COLUMNS).where(Batch.batch_number == batch_number)
    if item_number is None:
        batch = connection.execute(of_batch.add_columns(*map(batch_text, ANNOTATION_FIELDS))).one()
        return _read_batch_story(connection, batch, now)
    is_item = Grant.batch_number == batch_number, Grant.item_number == item_number
    item = connection.execute(select(Grant).where(*is_item)).first()
    if item is None:
        raise _undecided(connection, names[0], batch_number, item_number)
    texts = map(item_text, ANNOTATION_FIELDS)
    batch = connection.execute(of_batch.add_columns(*texts).join(Grant, and_(*is_item))).one()
    return _read_grant_story(connection, batch, item, now)


def _parse_id(text: str) -> tuple[str | None, str, int | None]:
    tenant, _, id_ = text.strip().rpartition("/")
    if "." not in id_:
        return tenant or None, id_.lower(), None
    try:
        name = GrantName.parse(text)
    except ValueError as error:
        raise UnknownGrant(f"{error}, a batch's id has no number") from None
    return name.tenant, name.batch_id, name.item_number


def _undecided(
    connection: Connection, name: str, batch_number: int, item_number: int
) -> UnknownGrant:
    rest = f"`audit show {name.rpartition('.')[0]}` shows"
    month = pruned_item_month(connection, batch_number, item_number)
    if month is not None:
        return UnknownGrant(
            f"item {item_number} of this batch was removed by `audit prune --before {month}`:"
            f" {rest} what is kept"
        )
    return UnknownGrant(
        f"item {item_number} of this batch was not decided: {rest} how many items there are"
    )
