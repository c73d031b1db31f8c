"""The audit log as it is read: newest first, never more than a page."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, func, select, tuple_

from models import Batch, Chunk, Grant
from valetkey.messages import grant_id


class Place(NamedTuple):
    """Where a grant stands: its batch and its number there, which together are its id."""

    batch: str
    item: int

    def __str__(self) -> str:
        return grant_id(self.batch, self.item)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which rows to read; what is None is not asked. since is the first moment, until is past it."""

    tenant: str | None = None
    bucket: str | None = None
    key: str | None = None
    prefix: str | None = None
    requester: str | None = None
    decision: Literal["issued", "refused"] | None = None
    since: datetime | None = None
    until: datetime | None = None
    batch: str | None = None
    grant: Place | None = None


class Entry(NamedTuple):
    """One item that was asked for; decision is "issued", or the refusal's code."""

    time: datetime
    tenant: str
    requested_by: str
    reason: str | None
    bucket: str
    kind: str
    key: str
    decision: str
    expires_at: datetime | None
    grant: str


class Count(NamedTuple):
    """How many items of a kind a tenant was issued and refused."""

    tenant: str
    kind: str
    issued: int
    refused: int


class UnknownPlace(LookupError):
    """There is no such batch in the audit log."""


def entries(connection: Connection, wanted: Wanted, limit: int, after: Place | None) -> list[Entry]:
    """Read a page, beginning behind one place. Raises UnknownPlace where that is in no batch."""
    # Chunk by chunk in the order of the primary keys: what does not match is passed over by the
    # chunk, and a page costs the same at the end of the log as at its beginning.
    query = (
        select(
            *(Chunk.issued_at, Batch.tenant, Batch.requested_by, Batch.reason, Batch.bucket),
            *(Batch.kind, Grant.key, Grant.code, Chunk.expires_in, Batch.id, Grant.number),
        )
        .select_from(Chunk)
        .join(Batch, Batch.number == Chunk.batch)
        .join(Grant, _in_chunk())
        .where(*_matching(wanted))
        .order_by(Chunk.batch.desc(), Chunk.number.desc(), Grant.number.desc())
        .limit(limit)
    )
    if after is not None:
        query = query.where(*_behind(connection, after))
    return [_entry(*row) for row in connection.execute(query)]


def counts(connection: Connection, wanted: Wanted) -> list[Count]:
    """Count by tenant and kind, from the chunks: single items are not read, so not filtered."""
    query = (
        select(Batch.tenant, Batch.kind, func.sum(Chunk.issued), func.sum(Chunk.refused))
        .join(Chunk, Chunk.batch == Batch.number)
        .where(*_of_chunks(wanted))
        .group_by(Batch.tenant, Batch.kind)
        .order_by(Batch.tenant, Batch.kind)
    )
    return [Count(*row) for row in connection.execute(query)]
