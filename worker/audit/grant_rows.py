"""Selects one grant with all that is recorded of it."""

from sqlalchemy import select

from models import Batch, Chunk, Grant
from worker.audit.text_conditions import item_text, shown_text
from worker.rules.annotations import ANNOTATION_FIELDS
from worker.shared.grant_items import is_in_chunk

_BATCH_TEXTS = {"requested_by", *ANNOTATION_FIELDS}
BATCH_COLUMNS = (
    *(column for column in Batch.__table__.columns if column.name not in _BATCH_TEXTS),
    shown_text(Batch, "requested_by"),
)
"""The columns of a batch, without the texts that its items can have of their own."""
GRANTS = (
    select(
        *(*BATCH_COLUMNS, *map(item_text, ANNOTATION_FIELDS)),
        *(Chunk.chunk_number, Chunk.issued_at, Chunk.expires_in, Chunk.limited_by),
        *(Chunk.access_key, Chunk.signing_key.label("signed_by"), Chunk.key_thumbprint),
        Chunk.refusal.label("chunk_refusal"),
        *(Grant.item_number, Grant.object_key.label("key"), Grant.code, Grant.detail, Grant.digest),
    )
    .select_from(Batch)
    .join(Chunk, Chunk.batch_number == Batch.batch_number)
    .join(Grant, is_in_chunk())
)
"""The query for all columns of batches, chunks and items that describe a grant."""
