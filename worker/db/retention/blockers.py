"""Work that still needs the grants of old chunks."""

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, func, literal_column, select

from models import Batch, Chunk, Delivery, EndedSlot, Manifest, MultipartUpload, Reservation
from worker.db.reservations import REMAINING

_IS_REMAINING = Reservation.chunk_number == REMAINING


class Blocker(NamedTuple):
    """Unfinished work: its number, the id of its first batch, and what it is and what ends it."""

    number: int
    batch_id: str
    what: str
    hint: str


def find_blockers(connection: Connection, before: datetime, now: datetime) -> list[Blocker]:
    """Find the unfinished work that needs grants of chunks issued before a moment."""
    is_old_batch = Batch.decided_at < before
    is_live = Reservation.expires_at > now
    queries: tuple[tuple[Any, str, str], ...] = (
        (
            _count(Reservation, _is_old_chunk(Reservation, before)).where(is_live),
            "chunks with grants that are still valid",
            "wait until they expire",
        ),
        (
            _count(Reservation, is_old_batch).where(is_live, _IS_REMAINING),
            "open batches",
            "wait until they close, or cancel them",
        ),
        (
            _count(Delivery, _is_old_chunk(Delivery, before)).where(
                Delivery.state == literal_column("'pending'")
            ),
            "pending webhooks",
            "python -m worker deliveries list --state pending",
        ),
        (
            _count(Manifest, is_old_batch).where(Manifest.state == literal_column("'pending'")),
            "pending manifests",
            "python -m worker deliveries manifests --state pending",
        ),
        (
            _count(MultipartUpload, is_old_batch).where(MultipartUpload.state == "open"),
            "open multipart uploads",
            "the upkeep worker aborts them when they have expired",
        ),
        (
            _count(EndedSlot, _is_old_chunk(EndedSlot, before)),
            "chunks of upload slots that are not settled",
            "the upkeep worker settles them when storage has told what they stored",
        ),
    )
    rows = [(connection.execute(query).one(), what, hint) for query, what, hint in queries]
    return [Blocker(row[0], row[1], what, hint) for row, what, hint in rows if row[0]]


def _count(table: Any, is_old: ColumnElement[bool]) -> Any:
    query = select(func.count(), func.min(Batch.batch_id)).select_from(table)
    return query.join(Batch, Batch.batch_number == table.batch_number).where(is_old)


def _is_old_chunk(table: Any, before: datetime) -> ColumnElement[bool]:
    is_chunk = and_(
        Chunk.batch_number == table.batch_number, Chunk.chunk_number == table.chunk_number
    )
    return select(Chunk.batch_number).where(is_chunk, Chunk.issued_at < before).exists()
