"""Writes the segments of the key lookup that merging would end with, from keys in memory.

The upkeep worker's job would read all rows again, and merge them.
"""

from sqlalchemy import Connection, delete, tuple_

from bench.audit.data import GeneratedBatch, GeneratedChunk
from models import UnindexedChunk
from worker.audit.key_lookup import MAX_MERGED_ENTRIES, make_entry, write_segment


class KeyCollector:
    """Collects the keys of one segment, in the order of their chunks."""

    def __init__(self) -> None:
        self._chunks: list[tuple[int, int]] = []
        self._entries: list[bytes] = []

    @property
    def is_full(self) -> bool:
        """True if the segment is so large that it would not be merged with others."""
        return len(self._entries) > MAX_MERGED_ENTRIES

    def add(self, batch: GeneratedBatch, chunk: GeneratedChunk) -> None:
        """Add the keys of a chunk."""
        number = batch.values["batch_number"]
        self._chunks.append((number, chunk.values["chunk_number"]))
        self._entries += [make_entry(row.object_key, number, row.item_number) for row in chunk.rows]

    def write(self, connection: Connection) -> None:
        """Write the segment, if there are keys, and delete the marks of its chunks."""
        if not self._entries:
            return
        write_segment(connection, sorted(self._entries))
        key = tuple_(UnindexedChunk.batch_number, UnindexedChunk.chunk_number)
        connection.execute(delete(UnindexedChunk).where(key <= tuple_(*self._chunks[-1])))
