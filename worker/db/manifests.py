"""The files that are still to be written. A row's file is written by whoever holds its lease."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, Engine, and_, exists, func, insert, select, update

from models import Batch, Chunk, Manifest, Reservation
from valetkey.wire.messages import ChunkMessage
from valetkey.wire.states import ManifestState
from worker.db.engine import read_transaction, write_transaction
from worker.db.reservations import REMAINING

# A lease is renewed while its file is written: it only runs out on a process that died.
LEASE_TIME = timedelta(seconds=60)

_INSERT = insert(Manifest)
# Of a batch of which more is to come, something is reserved for that.
_IS_OPEN = exists().where(Reservation.batch == Manifest.batch, Reservation.chunk == REMAINING)


class ManifestLease(NamedTuple):
    """One file to write, taken until its lease runs out. attempts counts this one."""

    batch: int
    tenant: str
    bucket: str
    id: str
    key: str
    attempts: int
    lease: str


class ManifestWritten(NamedTuple):
    """A file as it is stored: its lines by what they say, its size and its SHA-256 in hex."""

    issued: int
    refused: int
    bytes: int
    sha256: str


class ManifestNotWritten(NamedTuple):
    """Why a file is not stored, and when to try again if ever."""

    problem: str
    retry_at: datetime | None


def insert_manifest(
    connection: Connection, batch: int, message: ChunkMessage, now: datetime
) -> None:
    """Remember in the transaction that opens a batch that its answers are to be written."""
    row = {"batch": batch, "key": message.manifest, "state": "pending", "attempts": 0}
    counts = {"issued": 0, "refused": 0}
    connection.execute(_INSERT, {**row, **counts, "next_attempt_at": now, "created_at": now})


def read_manifest_state(connection: Connection, batch: int) -> ManifestState | None:
    """How far the file of the batch with that number has come; None where it is to have none."""
    found = connection.execute(select(Manifest).where(Manifest.batch == batch)).one_or_none()
    if found is None:
        return None
    return ManifestState.model_validate({name: getattr(found, name) for name in _TOLD})


_TOLD = tuple(ManifestState.model_fields)


class ManifestQueue:
    """The files to write; each method is one transaction."""

    def __init__(self, engine: Engine, new_lease: Callable[[], str]) -> None:
        self._engine = engine
        self._new_lease = new_lease

    def take(self, now: datetime) -> ManifestLease | None:
        """Take the file that has been due longest, of a batch of which no more is to come."""
        due = (
            select(Manifest.batch)
            .where(Manifest.state == "pending", Manifest.next_attempt_at <= now, ~_IS_OPEN)
            .order_by(Manifest.next_attempt_at)
            .limit(1)
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )
        lease = self._new_lease()
        taken = (
            update(Manifest)
            .where(Manifest.batch == due)
            .values(lease=lease, next_attempt_at=now + LEASE_TIME, attempts=Manifest.attempts + 1)
            .returning(Manifest.batch, Manifest.key, Manifest.attempts)
        )
        with write_transaction(self._engine) as connection:
            row = connection.execute(taken).one_or_none()
            if row is None:
                return None
            number, key, attempts = row
            of = select(Batch.tenant, Batch.bucket, Batch.id).where(Batch.number == number)
            batch = connection.execute(of).one()
        return ManifestLease(number, *batch, key, attempts, lease)

    def next_chunk(self, batch: int, after: int) -> int | None:
        """The number of the next chunk that was decided, behind this one."""
        query = select(func.min(Chunk.number)).where(Chunk.batch == batch, Chunk.number > after)
        with read_transaction(self._engine) as connection:
            return connection.scalar(query)

    def renew(self, job: ManifestLease, now: datetime) -> bool:
        """Hold a file for longer; False where the lease had run out and passed on."""
        longer = update(Manifest).where(_is_held(job)).values(next_attempt_at=now + LEASE_TIME)
        with write_transaction(self._engine) as connection:
            return connection.execute(longer).rowcount == 1

    def settle(
        self, job: ManifestLease, result: ManifestWritten | ManifestNotWritten, now: datetime
    ) -> bool:
        """Write what an attempt came to; False where the lease had run out and passed on."""
        if isinstance(result, ManifestWritten):
            said = {"state": "written", "problem": None, "finished_at": now, **result._asdict()}
        elif result.retry_at is None:
            said = {"state": "failed", "problem": result.problem, "finished_at": now}
        else:
            said = {"problem": result.problem, "next_attempt_at": result.retry_at}
        done = update(Manifest).where(_is_held(job)).values(lease=None, **said)
        with write_transaction(self._engine) as connection:
            return connection.execute(done).rowcount == 1


def _is_held(job: ManifestLease) -> ColumnElement[bool]:
    return and_(Manifest.batch == job.batch, Manifest.lease == job.lease)
