"""Finds the grant or batch that an id names, and reads all that the database has about it.

The stories that it returns have no links, signatures or tokens.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import ColumnElement, Connection, Row, Select, func, select

from models import (
    Batch,
    Bucket,
    Cancellation,
    Chunk,
    ConfigChange,
    Grant,
    Leaf,
    MultipartUpload,
    Reissue,
    Reservation,
)
from valetkey.wire.grant_ids import grant_id
from valetkey.wire.messages import Item
from valetkey.wire.terms import AnyTerms
from worker.audit.audit_rows import find_batches
from worker.audit.grant_filters import ISSUED, GrantFilter
from worker.audit.grant_rows import BATCH_COLUMNS, GRANTS
from worker.audit.grant_states import grant_state
from worker.audit.item_counts import CountOptions, count_items
from worker.audit.pruned_months import pruned_item_month
from worker.audit.state_facts import read_state_facts
from worker.audit.text_conditions import batch_text, shown_text
from worker.features import load_each
from worker.ledger.merkle import CHUNK_KINDS
from worker.ledger.reservations import REMAINING
from worker.rules.annotations import ANNOTATION_FIELDS
from worker.rules.grant_kinds import issued_cost, reserved_cost
from worker.rules.issued_grants import issued_kind
from worker.rules.quota_rules import NO_COST, WINDOWS, Cost, window_start
from worker.shared.grant_items import StorySubject
from worker.shared.grant_names import GrantName
from worker.shared.tenant_history import find_tenant_ids

Story = dict[str, Any]
"""Everything that is known about a batch, or about one item of it, granted or refused.

grant is None for a batch, whose states count its grants by state. The decision on an item is
`issued` or the code of the refusal, detail has the fields of this item alone, and leaf_number is
the position of its chunk in the tenant's tree. real_bucket is the bucket behind the profile when
the batch was decided. quota is None if nothing was charged, or if a later release wrote terms that
this one does not know. Access keys are shortened.
"""

_Row = Row[*tuple[Any, ...]]
_Query = Select[*tuple[Any, ...]]
_Conditions = tuple[ColumnElement[bool], ...]
_SHOWN = 4  # characters at each end of an access key id
_TERMS: TypeAdapter[AnyTerms] = TypeAdapter(AnyTerms)
_CANCELLATION = select(
    *(Cancellation.cancelled_at.label("at"), shown_text(Cancellation, "requested_by")),
    *(Cancellation.signing_key.label("signed_by"), shown_text(Cancellation, "reason")),
)
_UPLOAD = select(
    *(MultipartUpload.size, MultipartUpload.part_size),
    *(MultipartUpload.state, MultipartUpload.expires_at),
)


def _read_batch_story(connection: Connection, batch: _Row, now: datetime) -> Story:
    story: Story = {"grant": None, **_read_request(connection, batch)}
    of_batch = GrantFilter(
        tenant=batch.tenant, batch_id=batch.batch_id, decisions=(ISSUED,), states_at=now
    )
    counts = count_items(connection, of_batch, CountOptions(("state",)))
    story["states"] = {str(count.group[0]): count.issued for count in counts}
    if batch.refusal is None:
        # What was reserved for all items when the batch began.
        story["quota"] = _charge(batch, lambda terms: reserved_cost(terms, batch.total))
        if story["quota"] is not None:
            story["quota"]["awaited_items"] = story["items"]["awaited"]
    subject = StorySubject(
        *(batch.tenant, batch.batch_number, batch.batch_id, batch.bucket, batch.decided_at)
    )
    return story | _read_sections(connection, subject)


def _read_grant_story(connection: Connection, item: _Row, now: datetime) -> Story:
    is_issued = item.code is None
    expires_at = item.issued_at + timedelta(seconds=item.expires_in) if is_issued else None
    is_leaf = *_is_chunk(Leaf, item), Leaf.kind.in_(CHUNK_KINDS)
    number = item.item_number
    facts = read_state_facts(connection, item.batch_number, [number]).get(number)
    subject = StorySubject(
        *(item.tenant, item.batch_number, item.batch_id, item.bucket, item.issued_at),
        *(item.chunk_number, number, item.key),
    )
    return {
        **_read_request(connection, item),
        "grant": grant_id(item.batch_id, item.item_number),
        "key": item.key,
        "detail": item.detail if is_issued else None,
        "decision": item.code or ISSUED,
        "refusal": None if is_issued else item.refusal or item.chunk_refusal or item.detail,
        "decided_at": item.issued_at,
        "signed_by": item.signed_by,
        "key_thumbprint": item.key_thumbprint,
        "chunk": item.chunk_number,
        "expires_at": expires_at,
        "expires_in": item.expires_in if is_issued else None,
        "limited_by": item.limited_by if is_issued else None,
        "is_alive": expires_at is not None and now < expires_at,
        "access_key": _shorten_access_key(item.access_key) if is_issued else None,
        "reissues": _read_reissues(connection, item),
        "upload": _read_values(connection, _UPLOAD.where(*_is_item(MultipartUpload, item))),
        "quota": _read_grant_quota(connection, item) if is_issued else None,
        "leaf_number": connection.scalar(select(Leaf.leaf_number).where(*is_leaf)),
        "state": None if facts is None else grant_state(facts, now),
        **_read_sections(connection, subject),
    }


def _read_sections(connection: Connection, subject: StorySubject) -> Story:
    """Read what features know about the subject."""
    sections = (read(connection, subject) for read in load_each("story"))
    return {name: value for section in sections for name, value in section.items()}


def _read_request(connection: Connection, batch: _Row) -> Story:
    """Read the common part of a story."""
    is_cancelled = Cancellation.tenant == batch.tenant, Cancellation.batch_id == batch.batch_id
    return {
        "tenant": batch.tenant,
        "batch": batch.batch_id,
        "requested_by": batch.requested_by,
        **{name: getattr(batch, name) for name in ANNOTATION_FIELDS},
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
        "cancellation": _read_values(connection, _CANCELLATION.where(*is_cancelled)),
        "quota": None,
    }


def _read_values(connection: Connection, query: _Query) -> Story | None:
    """Read one row as a dict, None if there is none."""
    row = connection.execute(query).mappings().first()
    return None if row is None else dict(row)


def _is_chunk(table: Any, item: _Row) -> _Conditions:
    return table.batch_number == item.batch_number, table.chunk_number == item.chunk_number


def _is_item(table: Any, item: _Row) -> _Conditions:
    return table.batch_number == item.batch_number, table.item_number == item.item_number


def _count_items(connection: Connection, batch: _Row) -> Story:
    """Count the items of a batch and its chunks. Those awaited have not arrived yet."""
    awaited = select(Reservation.items).where(
        Reservation.batch_number == batch.batch_number, Reservation.chunk_number == REMAINING
    )
    counts = select(
        func.coalesce(func.sum(Chunk.issued), 0).label("issued"),
        func.coalesce(func.sum(Chunk.refused), 0).label("refused"),
        func.coalesce(awaited.scalar_subquery(), 0).label("awaited"),
        func.count().label("chunks"),
        func.min(Chunk.issued_at).label("first_at"),
        func.max(Chunk.issued_at).label("last_at"),
    )
    of_batch = counts.where(Chunk.batch_number == batch.batch_number)
    return {"total": batch.total, **connection.execute(of_batch).one()._asdict()}


def _bucket_then(connection: Connection, profile: str, moment: datetime) -> str | None:
    """Return the real bucket of a profile at a time: before its first change after that."""
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


def _terms(terms: Mapping[str, Any]) -> Story:
    """Return the terms; of URLs only the page, because a query may contain a secret."""
    left_out = {"kind", "bucket"}
    return {name: _without_query(value) for name, value in terms.items() if name not in left_out}


def _without_query(value: Any) -> Any:
    if isinstance(value, str) and "://" in value:
        url = urlsplit(value)
        return f"{url.scheme}://{url.hostname or ''}{url.path}"
    return value


def _shorten_access_key(access_key: str | None) -> str | None:
    """Return enough of an access key's id to distinguish keys."""
    if access_key is None or len(access_key) <= 2 * _SHOWN:
        return access_key
    return f"{access_key[:_SHOWN]}…{access_key[-_SHOWN:]}"


def _read_reissues(connection: Connection, item: _Row) -> list[Story]:
    query = select(Reissue.reissued_at, Reissue.access_key).order_by(Reissue.reissued_at)
    rows = connection.execute(query.where(*_is_chunk(Reissue, item)))
    return [{"at": at, "access_key": _shorten_access_key(key)} for at, key in rows]


def _read_grant_quota(connection: Connection, item: _Row) -> Story | None:
    """Return what an issued grant was charged, and whether it still counts as live."""
    charge = _charge(item, lambda terms: _item_cost(item, terms))
    if charge is not None:
        is_reserved = select(func.count()).where(*_is_chunk(Reservation, item))
        charge["counts_as_live"] = bool(connection.scalar(is_reserved))
    return charge


def _item_cost(row: _Row, terms: AnyTerms) -> Cost:
    # A later release may have written fields that this one does not know.
    known = {k: value for k, value in (row.detail or {}).items() if k in Item.model_fields}
    terms = terms.model_copy(update={"kind": issued_kind(terms.kind, row.detail)})
    return issued_cost(terms, [Item.model_validate({"key": row.key, **known})])


def _charge(batch: _Row, cost_of: Callable[[AnyTerms], Cost]) -> Story | None:
    """Return what was charged by metric, and the beginnings of the windows, None if nothing was."""
    try:
        cost = cost_of(_TERMS.validate_python(batch.terms))
    except ValidationError:  # terms or fields of a later release, or of a test
        return None
    if cost == NO_COST:
        return None
    starts = {
        window: window_start(window, batch.decided_at) for window in WINDOWS if window != "live"
    }
    amounts = {metric: amount for metric, amount in cost._asdict().items() if amount}
    return {"charged": amounts, "windows": starts}


class UnknownGrant(LookupError):
    """The audit log has no such grant or batch, or several tenants have a batch with this id."""


def find_story(connection: Connection, grant: str, now: datetime) -> Story:
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
    is_batch = Batch.batch_number == batch_number
    if item_number is None:
        query = select(*BATCH_COLUMNS, *map(batch_text, ANNOTATION_FIELDS)).where(is_batch)
        return _read_batch_story(connection, connection.execute(query).one(), now)
    is_item = is_batch, Grant.item_number == item_number
    item = connection.execute(GRANTS.where(*is_item)).first()
    if item is None:
        raise _undecided(connection, names[0], batch_number, item_number)
    return _read_grant_story(connection, item, now)


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
