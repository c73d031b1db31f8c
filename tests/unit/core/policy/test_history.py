from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.builders.messages import grant_message
from valetkey.wire.messages import ChunkMessage
from valetkey.wire.refusals import Code, Refusal
from worker.core.fingerprints import (
    BATCH_CLOSED,
    BATCH_CONFLICT,
    BatchHistory,
    DecidedChunk,
    RecordedBatch,
    header_fingerprint,
    items_fingerprint,
)

STARTED_AT = datetime(2026, 11, 24, 9, tzinfo=UTC)
RAW = grant_message(
    ["acme/ü.pdf"],
    batch="0199a000-0000-7000-8000-000000000000",
    requested_by="billing",
    reason=None,
    total=2,
    chunk_size=1,
)
MESSAGE = ChunkMessage.model_validate(RAW)
OVER_QUOTA = Refusal(code=Code.QUOTA_EXCEEDED, field="total", message="over the quota")


def recorded_batch(**changes: Any) -> RecordedBatch:
    """Return the open batch of MESSAGE, whose second item is not decided yet."""
    fields: dict[str, Any] = {
        "batch_number": 1,
        "kind": "download",
        "bucket": "demo",
        "total": 2,
        "chunk_size": 1,
        "fingerprint": header_fingerprint(MESSAGE),
        "refusal": None,
        "decided_at": STARTED_AT,
        "remaining": 1,
    }
    return RecordedBatch(**fields | changes)


def decided_chunk(refusal: Refusal | None = None, **item: Any) -> DecidedChunk:
    """Return the decision on MESSAGE, or on the same chunk with other item fields."""
    message = ChunkMessage.model_validate(RAW | {"items": [{"key": "acme/ü.pdf", **item}]})
    return DecidedChunk(items_fingerprint(message), STARTED_AT, refusal)


OPEN = recorded_batch()
CLOSED = recorded_batch(remaining=None)
REFUSED = recorded_batch(refusal=OVER_QUOTA, remaining=None)
OTHER_HEADER = recorded_batch(fingerprint=bytes(32))
OTHER_ITEMS = decided_chunk(filename="other.pdf")


@pytest.mark.parametrize(
    ("history", "refusal"),
    [
        pytest.param(BatchHistory(), None, id="unused batch id"),
        pytest.param(BatchHistory(is_cancelled=True), BATCH_CLOSED, id="cancelled before it began"),
        pytest.param(BatchHistory(OPEN), None, id="open batch"),
        pytest.param(BatchHistory(CLOSED), BATCH_CLOSED, id="closed batch"),
        pytest.param(BatchHistory(REFUSED), OVER_QUOTA, id="refused batch"),
        pytest.param(BatchHistory(OTHER_HEADER), BATCH_CONFLICT, id="other header"),
        pytest.param(BatchHistory(OPEN, OTHER_ITEMS), BATCH_CONFLICT, id="other items"),
        pytest.param(BatchHistory(CLOSED, decided_chunk()), None, id="issued chunk, closed batch"),
        pytest.param(
            BatchHistory(CLOSED, decided_chunk(), is_cancelled=True),
            None,
            id="issued chunk, cancelled batch",
        ),
        pytest.param(
            BatchHistory(REFUSED, decided_chunk(OVER_QUOTA, filename="other.pdf")),
            BATCH_CONFLICT,
            id="other items, refused chunk",
        ),
    ],
)
def test_the_history_alone_refuses_a_message_or_leaves_the_decision_open(
    history: BatchHistory, refusal: Refusal | None
) -> None:
    assert history.refusal_of(MESSAGE) == refusal


@pytest.mark.parametrize(("total", "chunks"), [(1, 1), (600, 1), (601, 2), (100_000, 167)])
def test_the_chunk_count_includes_a_shorter_last_chunk(total: int, chunks: int) -> None:
    assert recorded_batch(total=total, chunk_size=600).chunk_count == chunks
