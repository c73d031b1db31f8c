"""The audit log as a Python API, for scripts on the service's host.

with AuditLog("postgresql://…") as log:
for grant in log.grants(tenant="acme", decisions=("refused",)):
print(grant.time, grant.key, grant.decision)
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, tzinfo
from typing import Unpack

from sqlalchemy import Connection

from worker import clock
from worker.audit.audit_rows import GrantRecord, read_bound, stream_blocks, to_records
from worker.audit.grant_filters import GrantFilter, resolve_names
from worker.audit.grant_story import Story, UnknownGrant, find_story
from worker.audit.item_counts import (
    CountOptions,
    Dimension,
    ItemCount,
    SortOrder,
    count_items,
    top_items,
)
from worker.base.database_engine import (
    autocommit_read,
    create_database_engine,
    read_transaction,
    sqlite_path,
)
from worker.rules.annotations import TextValues
from worker.shared.tenant_history import UnknownName
from worker.whose.link_lookup import JudgedGrant, find_pasted
from worker.whose.link_verdicts import read_pasted_grant

__all__ = [
    "AuditLog",
    "Dimension",
    "Filters",
    "GrantRecord",
    "ItemCount",
    "JudgedGrant",
    "SortOrder",
    "Story",
    "UnknownGrant",
    "UnknownName",
]


class Filters(TextValues, total=False):
    """Conditions that all have to match: those of `GrantFilter`, and of `audit list`.

    buckets can also be real buckets. states are those at the time of the call. since and until have
    a time zone.
    """

    tenant: str
    buckets: tuple[str, ...]
    object_key: str
    prefix: str
    key_glob: str
    requester: str
    kind: str
    batch_id: str
    signed_by: str
    decisions: tuple[str, ...]
    states: tuple[str, ...]
    since: datetime
    until: datetime


class AuditLog(AbstractContextManager["AuditLog"]):
    """The audit log of grants in a database, opened for reading.

    database_url is a SQLAlchemy URL, as in VALETKEY_DATABASE_URL. Raises FileNotFoundError if it is
    a SQLite file that does not exist. Methods raise UnknownName for a tenant, bucket, kind, key,
    state or code that does not exist, and Transient if the database is out of reach or has no
    tables.
    """

    def __init__(self, database_url: str) -> None:
        path = sqlite_path(database_url)
        if path is not None and not path.exists():
            raise FileNotFoundError(f"there is no database at {path}")
        self._engine = create_database_engine(database_url)

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def grants(self, **filters: Unpack[Filters]) -> Iterator[GrantRecord]:
        """Yield every requested item that matches, oldest batch first.

        Items that arrive after the first one was read are left out.
        """
        with autocommit_read(self._engine) as connection:
            grant_filter = _make_filter(connection, filters)
            bound = read_bound(connection, clock.now())
            for block in stream_blocks(connection, grant_filter, bound):
                yield from to_records(block)

    def whose(self, text: str) -> list[JudgedGrant]:
        """Return the grants that a link, form, object's metadata or grant id names, with verdicts.

        The list is empty if the log has no such grant. Raises ValueError for any other text.
        """
        readings = read_pasted_grant(text)
        with read_transaction(self._engine) as connection:
            return find_pasted(connection, readings)

    def show(self, grant: str) -> Story:
        """Return everything that is known about a grant, or about a batch.

        grant is the id of a grant, BATCH.NUMBER, or of a batch; TENANT/ before it chooses between
        tenants that used the same id. The story of a batch has None as its grant. Raises
        UnknownGrant.
        """
        with read_transaction(self._engine) as connection:
            return find_story(connection, grant, clock.now())

    def count(
        self,
        by: tuple[Dimension, ...] = (),
        *,
        zone: tzinfo = UTC,
        exact_bytes: bool = False,
        **filters: Unpack[Filters],
    ) -> list[ItemCount]:
        """Count issued and refused items by columns and periods of a time zone, in their order.

        The column `state` is that of an issued grant now, and None for a refused item.
        Raises TooManyGroups beyond a million groups.
        """
        options = CountOptions(by, zone, exact_bytes)
        with read_transaction(self._engine) as connection:
            return count_items(connection, _make_filter(connection, filters), options)

    def top(
        self,
        dimension: Dimension,
        limit: int = 10,
        sort: SortOrder = "total",
        **filters: Unpack[Filters],
    ) -> list[ItemCount]:
        """Return the largest counts by one column, largest first."""
        with read_transaction(self._engine) as connection:
            grant_filter = _make_filter(connection, filters)
            return top_items(connection, grant_filter, dimension, limit, sort)


def _make_filter(connection: Connection, filters: Filters) -> GrantFilter:
    for moment in (filters.get("since"), filters.get("until")):
        if moment is not None and moment.tzinfo is None:
            raise ValueError("since and until need a time zone")
    return resolve_names(connection, GrantFilter(**filters, states_at=clock.now()))
