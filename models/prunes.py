"""Removals of the grants of old months, and what is kept of them."""

from datetime import datetime

from sqlalchemy import BigInteger, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from models.base import NUMBER, Base
from models.tenants import TENANT_ID


class Prune(Base):
    """The removal of a tenant's grants of all chunks that were issued before a month.

    before is the first month that was kept, such as 2026-01. chunks and items count what this prune
    removed. edges counts the rows that it left in `item_edges`, one a chunk. use_groups counts the
    groups of uses that were recorded before that month. A leaf of the tenant's tree whose reference
    is prune_number covers the row.
    """

    __tablename__ = "prunes"

    prune_number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=True)
    tenant: Mapped[str] = mapped_column(TENANT_ID)
    before: Mapped[str] = mapped_column(String(7))
    pruned_by: Mapped[str] = mapped_column(String(200))
    pruned_at: Mapped[datetime]
    chunks: Mapped[int] = mapped_column(BigInteger)
    items: Mapped[int] = mapped_column(BigInteger)
    use_groups: Mapped[int] = mapped_column(BigInteger)
    edges: Mapped[int] = mapped_column(BigInteger)


class ItemEdge(Base):
    """The right edge of the tree of a chunk's items, stored before the items are removed.

    With it the rows of the chunk and its batch still give the hash of their leaf. It needs no leaf
    of its own: another edge gives another hash.
    """

    __tablename__ = "item_edges"
    __table_args__ = ({"sqlite_with_rowid": False},)

    batch_number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=False)
    chunk_number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    edge: Mapped[bytes] = mapped_column(LargeBinary)
