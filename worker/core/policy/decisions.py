"""Data types of requests, decisions and recorded chunks, and the outcome of a decision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple

from valetkey.wire.messages import ChunkMessage, Item
from valetkey.wire.refusals import QuotaState, Refusal
from valetkey.wire.replies import Outcome
from valetkey.wire.terms import AnyTerms
from worker.core.quotas.cost import NO_COST, Cost
from worker.core.signing.multipart_plan import StartedUpload
from worker.core.signing.object_keys import printable_key
from worker.core.signing.validity import Validity
from worker.core.tenants.config import Tenant


class ChunkRequest(NamedTuple):
    """An authenticated message, its tenant, and the name of the key that signed it, if any.

    reissue_of is the id of the earlier grant whose object and terms the message has, if any.
    """

    message: ChunkMessage
    tenant: Tenant
    signing_key: str | None
    reissue_of: str | None = None


class GrantRow(NamedTuple):
    """One audit row: issued, with the digest of a signature, or refused, with a code."""

    item_number: int
    object_key: str
    code: str | None = None
    detail: dict[str, Any] | None = None
    digest: bytes | None = None


class UploadAttempt(NamedTuple):
    """One attempt to start the uploads of a chunk, recorded under its id before the first call.

    uncertain are the items for which storage may have created another upload, whose id is unknown.
    It is looked for from cleanup_at on.
    """

    id: str
    uncertain: frozenset[int]
    cleanup_at: datetime


@dataclass(frozen=True, slots=True)
class ChunkDecision:
    """The decision on a chunk: its audit rows, and the results of its items in the same order.

    cost is the cost of its issued items, quotas are the tenant's quotas afterwards. uploads are
    the multipart uploads that were started for it, by item number, and attempt the one that started
    them. If refusal is set, the whole chunk is refused, and validity.issued_at is the time of the
    refusal.
    """

    rows: Sequence[GrantRow]
    results: Sequence[dict[str, Any]]
    validity: Validity
    access_key: str | None = None
    refusal: Refusal | None = None
    cost: Cost = NO_COST
    quotas: Sequence[QuotaState] = ()
    uploads: Mapping[int, StartedUpload] = field(default_factory=dict)
    attempt: UploadAttempt | None = None

    @property
    def issued(self) -> int:
        """The number of issued items."""
        return sum(row.code is None for row in self.rows)

    @property
    def digests(self) -> bytes:
        """The digests of the issued items' signatures, in order."""
        return b"".join(row.digest for row in self.rows if row.digest is not None)


@dataclass(frozen=True, slots=True)
class RecordedChunk:
    """A chunk as it was committed: enough to sign its grants again byte for byte.

    terms, total and callback are those of its batch.
    """

    batch_number: int
    batch_id: str
    chunk_number: int
    tenant_id: str
    terms: AnyTerms
    total: int
    callback: str | None
    rows: Sequence[GrantRow]
    validity: Validity
    access_key: str | None
    refusal: Refusal | None
    uploads: Mapping[int, StartedUpload]


def refuse_chunk(message: ChunkMessage, refusal: Refusal, now: datetime) -> ChunkDecision:
    """Refuse every item of a chunk for the same reason."""
    numbers = range(message.first_item, message.first_item + len(message.items))
    rows = [
        GrantRow(number, printable_key(item.key), str(refusal.code))
        for number, item in zip(numbers, message.items, strict=True)
    ]
    validity = Validity(now.replace(microsecond=0), 0, "request")
    return ChunkDecision(rows, [], validity, refusal=refusal)


def recorded_item(row: GrantRow) -> Item:
    """Return the item of an audit row that was issued."""
    return Item.model_validate({"key": row.object_key, **(row.detail or {})})


def refused_item_result(refusal: Refusal, object_key: str) -> dict[str, Any]:
    """Return a refusal with an item's object key, as JSON values."""
    return refusal.model_copy(update={"key": object_key}).model_dump(mode="json", exclude_none=True)


def chunk_outcome(batch_id: str, chunk_number: int, decision: ChunkDecision) -> dict[str, Any]:
    """Return the outcome of a chunk as JSON values."""
    header = Outcome(
        batch=batch_id,
        chunk=chunk_number,
        status="refused" if decision.refusal else "issued",
        refusal=decision.refusal,
        quotas=list(decision.quotas),
    )
    values = header.model_dump(mode="json", exclude_none=True)
    return values | {"items": list(decision.results)}


def outcome_without_items(
    batch_id: str, chunk_number: int, decision: ChunkDecision
) -> dict[str, Any]:
    """Return the outcome of a chunk whose results go into a manifest: counts instead of items."""
    issued = 0 if decision.refusal else decision.issued
    counts = {"issued": issued, "refused": len(decision.rows) - issued}
    return chunk_outcome(batch_id, chunk_number, replace(decision, results=())) | counts
