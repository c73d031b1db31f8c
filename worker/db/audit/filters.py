"""The filters that all queries of the audit log of grants share, and their SQL conditions.

A query joins `Chunk`, `Batch` and, for conditions on single items, `Grant`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, UnaryExpression, and_, or_, select
from sqlalchemy.sql.operators import custom_op

from models import Batch, Chunk, Grant
from worker.core.links.grant_name import GrantName
from worker.db.audit.selection.key_globs import has_prefix, matches_glob
from worker.db.audit.selection.states import has_state, may_have_state
from worker.db.audit.selection.tenant_filter import is_of_tenant

_PLUS = custom_op[Any]("+")
ISSUED = "issued"
REFUSED = "refused"
"""The decision of every item that has a refusal code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantFilter:
    """Conditions that all have to match; None and an empty tuple match everything.

    tenant is an id, or a name, which selects all tenants that had it. buckets are names of bucket
    profiles, of which one has to match. key_glob is a pattern as in key_globs. signed_by is the
    name of a tenant's key; an empty string selects unsigned requests. decisions are `issued`,
    `refused` or refusal codes, of which one has to match. states are those of issued grants at the
    moment states_at, of which one has to match. since is included in the range, until is not.
    """

    tenant: str | None = None
    buckets: tuple[str, ...] = ()
    object_key: str | None = None
    prefix: str | None = None
    key_glob: str | None = None
    requester: str | None = None
    recipient: str | None = None
    signed_by: str | None = None
    decisions: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    states_at: datetime | None = None
    kind: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    batch_id: str | None = None
    grant: GrantName | None = None

    @property
    def selects_items(self) -> bool:
        """True if there are conditions on single items, besides those on batches and chunks."""
        values = (self.object_key, self.prefix, self.key_glob, self.grant)
        return bool(self.decisions or self.states) or any(value is not None for value in values)


def batch_conditions(
    connection: Connection, grant_filter: GrantFilter
) -> Iterator[ColumnElement[bool]]:
    """Yield the conditions on `Batch` and `Chunk`."""
    grant = grant_filter.grant
    values = {
        Batch.requested_by: grant_filter.requester,
        Batch.recipient: grant_filter.recipient,
        Batch.kind: grant_filter.kind,
        Batch.batch_id: grant_filter.batch_id,
    }
    yield from (column == value for column, value in values.items() if value is not None)
    if grant is not None:
        yield Batch.batch_id == grant.batch_id
    if grant_filter.buckets:
        yield Batch.bucket.in_(grant_filter.buckets)
    for tenant in (grant_filter.tenant, grant and grant.tenant):
        if tenant is not None:
            yield is_of_tenant(connection, Batch.tenant, tenant)
    if grant_filter.signed_by is not None:
        signed_by = grant_filter.signed_by
        yield Chunk.signing_key == signed_by if signed_by else Chunk.signing_key.is_(None)
    if grant_filter.since is not None:
        yield Chunk.issued_at >= grant_filter.since
    if grant_filter.until is not None:
        yield Chunk.issued_at < grant_filter.until
    if grant_filter.decisions:
        # Skips whole chunks, without reading their items.
        yield or_(*(_may_have(decision) for decision in grant_filter.decisions))


def scan_conditions(
    connection: Connection, grant_filter: GrantFilter
) -> Iterator[ColumnElement[bool]]:
    """Yield conditions on `Batch` and `Chunk` that only save time, for queries that read many."""
    if grant_filter.states:
        yield may_have_state(connection, grant_filter.states, moment_of_states(grant_filter))


def item_conditions(
    connection: Connection, grant_filter: GrantFilter
) -> Iterator[ColumnElement[bool]]:
    """Yield the conditions on `Grant`."""
    if grant_filter.grant is not None:
        yield Grant.item_number == grant_filter.grant.item_number
    if grant_filter.object_key is not None:
        yield Grant.object_key == grant_filter.object_key
    if grant_filter.prefix:
        yield has_prefix(connection, grant_filter.prefix)
    if grant_filter.key_glob is not None:
        yield matches_glob(connection, grant_filter.key_glob)
    if grant_filter.decisions:
        yield or_(*_decision_conditions(grant_filter.decisions))
    if grant_filter.states:
        moment = moment_of_states(grant_filter)
        yield has_state(connection, grant_filter.states, moment)


def moment_of_states(grant_filter: GrantFilter) -> datetime:
    """Return the moment of the states of a filter, which it must have."""
    if grant_filter.states_at is None:
        raise ValueError("a filter by state needs the moment of the states")
    return grant_filter.states_at


def join_items(connection: Connection, *columns: Any) -> Select[Any]:
    """Return a SELECT of columns from `Batch`, its `Chunk` rows and their `Grant` rows.

    SQLite knows too little of the tables to find out that batches are to be read first. There, the
    conditions of the joins can only be used in this order. PostgreSQL would infer that items have
    the batch of their `Batch`, too, and read all of that batch, to intersect them with the chunk's.
    """
    is_sqlite = connection.dialect.name == "sqlite"
    batch_number = _unindexed(Batch.batch_number) if is_sqlite else Batch.batch_number
    chunk_batch = _unindexed(Chunk.batch_number) if is_sqlite else Chunk.batch_number + 0
    return (
        select(*columns)
        .select_from(Batch)
        .join(Chunk, Chunk.batch_number == batch_number)
        .join(Grant, is_in_chunk(chunk_batch))
    )


def is_in_chunk(chunk_batch: Any = Chunk.batch_number) -> ColumnElement[bool]:
    """Return the condition that joins a chunk to its items."""
    first = Chunk.chunk_number * Batch.chunk_size
    return and_(
        Grant.batch_number == chunk_batch,
        Grant.item_number >= first,
        Grant.item_number < first + Batch.chunk_size,
    )


def _unindexed(column: Any) -> ColumnElement[int]:
    """Return a column as an expression that SQLite does not search by."""
    return UnaryExpression(column, operator=_PLUS)


def _may_have(decision: str) -> ColumnElement[bool]:
    return Chunk.issued > 0 if decision == ISSUED else Chunk.refused > 0


def _decision_conditions(decisions: tuple[str, ...]) -> Iterator[ColumnElement[bool]]:
    if ISSUED in decisions:
        yield Grant.code.is_(None)
    if REFUSED in decisions:
        yield Grant.code.is_not(None)
    codes = sorted(set(decisions) - {ISSUED, REFUSED})
    if codes:
        yield Grant.code.in_(codes)
