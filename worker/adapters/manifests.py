"""The files that are still to be written. A row's file is written by whoever holds its lease."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, Engine, and_, exists, func, insert, select, update

from models import Batch, Chunk, Hold, Manifest
from valetkey.messages import Message
from valetkey.states import ManifestState
from worker.adapters.database import reading, writing
from worker.adapters.holds import REST

# A lease is renewed while its file is written: it only runs out on a process that died.
LEASE = timedelta(seconds=60)

_INSERT = insert(Manifest)
# Of a batch of which more is to come, something is reserved for that.
_IS_OPEN = exists().where(Hold.batch == Manifest.batch, Hold.chunk == REST)


class Job(NamedTuple):
    """One file to write, taken until its lease runs out. attempts counts this one."""

    batch: int
    tenant: str
    bucket: str
    id: str
    key: str
    attempts: int
    lease: str


class Written(NamedTuple):
    """A file as it is stored: its lines by what they say, its size and its SHA-256 in hex."""

    issued: int
    refused: int
    bytes: int
    sha256: str


class Unwritten(NamedTuple):
    """Why a file is not stored, and when to try again if ever."""

    problem: str
    retry_at: datetime | None


def begin(connection: Connection, batch: int, message: Message, now: datetime) -> None:
    """Remember in the transaction that opens a batch that its answers are to be written."""
    row = {"batch": batch, "key": message.manifest, "state": "pending", "attempts": 0}
    counts = {"issued": 0, "refused": 0}
    connection.execute(_INSERT, {**row, **counts, "next_attempt_at": now, "created_at": now})


def state(connection: Connection, batch: int) -> ManifestState | None:
    """How far the file of the batch with that number has come; None where it is to have none."""
    found = connection.execute(select(Manifest).where(Manifest.batch == batch)).one_or_none()
    if found is None:
        return None
    return ManifestState.model_validate({name: getattr(found, name) for name in _TOLD})


_TOLD = tuple(ManifestState.model_fields)


class Manifests:
    """The files to write; each method is one transaction."""

    def __init__(self, engine: Engine, new_lease: Callable[[], str]) -> None:
        self._engine = engine
        self._new_lease = new_lease

    def take(self, now: datetime) -> Job | None:
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
            .values(lease=lease, next_attempt_at=now + LEASE, attempts=Manifest.attempts + 1)
            .returning(Manifest.batch, Manifest.key, Manifest.attempts)
        )
        with writing(self._engine) as connection:
            row = connection.execute(taken).one_or_none()
            if row is None:
                return None
            number, key, attempts = row
            of = select(Batch.tenant, Batch.bucket, Batch.id).where(Batch.number == number)
            batch = connection.execute(of).one()
        return Job(number, *batch, key, attempts, lease)

    def next_chunk(self, batch: int, after: int) -> int | None:
        """The number of the next chunk that was decided, behind this one."""
        query = select(func.min(Chunk.number)).where(Chunk.batch == batch, Chunk.number > after)
        with reading(self._engine) as connection:
            return connection.scalar(query)

    def renew(self, job: Job, now: datetime) -> bool:
        """Hold a file for longer; False where the lease had run out and passed on."""
        longer = update(Manifest).where(_is_held(job)).values(next_attempt_at=now + LEASE)
        with writing(self._engine) as connection:
            return connection.execute(longer).rowcount == 1

    def settle(self, job: Job, result: Written | Unwritten, now: datetime) -> bool:
        """Write what an attempt came to; False where the lease had run out and passed on."""
        if isinstance(result, Written):
            said = {"state": "written", "problem": None, "finished_at": now, **result._asdict()}
        elif result.retry_at is None:
            said = {"state": "failed", "problem": result.problem, "finished_at": now}
        else:
            said = {"problem": result.problem, "next_attempt_at": result.retry_at}
        done = update(Manifest).where(_is_held(job)).values(lease=None, **said)
        with writing(self._engine) as connection:
            return connection.execute(done).rowcount == 1


def _is_held(job: Job) -> ColumnElement[bool]:
    return and_(Manifest.batch == job.batch, Manifest.lease == job.lease)
