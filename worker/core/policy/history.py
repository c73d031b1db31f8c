"""The history of a batch: the decisions that were committed under its id before a message."""

from datetime import datetime
from typing import NamedTuple

from valetkey.wire.messages import ChunkMessage
from valetkey.wire.refusals import Code, Refusal
from worker.core.policy.fingerprints import header_fingerprint, items_fingerprint

BATCH_CONFLICT = Refusal(
    code=Code.BATCH_CONFLICT,
    field="batch",
    message="this batch id, or this chunk of it, was used with other content: choose a new id",
)
BATCH_CLOSED = Refusal(
    code=Code.BATCH_CLOSED,
    field="batch",
    message=(
        "the batch was cancelled, or began longer ago than the shortest window of the tenant's"
        " quotas (or than a day): nothing more of it is issued"
    ),
)
BATCH_UNKNOWN = Refusal(
    code=Code.BATCH_UNKNOWN,
    field="batch",
    message="no message of such a batch of the tenant has reached the service",
)


class RecordedBatch(NamedTuple):
    """A committed batch: its header, its refusal if any, and the number of items not decided yet.

    remaining is the number of items without a decision, None once the batch is closed.
    """

    batch_number: int
    kind: str
    bucket: str
    total: int
    chunk_size: int
    fingerprint: bytes
    refusal: Refusal | None
    decided_at: datetime
    remaining: int | None

    @property
    def chunk_count(self) -> int:
        """The number of chunks of the whole batch."""
        return -(-self.total // self.chunk_size)

    @property
    def later_refusal(self) -> Refusal | None:
        """The refusal of chunks that are not decided yet, or None if they can be issued."""
        return self.refusal or (BATCH_CLOSED if self.remaining is None else None)


class DecidedChunk(NamedTuple):
    """The decision on one chunk of the batch."""

    fingerprint: bytes
    decided_at: datetime
    refusal: Refusal | None


class BatchHistory(NamedTuple):
    """The committed batch of an id, and one committed chunk of it; None if there is none."""

    batch: RecordedBatch | None = None
    chunk: DecidedChunk | None = None
    is_cancelled: bool = False

    def conflicts_with(self, header: bytes, items: bytes) -> bool:
        """Tell whether the batch id was used with another header, or the chunk with other items."""
        if self.batch is not None and self.batch.fingerprint != header:
            return True
        return self.chunk is not None and self.chunk.fingerprint != items

    def refusal_of(self, message: ChunkMessage) -> Refusal | None:
        """Return the refusal that follows from the history alone, or None if there is none."""
        if self.batch is None:
            return BATCH_CLOSED if self.is_cancelled else None
        if self.conflicts_with(header_fingerprint(message), items_fingerprint(message)):
            return BATCH_CONFLICT
        return self.batch.later_refusal if self.chunk is None else self.chunk.refusal

    def is_final_for(self, message: ChunkMessage) -> bool:
        """Tell whether the history alone decides the message: no item of it is decided anew."""
        return self.refusal_of(message) is not None or self.chunk is not None
