"""The key lookup: where object keys are in the audit log. Everything in it can be built again."""

from datetime import datetime

from sqlalchemy import ForeignKey, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from models.base import NUMBER, Base


class UnindexedChunk(Base):
    """A chunk whose object keys are in no segment yet.

    A trigger on `chunks` inserts the row, which saves the issuing transaction a statement.
    """

    __tablename__ = "unindexed_chunks"
    __table_args__ = ({"sqlite_with_rowid": False},)

    batch_number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=False)
    chunk_number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class KeySegment(Base):
    """A sorted list of the object keys of some chunks, divided into pages by their hash.

    The number of pages is 2 to the power of page_bits. oldest_batch and newest_batch are the
    numbers of the first and of the last batch in it. state is building, complete or obsolete.
    """

    __tablename__ = "key_segments"

    segment_number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=True)
    state: Mapped[str] = mapped_column(String(16))
    entries: Mapped[int]
    page_bits: Mapped[int]
    oldest_batch: Mapped[int] = mapped_column(NUMBER)
    newest_batch: Mapped[int] = mapped_column(NUMBER)
    changed_at: Mapped[datetime]


class KeyPage(Base):
    """The entries of a segment whose hashes begin with the bits of page_number.

    A page without entries has no row.
    """

    __tablename__ = "key_pages"

    segment_number: Mapped[int] = mapped_column(
        ForeignKey("key_segments.segment_number"), primary_key=True
    )
    page_number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    entries: Mapped[bytes] = mapped_column(LargeBinary)
