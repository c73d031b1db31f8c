"""The Merkle trees over the audit log: one a tenant, and one for the changes of the config.

Prunes remove the grants of old months, and keep what the trees need of them.
"""

from datetime import datetime

from sqlalchemy import BigInteger, Index, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import NUMBER, AppendOnly, Base
from models.tenants import TENANT_ID


class Leaf(AppendOnly):
    """One leaf of a tenant's tree: the hash over audit rows that one transaction added.

    leaf_number counts from 0 without gaps, in the order of the commits. kind is batch, chunk,
    reissue, cancellation, config, prune, use, settlement, revocation, erasure or fork.
    batch_number, chunk_number and reference identify the rows: reference is the fingerprint of a
    reissue, the id of a cancelled batch, the first and last number of changes of the config, the
    group of uses, or the id of a revocation or an erasure. That of a fork is its record. There is
    no foreign key: rows can be removed when they are too old, and leaves stay.
    """

    __tablename__ = "leaves"
    __table_args__ = (
        Index(None, "batch_number", "chunk_number"),
        {"sqlite_with_rowid": False},
    )

    tenant: Mapped[str] = mapped_column(TENANT_ID, primary_key=True)
    leaf_number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(16))
    batch_number: Mapped[int | None] = mapped_column(NUMBER)
    chunk_number: Mapped[int | None]
    reference: Mapped[str | None] = mapped_column(Text)
    hash: Mapped[bytes] = mapped_column(LargeBinary(32))


class TreeHead(Base):
    """The size of a tenant's tree, and its right edge, from which the next leaf continues.

    edge concatenates the hashes of the complete subtrees, the largest first: as many as size has
    bits that are 1.
    """

    __tablename__ = "tree_heads"

    tenant: Mapped[str] = mapped_column(TENANT_ID, primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    edge: Mapped[bytes] = mapped_column(LargeBinary)


class Checkpoint(AppendOnly):
    """The signed head of a tenant's tree at one size. Rows are added and never changed.

    note is a signed note (C2SP signed-note) with the text of a checkpoint (C2SP tlog-checkpoint).
    edge is the right edge of the tree at that size, from which the next checkpoint is computed. It
    needs no trust, because root follows from it.
    """

    __tablename__ = "checkpoints"

    tenant: Mapped[str] = mapped_column(TENANT_ID, primary_key=True)
    size: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=False)
    root: Mapped[bytes] = mapped_column(LargeBinary(32))
    signed_at: Mapped[datetime]
    note: Mapped[str] = mapped_column(Text)
    edge: Mapped[bytes | None] = mapped_column(LargeBinary)


class CheckpointPublication(Base):
    """The last attempt to publish a tenant's checkpoints to one destination.

    destination is a digest, because the URL of a webhook may contain a secret, and label the name
    for people. size is that of the newest checkpoint that the destination has, 0 if it has none.
    problem is NULL after a success. An empty destination is the signing itself.
    """

    __tablename__ = "checkpoint_publications"

    destination: Mapped[str] = mapped_column(String(32), primary_key=True)
    tenant: Mapped[str] = mapped_column(TENANT_ID, primary_key=True)
    label: Mapped[str] = mapped_column(Text)
    size: Mapped[int] = mapped_column(BigInteger)
    problem: Mapped[str | None] = mapped_column(Text)
    attempted_at: Mapped[datetime]


class Prune(AppendOnly):
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


class ItemEdge(AppendOnly):
    """The right edge of the tree of a chunk's items, stored before the items are removed.

    With it the rows of the chunk and its batch still give the hash of their leaf. It needs no leaf
    of its own: another edge gives another hash.
    """

    __tablename__ = "item_edges"
    __table_args__ = ({"sqlite_with_rowid": False},)

    batch_number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=False)
    chunk_number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    edge: Mapped[bytes] = mapped_column(LargeBinary)
