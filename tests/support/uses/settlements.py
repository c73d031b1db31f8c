"""Settlements that no upkeep worker made."""

from datetime import datetime

from sqlalchemy import Engine, insert, select

from models import Batch, Settlement
from worker.base.database_engine import write_transaction
from worker.ledger.merkle import encode_record, entry_hash
from worker.ledger.tree_leaves import NewLeaf, append_leaf


def settle(
    engine: Engine,
    batch_number: int,
    chunk_number: int,
    now: datetime,
    unused: str = "0",
    returned: int = 0,
) -> None:
    """Record that some items of a chunk were not used, with a leaf. No usage is changed."""
    with write_transaction(engine) as connection:
        query = select(Batch.tenant, Batch.batch_id).where(Batch.batch_number == batch_number)
        tenant, batch_id = connection.execute(query).one()
        values = {"batch_number": batch_number, "chunk_number": chunk_number, "tenant": tenant}
        values |= {"unused": unused, "used_bytes": 0, "returned_bytes": returned, "settled_at": now}
        connection.execute(insert(Settlement), values)
        entry = entry_hash([encode_record("settlement", values, batch_id=batch_id)])
        append_leaf(connection, tenant, NewLeaf("settlement", entry, batch_number, chunk_number))
