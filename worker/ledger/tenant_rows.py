"""The tenant config as rows: loaded as a whole, stored as a difference, kept by each process."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from datetime import datetime
from threading import Lock
from types import MappingProxyType
from typing import Any, cast

from sqlalchemy import Connection, Engine, Table, and_, delete, func, insert, select, update

from models import (
    Base,
    Bucket,
    ConfigChange,
    ConfigRevisionCounter,
    Policy,
    Quota,
    QuotaOverride,
    Tenant,
    TenantIdentity,
    TenantKey,
    WebhookEndpoint,
)
from worker.base.database_engine import execute_in_driver, read_in_driver, read_transaction
from worker.base.inserts import insert_statement
from worker.errors import Transient
from worker.hooks import sessions_from
from worker.rules import tenant_config
from worker.rules.tenant_config import TenantConfig, assign_ids

Row = dict[str, Any]
Rows = dict[Table, dict[tuple[Any, ...], Row]]


def _table(mapped: type[Base]) -> Table:
    return cast("Table", mapped.__table__)


_PARENTS_FIRST = tuple(map(_table, (Bucket, Tenant, Policy, Quota, WebhookEndpoint, TenantKey)))
_BUCKETS, _TENANTS, *_TABLES_OF_TENANTS = _PARENTS_FIRST
_POLICIES, _QUOTAS, _ENDPOINTS, _KEYS = _TABLES_OF_TENANTS
_OVERRIDES = _table(QuotaOverride)  # not part of the tenants file: `apply` keeps them
_CREATED_AT = select(TenantIdentity.id, TenantIdentity.created_at).join(
    Tenant, Tenant.id == TenantIdentity.id
)
_LAST_CHANGE = select(func.max(ConfigChange.change_number))
_TENANT_FIELDS = (
    *("name", "trust", "max_batch", "id", "refund_unused"),
    *("max_waiting", "max_waiting_age"),
)


def load_config(connection: Connection) -> TenantConfig:
    """Load the whole config."""
    rows = {table: _rows_by_tenant(_read(connection, table)) for table in _TABLES_OF_TENANTS}
    overrides = _rows_by_tenant(_read(connection, _OVERRIDES))
    tenants = {
        row["name"]: _tenant(
            row, {table: found[row["name"]] for table, found in rows.items()}, overrides[row["id"]]
        )
        for row in _read_tenants(connection)
    }
    ended = sessions_from(connection)
    buckets = {
        row["name"]: tenant_config.Bucket(**row, sessions_from=ended.get(row["role_arn"]))
        for row in _read(connection, _BUCKETS)
    }
    return TenantConfig(buckets=buckets, tenants=tenants)


def _read(connection: Connection, table: Table) -> Iterable[Row]:
    rows = connection.execute(select(table).order_by(*table.primary_key)).mappings()
    return [{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows]


def _read_tenants(connection: Connection) -> list[Row]:
    created_at = {row.id: row.created_at for row in connection.execute(_CREATED_AT)}
    shared = {"config_change": connection.scalar(_LAST_CHANGE) or 0}
    rows = _read(connection, _TENANTS)
    return [{**row, **shared, "created_at": created_at[row["id"]]} for row in rows]


def read_used_ids(connection: Connection) -> set[str]:
    """Return the ids of all tenants that exist or were removed."""
    return set(connection.scalars(select(TenantIdentity.id)))


def _rows_by_tenant(rows: Iterable[Row]) -> defaultdict[str, list[Row]]:
    by_tenant: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_tenant[row.pop("tenant")].append(row)
    return by_tenant


def _tenant(row: Row, rows: dict[Table, list[Row]], overrides: list[Row]) -> tenant_config.Tenant:
    for override in overrides:
        del override["override_number"]
    return tenant_config.Tenant(
        **row,
        policies={policy["bucket"]: tenant_config.Policy(**policy) for policy in rows[_POLICIES]},
        quotas=tuple(tenant_config.Quota(**quota) for quota in rows[_QUOTAS]),
        endpoints={end["name"]: tenant_config.WebhookEndpoint(**end) for end in rows[_ENDPOINTS]},
        keys={key["name"]: tenant_config.TenantKey(**key) for key in rows[_KEYS]},
        quota_overrides=tuple(tenant_config.QuotaOverride(**override) for override in overrides),
    )


def store_config(
    connection: Connection,
    before: TenantConfig,
    after: TenantConfig,
    now: datetime,
    restored_ids: Mapping[str, str] = MappingProxyType({}),
) -> TenantConfig:
    """Write the difference of two configs and increment the revision, in one transaction.

    Returns the stored config: `after`, with the ids that its tenants have, whatever `after` says.
    restored_ids are those of removed tenants that exist again, by name. The audit log and the usage
    of tenants stay, even of removed tenants. Raises Transient if the database no longer contains
    `before`, because another config was applied meanwhile.
    """
    increment_revision(connection)
    if load_config(connection) != before:
        raise Transient("another config was applied in the meantime: apply again")
    recorded_ids = read_used_ids(connection)
    stored = assign_ids(before, after, recorded_ids, now, restored_ids)
    _insert_identities(connection, stored, recorded_ids)
    old, new = _rows(before), _rows(stored)
    for table in reversed(_PARENTS_FIRST):
        for key in old[table].keys() - new[table].keys():
            connection.execute(delete(table).where(_has_key(table, key)))
    for table in _PARENTS_FIRST:
        for key, row in new[table].items():
            if key not in old[table]:
                connection.execute(insert(table).values(row))
            elif row != old[table][key]:
                connection.execute(update(table).where(_has_key(table, key)).values(row))
    return stored


def _insert_identities(
    connection: Connection, stored: TenantConfig, recorded_ids: Collection[str]
) -> None:
    rows = [
        {"id": tenant.id, "name": tenant.name, "created_at": tenant.created_at}
        for tenant in stored.tenants.values()
        if tenant.id not in recorded_ids
    ]
    if rows:
        connection.execute(insert(TenantIdentity), rows)


def increment_revision(connection: Connection) -> None:
    """Increment the revision, so that every worker reloads the config.

    Waits for other transactions that do the same. Call it first: the config does not change from
    then on until the transaction ends.
    """
    statement = insert_statement(ConfigRevisionCounter, connection.dialect.name)
    one_more = {"revision": ConfigRevisionCounter.revision + 1}
    connection.execute(
        statement.values(id=1, revision=1).on_conflict_do_update(
            index_elements=["id"], set_=one_more
        )
    )


def _rows(tenant_config: TenantConfig) -> Rows:
    tenants = tenant_config.tenants.values()
    rows: dict[Table, list[Row]] = {
        _BUCKETS: [_bucket_row(bucket) for bucket in tenant_config.buckets.values()],
        _TENANTS: [{field: getattr(t, field) for field in _TENANT_FIELDS} for t in tenants],
        _POLICIES: [{"tenant": t.name} | asdict(p) for t in tenants for p in t.policies.values()],
        _QUOTAS: [{"tenant": t.name} | asdict(quota) for t in tenants for quota in t.quotas],
        _ENDPOINTS: [{"tenant": t.name} | asdict(e) for t in tenants for e in t.endpoints.values()],
        _KEYS: [{"tenant": t.name} | asdict(key) for t in tenants for key in t.keys.values()],
    }
    return {
        table: {tuple(row[column.name] for column in table.primary_key): row for row in table_rows}
        for table, table_rows in rows.items()
    }


def _bucket_row(bucket: tenant_config.Bucket) -> Row:
    row = asdict(bucket)
    del row["sessions_from"]  # follows from the role, whatever its profiles
    return row


def _has_key(table: Table, key: tuple[Any, ...]) -> Any:
    return and_(*(column == value for column, value in zip(table.primary_key, key, strict=True)))


# As text, because it is read for every message.
_REVISION = str(select(ConfigRevisionCounter.revision))


class ConfigStore:
    """The tenant config of one process, reloaded when its revision changes.

    Create it after forking; threads may share it.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = Lock()
        self._loaded: tuple[int, TenantConfig] = (-1, TenantConfig())

    def current(self) -> TenantConfig:
        """Return the config in effect now. Raises Transient."""
        revision = _revision(read_in_driver(self._engine, _REVISION))
        # Threads that need a new config wait while one of them loads it. What a thread returns is
        # never older than the revision that it read, whatever other threads store meanwhile.
        loaded = self._loaded
        if loaded[0] != revision:
            with self._lock:
                if self._loaded[0] != revision:
                    self._loaded = self._load()
                loaded = self._loaded
        return loaded[1]

    def _load(self) -> tuple[int, TenantConfig]:
        with read_transaction(self._engine) as connection:
            # On PostgreSQL each query sees what is committed when it starts. If a config was
            # applied in between, the revision has changed and everything is read again.
            while True:
                revision = read_revision(connection)
                loaded = load_config(connection)
                if read_revision(connection) == revision:
                    return revision, loaded


def read_revision(connection: Connection) -> int:
    """Return the config's revision, which each applied config and quota override increments."""
    return _revision(execute_in_driver(connection, _REVISION).fetchone())


def _revision(row: tuple[int] | None) -> int:
    return 0 if row is None else row[0]
