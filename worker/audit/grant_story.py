"""Finds the grant or batch that an id names, and reads all that the database has about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, func, select

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
from worker.audit.grant_filters import ISSUED, GrantFilter
from worker.audit.item_counts import CountOptions, count_items
from worker.audit.link_lookup import find_batches
from worker.core.issued_grants import GrantName
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
from worker.uses.use_rules import StateFacts

StoryRow = Row[*tuple[Any, ...]]
"""A row of a table, or some of its columns."""
MAX_USES = 100
"""A link may be opened a million times: only so many uses are read, the newest ones."""


class UseStory(NamedTuple):
    """The uses of a grant, oldest first, and the settlement of its chunk; None if there is none.

    facts are None for a refused item. number is that of all uses.
    """

    facts: StateFacts | None
    uses: Sequence[StoryRow]
    number: int
    settlement: StoryRow | None


def read_uses(
    connection: Connection, batch_number: int, item_number: int, chunk_number: int
) -> UseStory:
    """Read the uses of a grant."""
    facts = read_state_facts(connection, batch_number, [item_number])
    is_of_grant = Use.batch_number == batch_number, Use.item_number == item_number
    columns = [column for column in Use.__table__.columns if column.name not in _LEFT_OUT]
    newest = select(*columns).where(*is_of_grant)
    newest = newest.order_by(Use.occurred_at.desc(), Use.fingerprint.desc()).limit(MAX_USES)
    settlement = select(
        *(Settlement.unused, Settlement.used_bytes, Settlement.returned_bytes),
        Settlement.settled_at,
    ).where(Settlement.batch_number == batch_number, Settlement.chunk_number == chunk_number)
    return UseStory(
        facts.get(item_number),
        connection.execute(newest).all()[::-1],
        connection.scalar(select(func.count()).where(*is_of_grant)) or 0,
        connection.execute(settlement).first(),
    )


_LEFT_OUT = {"tenant", "batch_number", "item_number", "fingerprint", "group_id"}


class ChunkStory(NamedTuple):
    """A grant's chunk, and what happened to it: rows of the tables, None or empty without one.

    item is the row of `grants`, and uses what became of it. reissues are the times at which it was
    signed again, and leaf_number is the position of the chunk in the tenant's tree. is_reserved
    says that the grant still counts in the window live.
    """

    chunk: StoryRow
    item: StoryRow
    reissues: list[StoryRow]
    upload: StoryRow | None
    is_reserved: bool
    leaf_number: int | None
    uses: UseStory


@dataclass(frozen=True, slots=True)
class Story:
    """A batch: rows of the tables, None or empty where there is none. grant is one item of it.

    bucket_then is the real bucket behind the profile when the batch was decided, if it is known.
    remaining is the number of items that the batch still waits for. states counts its issued grants
    by state, of a batch without a grant. revocations cover the grant, or something of the batch.
    """

    batch: StoryRow
    counts: StoryRow
    remaining: int
    bucket_then: str | None
    cancellation: StoryRow | None
    manifest: StoryRow | None
    deliveries: list[StoryRow]
    grant: ChunkStory | None
    states: Mapping[str, int]
    revocations: Sequence[RecordedRevocation]


def read_story(
    connection: Connection, batch_number: int, item_number: int | None, now: datetime
) -> Story | None:
    """Read the story of a batch, and of one item; None if the item was not decided."""
    batch = connection.execute(select(Batch).where(Batch.batch_number == batch_number)).one()
    grant = None
    if item_number is not None:
        grant = _read_grant(connection, batch, item_number)
        if grant is None:
            return None
    return Story(
        batch=batch,
        counts=connection.execute(
            select(
                func.count().label("chunks"),
                func.coalesce(func.sum(Chunk.issued), 0).label("issued"),
                func.coalesce(func.sum(Chunk.refused), 0).label("refused"),
                func.min(Chunk.issued_at).label("first"),
                func.max(Chunk.issued_at).label("last"),
            ).where(Chunk.batch_number == batch_number)
        ).one(),
        remaining=_remaining(connection, batch_number),
        bucket_then=_bucket_then(connection, batch.bucket, batch.decided_at),
        cancellation=connection.execute(
            select(Cancellation).where(
                Cancellation.tenant == batch.tenant, Cancellation.batch_id == batch.batch_id
            )
        ).first(),
        manifest=connection.execute(
            select(Manifest).where(Manifest.batch_number == batch_number)
        ).first(),
        deliveries=_read_deliveries(connection, batch, grant),
        grant=grant,
        states={} if grant is not None else _count_states(connection, batch, now),
        revocations=_read_revocations(connection, batch, grant),
    )


def _read_revocations(
    connection: Connection, batch: StoryRow, grant: ChunkStory | None
) -> Sequence[RecordedRevocation]:
    storage = read_storage(connection, batch.bucket)
    number, key = (0, "") if grant is None else (grant.item.item_number, grant.item.object_key)
    item = RevokedItem(batch.batch_id, number, batch.bucket, storage, key)
    if grant is not None:
        return read_item_revocations(connection, batch.tenant, item, grant.chunk.issued_at)
    return read_batch_revocations(
        connection, batch.tenant, batch.batch_number, item, batch.decided_at
    )


def _count_states(connection: Connection, batch: StoryRow, now: datetime) -> Mapping[str, int]:
    of_batch = GrantFilter(tenant=batch.tenant, batch_id=batch.batch_id, decisions=(ISSUED,))
    counts = count_items(connection, of_batch, CountOptions(("state",), now=now))
    return {str(count.group[0]): count.issued for count in counts}


def _read_grant(connection: Connection, batch: StoryRow, item_number: int) -> ChunkStory | None:
    item = connection.execute(
        select(Grant).where(
            Grant.batch_number == batch.batch_number, Grant.item_number == item_number
        )
    ).first()
    if item is None:
        return None
    number, chunk_number = batch.batch_number, item_number // batch.chunk_size
    chunk = connection.execute(
        select(Chunk).where(Chunk.batch_number == number, Chunk.chunk_number == chunk_number)
    ).one()
    reissues = connection.execute(
        select(Reissue.access_key, Reissue.reissued_at)
        .where(Reissue.batch_number == number, Reissue.chunk_number == chunk_number)
        .order_by(Reissue.reissued_at)
    ).all()
    upload = connection.execute(
        select(
            *(MultipartUpload.size, MultipartUpload.part_size, MultipartUpload.state),
            MultipartUpload.expires_at,
        ).where(MultipartUpload.batch_number == number, MultipartUpload.item_number == item_number)
    ).first()
    is_chunk = (Reservation.batch_number == number, Reservation.chunk_number == chunk_number)
    reserved = connection.scalar(select(func.count()).where(*is_chunk))
    leaf_number = connection.scalar(
        select(Leaf.leaf_number).where(
            Leaf.batch_number == number,
            Leaf.chunk_number == chunk_number,
            Leaf.kind.in_(CHUNK_KINDS),
        )
    )
    uses = read_uses(connection, number, item_number, chunk_number)
    return ChunkStory(chunk, item, list(reissues), upload, bool(reserved), leaf_number, uses)


def _remaining(connection: Connection, batch_number: int) -> int:
    is_remaining = (
        Reservation.batch_number == batch_number,
        Reservation.chunk_number == REMAINING,
    )
    return connection.scalar(select(Reservation.items).where(*is_remaining)) or 0


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


def _read_deliveries(
    connection: Connection, batch: StoryRow, grant: ChunkStory | None
) -> list[StoryRow]:
    query = select(
        *(Delivery.chunk_number, Delivery.endpoint, Delivery.state, Delivery.attempts),
        *(Delivery.status, Delivery.problem, Delivery.created_at, Delivery.finished_at),
        *(Delivery.next_attempt_at, Delivery.event),
    ).where(Delivery.batch_number == batch.batch_number)
    if grant is not None:
        query = query.where(Delivery.chunk_number == grant.chunk.chunk_number)
    return list(connection.execute(query.order_by(Delivery.delivery_number)))


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
    item = "" if item_number is None else f".{item_number}"
    names = [f"{id_}/{batch_id}{item}" for id_, _ in selected or batches]
    if not selected:
        raise UnknownGrant(
            f"{tenant} has no batch with this id: did you mean {' or '.join(names)}?"
        )
    if len(selected) > 1:
        raise UnknownGrant(f"several tenants have a batch with this id: {' or '.join(names)}?")
    story = read_story(connection, selected[0][1], item_number, now)
    if story is None:
        raise _undecided(connection, names[0], selected[0][1], item_number or 0)
    return story


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
