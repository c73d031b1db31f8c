"""What was declared, as rows: read whole, and written by what differs."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, cast

from sqlalchemy import Connection, Table, and_, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from models import (
    Base,
    Bucket,
    ConfigRevision,
    Endpoint,
    Policy,
    Quota,
    QuotaOverride,
    Tenant,
    TenantKey,
)
from worker.core.tenants import config
from worker.core.tenants.config import TenantConfig
from worker.errors import Transient

Row = dict[str, Any]
Rows = dict[Table, dict[tuple[Any, ...], Row]]


def _table(mapped: type[Base]) -> Table:
    return cast("Table", mapped.__table__)


_BUCKETS, _TENANTS, _POLICIES, _QUOTAS, _ENDPOINTS, _KEYS = (
    _table(mapped) for mapped in (Bucket, Tenant, Policy, Quota, Endpoint, TenantKey)
)
_PARENTS_FIRST = (_BUCKETS, _TENANTS, _POLICIES, _QUOTAS, _ENDPOINTS, _KEYS)
_RAISES = _table(QuotaOverride)  # not declared: they stay when something is applied
_OF_TENANTS = (_POLICIES, _QUOTAS, _ENDPOINTS, _KEYS, _RAISES)
_REVISION = str(
    select(ConfigRevision.number)
)  # as text, which costs a third: it is read for every message


def read_revision(connection: Connection) -> int:
    """How often something was applied: whoever remembers the number knows when to read again."""
    return connection.exec_driver_sql(_REVISION).scalar() or 0


def load_config(connection: Connection) -> TenantConfig:
    """Read everything that is declared."""
    of = {table: _by_tenant(_all(connection, table)) for table in _OF_TENANTS}
    tenants = {
        row["name"]: _tenant(row, {table: rows[row["name"]] for table, rows in of.items()})
        for row in _all(connection, _TENANTS)
    }
    buckets = {row["name"]: config.Bucket(**row) for row in _all(connection, _BUCKETS)}
    return TenantConfig(buckets=buckets, tenants=tenants)


def _all(connection: Connection, table: Table) -> Iterable[Row]:
    rows = connection.execute(select(table).order_by(*table.primary_key)).mappings()
    return [{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows]


def _by_tenant(rows: Iterable[Row]) -> defaultdict[str, list[Row]]:
    found: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row.pop("tenant")].append(row)
    return found


def _tenant(row: Row, of: dict[Table, list[Row]]) -> config.Tenant:
    raises = [{k: v for k, v in one.items() if k != "number"} for one in of[_RAISES]]
    return config.Tenant(
        **row,
        policies={one["bucket"]: config.Policy(**one) for one in of[_POLICIES]},
        quotas=tuple(config.Quota(**one) for one in of[_QUOTAS]),
        endpoints={one["name"]: config.Endpoint(**one) for one in of[_ENDPOINTS]},
        keys={one["name"]: config.TenantKey(**one) for one in of[_KEYS]},
        raises=tuple(config.QuotaOverride(**one) for one in raises),
    )


def store_config(connection: Connection, before: TenantConfig, after: TenantConfig) -> None:
    """Write what differs and count the revision, in the caller's transaction.

    The audit log and what tenants used stay, also of those that are removed. Raises Transient
    where the database no longer holds before, because somebody else applied something meanwhile.
    """
    increment_revision(connection)
    if load_config(connection) != before:
        raise Transient("something else was applied in the meantime: apply again")
    old, new = _rows(before), _rows(after)
    for table in reversed(_PARENTS_FIRST):
        for key in old[table].keys() - new[table].keys():
            connection.execute(delete(table).where(_is(table, key)))
    for table in _PARENTS_FIRST:
        for key, row in new[table].items():
            if key not in old[table]:
                connection.execute(insert(table).values(row))
            elif row != old[table][key]:
                connection.execute(update(table).where(_is(table, key)).values(row))


def increment_revision(connection: Connection) -> None:
    """Count the revision, so that every worker reads again; waits for who is counting now.

    Call it first of all: what is read behind it stays as it is until the transaction ends.
    """
    upsert = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(
        ConfigRevision
    )
    connection.execute(
        upsert.values(id=1, number=1).on_conflict_do_update(
            index_elements=["id"], set_={"number": ConfigRevision.number + 1}
        )
    )


def _rows(declared: TenantConfig) -> Rows:
    tenants = declared.tenants.values()
    rows: dict[Table, list[Row]] = {
        _BUCKETS: [asdict(bucket) for bucket in declared.buckets.values()],
        _TENANTS: [{"name": t.name, "trust": t.trust, "max_batch": t.max_batch} for t in tenants],
        _POLICIES: [{"tenant": t.name} | asdict(p) for t in tenants for p in t.policies.values()],
        _QUOTAS: [{"tenant": t.name} | asdict(quota) for t in tenants for quota in t.quotas],
        _ENDPOINTS: [{"tenant": t.name} | asdict(e) for t in tenants for e in t.endpoints.values()],
        _KEYS: [{"tenant": t.name} | asdict(key) for t in tenants for key in t.keys.values()],
    }
    return {
        table: {tuple(row[column.name] for column in table.primary_key): row for row in found}
        for table, found in rows.items()
    }


def _is(table: Table, key: tuple[Any, ...]) -> Any:
    return and_(*(column == value for column, value in zip(table.primary_key, key, strict=True)))
