"""The audit log as a Python API, for scripts on the service's host.

with AuditLog("postgresql://…") as log:
for grant in log.grants(tenant="acme", decisions=("refused",)):
print(grant.time, grant.key, grant.decision)
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, tzinfo
from typing import TypedDict, Unpack

from worker import clock
from worker.audit.audit_rows import GrantRecord, read_bound, stream_blocks, to_records
from worker.audit.grant_filters import GrantFilter, resolve_names
from worker.audit.grant_story import BatchStory, GrantStory, UnknownGrant, find_story
from worker.audit.item_counts import (
    CountOptions,
    Dimension,
    ItemCount,
    SortOrder,
    count_items,
    top_items,
)
from worker.audit.link_lookup import JudgedGrant, find_pasted
from worker.audit.link_verdicts import read_pasted_grant
from worker.base.database_engine import (
    autocommit_read,
    create_database_engine,
    read_transaction,
    sqlite_path,
)
from worker.ledger.tenant_history import UnknownName

__all__ = [
    "AuditLog",
    "BatchStory",
    "Dimension",
    "Filters",
    "GrantRecord",
    "GrantStory",
    "ItemCount",
    "JudgedGrant",
    "SortOrder",
    "UnknownGrant",
    "UnknownName",
]


class Filters(TypedDict, total=False):
    """Conditions that all have to match. They are those of `audit list`.

    tenant: an id, or a name, which selects all tenants that had it.
    buckets: bucket profiles or real buckets, of which one has to match.
    object_key, prefix, key_glob: an exact object key, its beginning, or a pattern.
    requester, recipient, reason, ref: texts in any case, in which `*` and `?` are wildcards.
    kind, batch_id: exact values.
    signed_by: the name of a tenant's key; an empty string selects unsigned requests.
    decisions: `issued`, `refused` or refusal codes, of which one has to match.
    states: states of issued grants at the time of the call, of which one has to match.
    since, until: moments with a time zone; since is included in the range, until is not.
    """

    tenant: str
    buckets: tuple[str, ...]
    object_key: str
    prefix: str
    key_glob: str
    requester: str
    recipient: str
    reason: str
    ref: str
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
            grant_filter = resolve_names(connection, _make_filter(filters))
            bound = read_bound(connection, clock.now())
            for block in stream_blocks(connection, grant_filter, bound):
                yield from to_records(block)

    def whose(self, text: str) -> list[JudgedGrant]:
        """Return the grants that a link, form, object's metadata or grant id names, with verdicts.

        The list is empty if the log has no such grant. Raises ValueError for any other text.
        """
        pasted = read_pasted_grant(text)
        with read_transaction(self._engine) as connection:
            return find_pasted(connection, pasted)

    def show(self, grant: str) -> GrantStory | BatchStory:
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
            grant_filter = resolve_names(connection, _make_filter(filters))
            return count_items(connection, grant_filter, options)

    def top(
        self,
        dimension: Dimension,
        limit: int = 10,
        sort: SortOrder = "total",
        **filters: Unpack[Filters],
    ) -> list[ItemCount]:
        """Return the largest counts by one column, largest first."""
        with read_transaction(self._engine) as connection:
            grant_filter = resolve_names(connection, _make_filter(filters))
            return top_items(connection, grant_filter, dimension, limit, sort)


def _make_filter(filters: Filters) -> GrantFilter:
    for moment in (filters.get("since"), filters.get("until")):
        if moment is not None and moment.tzinfo is None:
            raise ValueError("since and until need a time zone")
    return GrantFilter(**filters, states_at=clock.now())
