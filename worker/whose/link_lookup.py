"""Finds the grants of a pasted link, form or id, and compares them with it."""

from collections.abc import Iterable, Iterator
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, and_, select

from models import (
    Batch,
    Bucket,
    Cancellation,
    Chunk,
    ConfigChange,
    Grant,
    MultipartUpload,
    Reissue,
)
from valetkey.wire.grant_ids import grant_id
from worker.audit.grant_filters import read_profiles
from worker.audit.grant_rows import GRANTS
from worker.revoke.revocation_rows import read_item_revocations, read_storage
from worker.rules.issued_grants import IssuedItem, issued_kind, storage_host
from worker.settings import Settings
from worker.shared.grant_items import is_in_chunk
from worker.shared.grant_names import GrantName
from worker.shared.tenant_history import is_of_tenant
from worker.whose.link_verdicts import (
    VERDICTS,
    AuditedGrant,
    PastedGrant,
    Signing,
    Verdict,
    judge,
    matching_signing,
)

_DIGEST_BYTES = 32
# A batch is decided when its first chunk is issued, and is open for later chunks for a day or more.
_WINDOWS = (timedelta(minutes=1), timedelta(days=1), timedelta(days=31))
_COMMIT_TIME = timedelta(minutes=5)

_FIRST_ITEM = Chunk.chunk_number * Batch.chunk_size
_AUDITED = (
    GRANTS.add_columns(
        *(_FIRST_ITEM.label("first_item"), Bucket.provider, Bucket.role_arn, Bucket.endpoint),
        *(Bucket.fips, Bucket.dualstack, Bucket.accelerate),
        *(MultipartUpload.state.label("upload"), Cancellation.cancelled_at),
    )
    .outerjoin(Bucket, Bucket.name == Batch.bucket)
    .outerjoin(
        MultipartUpload,
        and_(
            MultipartUpload.batch_number == Grant.batch_number,
            MultipartUpload.item_number == Grant.item_number,
        ),
    )
    .outerjoin(
        Cancellation,
        and_(Cancellation.tenant == Batch.tenant, Cancellation.batch_id == Batch.batch_id),
    )
    .order_by(Batch.batch_number)
)


def find_named(connection: Connection, name: GrantName) -> list[AuditedGrant]:
    """Return the grants with an id: several if tenants chose the same id for a batch."""
    query = _AUDITED.where(Batch.batch_id == name.batch_id, Grant.item_number == name.item_number)
    if name.tenant is not None:
        query = query.where(is_of_tenant(connection, Batch.tenant, name.tenant))
    return [_audited(connection, row) for row in connection.execute(query).all()]


def find_signed(
    connection: Connection, digests: Iterable[bytes], issued_at: datetime
) -> AuditedGrant | None:
    """Return the grant that has one of these digests and was issued at a time, or None.

    The time is indexed and the digest is not. So this reads the grants of batches that were decided
    then, and of earlier ones only if none of them has the digest.
    """
    for window in _WINDOWS:
        was_decided = Batch.decided_at.between(issued_at - window, issued_at + _COMMIT_TIME)
        for digest in digests:
            name = _name_of(connection, digest, and_(was_decided, Chunk.issued_at == issued_at))
            if name is not None:
                return next(iter(find_named(connection, name)), None)
    return None


def _name_of(
    connection: Connection, digest: bytes, was_issued: ColumnElement[bool]
) -> GrantName | None:
    chunks = select(Batch.tenant, Batch.batch_id).where(was_issued)
    chunks = chunks.join(Chunk, Chunk.batch_number == Batch.batch_number)
    items = chunks.add_columns(Grant.item_number).join(Grant, is_in_chunk())
    row = connection.execute(items.where(Grant.digest == digest)).first()
    if row is not None:
        return GrantName(row.batch_id, row.item_number, _only(row.tenant))
    reissues = chunks.add_columns(Chunk.batch_number, _FIRST_ITEM, Reissue.digests).join(
        Reissue,
        and_(
            Reissue.batch_number == Chunk.batch_number, Reissue.chunk_number == Chunk.chunk_number
        ),
    )
    for tenant, batch_id, batch, first, digests in connection.execute(reissues):
        if digest in (pieces := _split(digests)):
            issued = _issued_items(batch, first).order_by(Grant.item_number)
            item = connection.scalar(issued.limit(1).offset(pieces.index(digest)))
            return None if item is None else GrantName(batch_id, item, _only(tenant))
    return None


def _issued_items(batch_number: int, first_item: int) -> Select[int]:
    """Select the numbers of the issued items of a batch, from one on."""
    return select(Grant.item_number).where(
        Grant.batch_number == batch_number,
        Grant.item_number >= first_item,
        Grant.digest.is_not(None),
    )


def _only(tenant_id: str) -> str:
    """Return how to name this tenant alone, and not those that had the same name later."""
    return tenant_id if "~" in tenant_id else f"{tenant_id}~1"


_FIELDS = {field.name for field in fields(AuditedGrant)}


def _audited(connection: Connection, row: Any) -> AuditedGrant:
    terms = row.terms if isinstance(row.terms, dict) else {}
    profiles = read_profiles(connection)
    storage = read_storage(connection, row.bucket)
    item = IssuedItem(row.batch_id, row.item_number, row.bucket, storage, row.key)
    values = row._asdict() | {"kind": issued_kind(row.kind, row.detail)}
    return AuditedGrant(
        **{name: value for name, value in values.items() if name in _FIELDS},
        grant=grant_id(row.batch_id, row.item_number),
        signings=tuple(_signings(connection, row)),
        is_plain=terms.get("plain") is True,
        real_buckets=frozenset(real for profile, real in profiles if profile == row.bucket),
        hosts=frozenset(_hosts(connection, row)),
        has_role=row.role_arn is not None,
        revocations=read_item_revocations(connection, row.tenant, item, row.issued_at),
    )


def _hosts(connection: Connection, row: Any) -> Iterator[str | None]:
    """Yield the hosts of the endpoints that the bucket profile of a row has or had."""
    default = Settings().s3_endpoint
    if row.provider is not None:
        is_aws = row.fips or row.dualstack or row.accelerate
        yield storage_host(row.endpoint or (None if is_aws else default))
    paths = [f"buckets.{row.bucket}.{name}" for name in ("bucket", "endpoint")]
    query = select(ConfigChange.path, ConfigChange.changed_at, ConfigChange.before)
    changes = connection.execute(query.where(ConfigChange.path.in_(paths))).all()
    created = {
        change.changed_at for change in changes if change.path == paths[0] and not change.before
    }
    for change in changes:
        if change.path == paths[1] and (change.before or change.changed_at not in created):
            yield storage_host(change.before or default)


def _signings(connection: Connection, row: Any) -> Iterator[Signing]:
    if row.digest is None:
        return
    yield Signing(row.digest, row.access_key)
    reissues = (
        select(Reissue.access_key, Reissue.reissued_at, Reissue.digests)
        .where(Reissue.batch_number == row.batch_number, Reissue.chunk_number == row.chunk_number)
        .order_by(Reissue.reissued_at)
    )
    again = connection.execute(reissues).all()
    if not again:
        return
    # A reissue has the digests of the issued items of its chunk, in their order.
    before = _issued_items(row.batch_number, row.first_item)
    before = before.where(Grant.item_number < row.item_number)
    position = len(connection.execute(before).all())
    for access_key, reissued_at, digests in again:
        digest = digests[position * _DIGEST_BYTES : (position + 1) * _DIGEST_BYTES]
        if digest != row.digest:
            yield Signing(digest, access_key, reissued_at)


def _split(digests: bytes) -> list[bytes]:
    return [digests[i : i + _DIGEST_BYTES] for i in range(0, len(digests), _DIGEST_BYTES)]


class JudgedGrant(NamedTuple):
    """A grant that a text names, the verdict on the text, and the parts in which it differs.

    signing is the one whose signature the text has, or else the first one.
    """

    grant: AuditedGrant
    verdict: Verdict
    differences: list[str]
    signing: Signing | None


def find_pasted(connection: Connection, readings: list[PastedGrant]) -> list[JudgedGrant]:
    """Return the grants that a text names, by its best reading.

    They are several only if tenants chose the same batch id.
    """
    judged = [_judge_all(connection, each) for each in readings]
    return min(judged, key=lambda found: min((VERDICTS.index(e.verdict) for e in found), default=9))


def _judge_all(connection: Connection, pasted: PastedGrant) -> list[JudgedGrant]:
    grants: list[AuditedGrant] = []
    if pasted.name is not None:
        grants = find_named(connection, pasted.name)
    elif pasted.digests and pasted.issued_at is not None:
        signed = find_signed(connection, pasted.digests, pasted.issued_at)
        grants = [] if signed is None else [signed]
    judged = []
    for grant in grants:
        signing = matching_signing(pasted, grant) or next(iter(grant.signings), None)
        judged.append(JudgedGrant(grant, *judge(pasted, grant), signing))
    # Tenants choose the ids of their batches. If several chose the same, the signature decides.
    proven = {"genuine", "altered"}
    return [each for each in judged if each.verdict in proven] or judged
