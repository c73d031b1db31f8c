"""What was decided under a batch's id before a message with it came."""

import json
from datetime import datetime
from hashlib import sha256
from typing import NamedTuple

from pydantic_core import to_json

from valetkey.wire.messages import ChunkMessage
from valetkey.wire.refusals import Code, Refusal
from worker.core.policy.decisions import fingerprint

BATCH_CONFLICT = Refusal(
    code=Code.BATCH_CONFLICT,
    field="batch",
    message="this batch id, or this chunk of it, was used with other content",
)
BATCH_CLOSED = Refusal(
    code=Code.BATCH_CLOSED,
    field="batch",
    message="the batch was cancelled, or began so long ago that no more of it is granted",
)


class BatchHistory(NamedTuple):
    """When the batch began and this very chunk was decided, and why nothing is granted under it."""

    began_at: datetime | None = None
    decided_at: datetime | None = None
    refusal: Refusal | None = None

    @property
    def settles(self) -> bool:
        """Whether a message is answered by what was decided, and nothing is decided any more."""
        return self.decided_at is not None or self.refusal is not None


def header_fingerprint(message: ChunkMessage) -> bytes:
    """Identify what all chunks of a batch say alike."""
    return fingerprint(json.dumps(message.header(), sort_keys=True))


def items_fingerprint(message: ChunkMessage) -> bytes:
    """Identify what one chunk asks for."""
    try:
        return sha256(to_json(message.items, exclude_none=True)).digest()
    except ValueError:  # a lone surrogate, which a refused key may have: Python's JSON writes it
        items = [item.model_dump(mode="json", exclude_none=True) for item in message.items]
        return fingerprint(json.dumps(items, sort_keys=True))
