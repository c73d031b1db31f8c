"""What was decided, one method per intent and transaction. Rows never leave this folder."""

from contextlib import suppress
from datetime import datetime

from pydantic import TypeAdapter
from sqlalchemy import Connection, Engine, select
from sqlalchemy.exc import IntegrityError

from models import Batch, Chunk, Grant, Reissue
from valetkey.wire.messages import Cancelled, CancelMessage
from valetkey.wire.refusals import QuotaState, Refusal
from valetkey.wire.terms import AnyTerms
from worker.core.policy.decisions import (
    ChunkDecision,
    ChunkRequest,
    GrantRow,
    RecordedChunk,
    Validity,
    fingerprint,
)
from worker.core.tenants.config import Tenant, TenantConfig
from worker.db import reservations, tenants, usage
from worker.db.batch_rows import ChunkWrite
from worker.db.batches import AlreadyRecorded, ConcurrentChange, current_quotas, record_chunk
from worker.db.bulk_insert import insert_once
from worker.db.cancellations import cancel_batch
from worker.db.engine import autocommit_read, read_transaction, write_transaction
from worker.db.multiparts import uploads_of_chunk

AT_ONCE = 1_000  # rows in one transaction: others wait to write for no longer than that takes
_OVERTAKEN = 2  # times at most: its batch ends in this moment, and then this very chunk is written
_terms: TypeAdapter[AnyTerms] = TypeAdapter(AnyTerms)


class Ledger:
    """The tables as the verbs see them. Make one in each process, after the fork."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._declared: tuple[int, TenantConfig] = (-1, TenantConfig())

    def declared(self) -> TenantConfig:
        """What is declared now. It is read again only when something was applied since."""
        with autocommit_read(self._engine) as connection:
            revision = tenants.read_revision(connection)
        if revision != self._declared[0]:
            self._declared = self._read()
        return self._declared[1]

    def _read(self) -> tuple[int, TenantConfig]:
        with read_transaction(self._engine) as connection:
            # PostgreSQL shows each of the load's queries what is committed by then: where something
            # was applied in between, the number is another one behind it, and all is read again.
            while True:
                revision = tenants.read_revision(connection)
                declared = tenants.load_config(connection)
                if tenants.read_revision(connection) == revision:
                    return revision, declared

    def record(
        self, asked: ChunkRequest, decided: ChunkDecision, now: datetime
    ) -> ChunkDecision | AlreadyRecorded | Refusal:
        """Commit a chunk's decision once: its rows, what they cost, what is to be delivered.

        The first chunk to arrive opens the batch, and charges for all of it or refuses all of it.
        Returns what was committed; Seen where it had been before; or the refusal of a message that
        contradicts what was committed under its batch id.
        """
        entry = ChunkWrite.of(asked, decided, now)
        for _ in range(_OVERTAKEN):
            with (
                suppress(ConcurrentChange, IntegrityError),
                write_transaction(self._engine) as connection,
            ):
                return record_chunk(connection, entry)
        with write_transaction(self._engine) as connection:
            return record_chunk(connection, entry)

    def standing(self, tenant: Tenant, now: datetime) -> list[QuotaState]:
        """How a tenant's quotas stand."""
        with autocommit_read(self._engine) as connection:
            return current_quotas(connection, tenant, now)

    def cancel(self, message: CancelMessage, key: str | None, now: datetime) -> Cancelled:
        """Commit that a batch is cancelled, and release what its chunks to come had reserved."""
        with write_transaction(self._engine) as connection:
            return cancel_batch(connection, message, key, now)

    def release_lapsed(self, now: datetime) -> int:
        """Release what lapsed grants and abandoned batches held; return how many rows that was."""
        released, lapsed = 0, AT_ONCE
        while lapsed == AT_ONCE:
            with write_transaction(self._engine) as connection:
                lapsed = reservations.release_expired(connection, now, AT_ONCE)
            released += lapsed
        with write_transaction(self._engine) as connection:
            usage.delete_expired(connection, now)
        return released

    def recorded(self, batch: int, chunk: int) -> RecordedChunk:
        """Read back one committed chunk of the batch with that number."""
        with read_transaction(self._engine) as connection:
            return _recorded(connection, batch, chunk)

    def reissued(self, recorded: RecordedChunk, decided: ChunkDecision, now: datetime) -> None:
        """Commit that a chunk's grants came out other than recorded, before anyone sees them."""
        values = {
            "batch": recorded.batch_number,
            "chunk": recorded.chunk,
            "fingerprint": fingerprint(decided.digests.hex()),
            "access_key": decided.access_key,
            "at": now,
            "digests": decided.digests,
        }
        with write_transaction(self._engine) as connection:
            insert_once(connection, Reissue, values)


def _recorded(connection: Connection, batch: int, chunk: int) -> RecordedChunk:
    header = connection.execute(
        select(Batch.id, Batch.tenant, Batch.terms, Batch.chunk_size, Chunk)
        .join(Chunk, Chunk.batch == Batch.number)
        .where(Batch.number == batch, Chunk.number == chunk)
    ).one()
    first = chunk * header.chunk_size
    rows = connection.execute(
        select(Grant.number, Grant.key, Grant.code, Grant.detail, Grant.digest)
        .where(Grant.batch == batch, Grant.number >= first)
        .where(Grant.number < first + header.chunk_size)
        .order_by(Grant.number)
    )
    return RecordedChunk(
        batch_number=batch,
        batch=header.id,
        chunk=chunk,
        tenant=header.tenant,
        terms=_terms.validate_python(header.terms),
        rows=[GrantRow(*row) for row in rows],
        life=Validity(header.issued_at, header.expires_in, header.limited_by),
        access_key=header.access_key,
        refusal=None if header.refusal is None else Refusal.model_validate(header.refusal),
        begun=uploads_of_chunk(connection, batch, range(first, first + header.chunk_size)),
    )
