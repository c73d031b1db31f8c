"""What was decided and charged before a message came: read, and nothing of it changed."""

from datetime import datetime

from sqlalchemy import Connection, Engine, and_, bindparam, select

from models import Batch, Cancellation, Chunk, Hold
from valetkey.messages import Message
from valetkey.refusals import Refusal
from worker.adapters import usage
from worker.adapters.database import reading
from worker.adapters.holds import REST
from worker.core.earlier import CLOSED, CONFLICT, Earlier, of_header, of_items
from worker.core.quotas import Used

_FIND = (
    select(
        Batch.fingerprint,
        Batch.refusal,
        Batch.decided_at,
        Chunk.fingerprint.label("content"),
        Chunk.issued_at,
        Chunk.refusal.label("of_chunk"),
        Hold.items.label("rest"),
    )
    .outerjoin(Chunk, and_(Chunk.batch == Batch.number, Chunk.number == bindparam("chunk")))
    .outerjoin(Hold, and_(Hold.batch == Batch.number, Hold.chunk == REST))
    .where(Batch.tenant == bindparam("tenant"), Batch.id == bindparam("id"))
)
_CANCELLED = select(Cancellation.batch).where(
    Cancellation.tenant == bindparam("tenant"), Cancellation.batch == bindparam("id")
)


class Past:
    """The past; each method is one transaction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def earlier(self, message: Message) -> Earlier:
        """Find what was decided under the message's batch id."""
        with reading(self._engine) as connection:
            return _earlier(connection, message)

    def earlier_and_used(self, message: Message, now: datetime) -> tuple[Earlier, Used]:
        """Find that, and what stands charged to the tenant at this moment."""
        with reading(self._engine) as connection:
            return _earlier(connection, message), usage.used(connection, message.tenant, now)


def _earlier(connection: Connection, message: Message) -> Earlier:
    one = {"tenant": message.tenant, "id": message.batch}
    row = connection.execute(_FIND, one | {"chunk": message.chunk}).one_or_none()
    if row is None:
        is_cancelled = connection.execute(_CANCELLED, one).first() is not None
        return Earlier(refusal=CLOSED if is_cancelled else None)
    if row.fingerprint != of_header(message) or row.content not in {None, of_items(message)}:
        return Earlier(row.decided_at, refusal=CONFLICT)
    if row.content is not None:
        return Earlier(row.decided_at, row.issued_at, _refusal(row.of_chunk))
    refusal = _refusal(row.refusal) or (CLOSED if row.rest is None else None)
    return Earlier(row.decided_at, refusal=refusal)


def _refusal(stored: object) -> Refusal | None:
    return None if stored is None else Refusal.model_validate(stored)
