"""What is decided about a chunk, on its way from the signer to the tables and to the producer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, NamedTuple

from valetkey.wire.messages import ChunkMessage, Outcome
from valetkey.wire.refusals import Code, QuotaState, Refusal
from valetkey.wire.terms import AnyTerms
from worker.core.quotas.cost import NO_COST, Cost
from worker.core.signing.multipart_plan import MultipartPlan
from worker.core.signing.object_keys import printable_key
from worker.core.signing.sigv4 import Credentials
from worker.core.tenants.config import Tenant


class Validity(NamedTuple):
    """How long grants live: from when, for how many seconds, and which limit said so."""

    issued_at: datetime
    expires_in: int
    limited_by: str

    @property
    def expires_at(self) -> datetime:
        """When storage stops accepting the grant."""
        return self.issued_at + timedelta(seconds=self.expires_in)

    def at_most(self, seconds: int, limited_by: str) -> "Validity":
        """Cut it to so many seconds, and say what limits it then."""
        if self.expires_in <= seconds:
            return self
        return Validity(self.issued_at, seconds, limited_by)

    def within(self, credentials: Credentials) -> "Validity":
        """Cut it to the credentials that sign, as a URL dies with them, whatever it says.

        Source: AWS, using-presigned-url.html.
        """
        end = credentials.expires_at
        if end is None or self.expires_at <= end:
            return self
        left = int((end - self.issued_at).total_seconds())
        return Validity(self.issued_at, left, "credentials")


class GrantRow(NamedTuple):
    """One audit row: issued where there is a digest, else refused with a code."""

    number: int
    key: str
    code: str | None = None
    detail: dict[str, Any] | None = None
    digest: bytes | None = None


class ChunkRequest(NamedTuple):
    """A message, whose it is, and the name of the key that signed it if one did."""

    message: ChunkMessage
    tenant: Tenant
    key: str | None


class StartedUpload(NamedTuple):
    """A multipart upload that storage knows by upload_id."""

    upload_id: str
    plan: MultipartPlan


NO_UPLOAD = StartedUpload("", MultipartPlan(0, 1))
"""What goes with an item that belongs to no multipart upload."""


@dataclass(frozen=True, slots=True)
class ChunkDecision:
    """A chunk's decision: its audit rows, and the answers to its items in the same order.

    price is what its granted items cost, quotas how its tenant's stand after it; begun are the
    multipart uploads that storage began for it, by item number. With a refusal all of it is
    refused, and life is only the time of that.
    """

    rows: Sequence[GrantRow]
    answers: Sequence[dict[str, Any]]
    life: Validity
    access_key: str | None = None
    refusal: Refusal | None = None
    price: Cost = NO_COST
    quotas: Sequence[QuotaState] = ()
    begun: Mapping[int, StartedUpload] = field(default_factory=dict)

    @property
    def issued(self) -> int:
        """How many items were granted."""
        return sum(row.code is None for row in self.rows)

    @property
    def digests(self) -> bytes:
        """The digests of the granted items' signatures, in order."""
        return b"".join(row.digest for row in self.rows if row.digest is not None)


@dataclass(frozen=True, slots=True)
class RecordedChunk:
    """A chunk as the tables have it: enough to sign its grants again to the byte."""

    batch_number: int
    batch: str
    chunk: int
    tenant: str
    terms: AnyTerms
    rows: Sequence[GrantRow]
    life: Validity
    access_key: str | None
    refusal: Refusal | None
    begun: Mapping[int, StartedUpload]


def refuse_chunk(message: ChunkMessage, refusal: Refusal, at: datetime) -> ChunkDecision:
    """Refuse every item of a chunk for the same reason."""
    numbers = range(message.first_item, message.first_item + len(message.items))
    rows = [
        GrantRow(number, printable_key(item.key), refusal.code.value)
        for number, item in zip(numbers, message.items, strict=True)
    ]
    return ChunkDecision(
        rows, [], Validity(at.replace(microsecond=0), 0, "request"), refusal=refusal
    )


_ENDS = {
    "provider": "storage lets no grant live that long",
    "credentials": "the credentials that sign end before that",
}


def limit_validity(
    asked: tuple[int, str],
    shortest: int | None,
    longest: int,
    credentials: Credentials,
    now: datetime,
) -> Validity | Refusal:
    """Cut a life to the provider's longest and to what the credentials have left.

    asked is the life in seconds after policy, and what limited it; shortest and longest are in
    seconds. What comes out under the shortest is refused.
    """
    issued_at = now.replace(microsecond=0)
    life = Validity(issued_at, *asked).at_most(longest, "provider").within(credentials)
    if life.expires_in < (shortest or 1):
        return Refusal(
            code=Code.EXPIRY_TOO_SHORT,
            field="grant.min_expires_in",
            message=_ENDS.get(life.limited_by, "it has to end before that"),
            limit=max(life.expires_in, 0),
        )
    return life


def item_refusal_values(refusal: Refusal, key: str) -> dict[str, Any]:
    """Write what refuses a whole chunk, or was found of an item, as the answer to that item."""
    return refusal.model_copy(update={"key": key}).model_dump(mode="json", exclude_none=True)


def fingerprint(text: str) -> bytes:
    """Identify content: the same text, the same 32 bytes."""
    return sha256(text.encode()).digest()


def count_outcome(batch: str, chunk: int, decided: ChunkDecision) -> dict[str, Any]:
    """Write the answer to a chunk whose items a manifest will hold: how many there are."""
    issued = 0 if decided.refusal else decided.issued
    counts = {"issued": issued, "refused": len(decided.rows) - issued}
    return chunk_outcome(batch, chunk, replace(decided, answers=())) | counts


def chunk_outcome(batch: str, chunk: int, decided: ChunkDecision) -> dict[str, Any]:
    """Write the answer to a chunk as JSON values."""
    header = Outcome(
        batch=batch,
        chunk=chunk,
        status="refused" if decided.refusal else "issued",
        refusal=decided.refusal,
        quotas=list(decided.quotas),
    )
    return header.model_dump(mode="json", exclude_none=True) | {"items": list(decided.answers)}
