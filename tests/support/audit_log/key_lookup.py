"""Rows of the audit log for the key lookup, its job in small steps, and a plain scan."""

import pytest
from sqlalchemy import Engine, func, insert, select, text, tuple_

from models import Chunk, Grant, KeySegment
from tests.support.builders.audit_rows import AuditedBatch
from worker.audit import key_lookup
from worker.audit.key_lookup import Position, find_positions
from worker.base.database_engine import read_transaction, write_transaction

KEYS = [f"acme/{name}" for name in ("a.pdf", "b.pdf", "c/ü.png", "d", "e", "f")]
ABSENT = "acme/absent.pdf"


class Killed(BaseException):
    """The process ends here."""


def make_segments_small(patch: pytest.MonkeyPatch) -> None:
    """Let a few rows fill several pages, and a few segments be merged."""
    patch.setattr(key_lookup, "MIN_CHUNKS", 2)
    patch.setattr(key_lookup, "MAX_CHUNKS", 3)
    patch.setattr(key_lookup, "MERGED_SEGMENTS", 2)
    patch.setattr(key_lookup, "_MAX_PAGE_ENTRIES", 2)


def scan(engine: Engine, object_key: str, before: Position | None = None) -> list[Position]:
    """Return the positions of an object key, newest first."""
    query = select(Grant.batch_number, Grant.item_number).where(Grant.object_key == object_key)
    if before is not None:
        query = query.where(tuple_(Grant.batch_number, Grant.item_number) < tuple_(*before))
    with read_transaction(engine) as connection:
        return sorted((Position(*row) for row in connection.execute(query)), reverse=True)


def look_up(engine: Engine, object_key: str, before: Position | None = None) -> list[Position]:
    """Return the positions that a search finds and whose key is the one searched for."""
    with read_transaction(engine) as connection:
        found = list(find_positions(connection, object_key, before))
        key_of = {
            Position(*position): key
            for *position, key in connection.execute(
                select(Grant.batch_number, Grant.item_number, Grant.object_key)
            )
        }
    assert found == sorted(set(found), reverse=True)
    return [position for position in found if key_of[position] == object_key]


def write_batch(engine: Engine, number: int, keys: list[str], chunk_size: int = 2) -> None:
    """Commit a batch with all of its chunks."""
    with write_transaction(engine) as connection:
        AuditedBatch(number, keys, chunk_size=chunk_size).write(connection)


def count_segments(engine: Engine) -> int:
    """Return the number of segments."""
    with read_transaction(engine) as connection:
        return connection.scalar(select(func.count()).select_from(KeySegment)) or 0


def add_chunk(engine: Engine, batch: int, chunk: int, key: str) -> None:
    """Commit a later chunk of a batch, with one item."""
    with write_transaction(engine) as connection:
        template = connection.execute(
            select(Chunk.__table__).where(Chunk.batch_number == batch, Chunk.chunk_number == 0)
        ).one()
        connection.execute(insert(Chunk), template._asdict() | {"chunk_number": chunk})
        size = connection.scalar(
            text("SELECT chunk_size FROM batches WHERE batch_number = :batch"), {"batch": batch}
        )
        item = {"batch_number": batch, "item_number": chunk * size, "object_key": key}
        connection.execute(insert(Grant), item)


def kill_after(patch: pytest.MonkeyPatch, transactions: int) -> None:
    """Let the job end at the start of its next transaction that writes, after so many."""
    left = iter(range(transactions))

    def begin(engine: Engine) -> object:
        if next(left, None) is None:
            raise Killed
        return write_transaction(engine)

    patch.setattr(key_lookup, "write_transaction", begin)
