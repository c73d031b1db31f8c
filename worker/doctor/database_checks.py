"""The checks of `doctor` that read the database, with those of features."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from worker import clock
from worker.base.database_engine import snapshot_transaction, sqlite_files
from worker.base.database_errors import FILE_LOCKED, Cause
from worker.base.month_partitions import default_months, has_partitions, missing_months, month_of
from worker.base.private_files import mode_of_others
from worker.cli.database import is_of_later_release, open_database
from worker.cli.database_failures import database_cause, database_unusable, describe_url
from worker.cli.database_roles import CONFIG_TABLES
from worker.cli.service_failures import ServiceUnusable
from worker.doctor.checks import EXPIRED_GRANTS, attempt, failed, place_of
from worker.doctor.query_limits import write_problem
from worker.doctor.storage_checks import bucket_checks
from worker.errors import Transient
from worker.features import load_each
from worker.ledger.tenant_rows import load_config
from worker.rules.tenant_config import TenantConfig
from worker.settings import Settings
from worker.shared.monitoring import Check, check_waiting
from worker.shared.months import format_month
from worker.tenants.apply_plan import config_warnings


def check_tenants(config: TenantConfig, now: datetime) -> Iterator[Check]:
    """Warn of a config without tenants, and of what `apply` warns of."""
    if not config.tenants:
        hint = "python -m worker apply tenants.toml"
        yield Check("tenants", "warn", "no tenant is configured", hint)
        return
    warnings = config_warnings(config, now)
    yield from (Check("tenants", "warn", warning.message, warning.hint) for warning in warnings)
    if not warnings:
        text = f"{len(config.tenants):,} configured; all sign with keys that do not expire soon"
        yield Check("tenants", "ok", text)


_PARTITION_HINT = (
    "python -m worker migrate; the log of the upkeep worker says why: partition_postponed"
)


def check_partitions(connection: Connection, now: datetime) -> Iterator[Check]:
    """Warn of months without a partition, and of grants in the default partition.

    Grants are issued all the same. They cannot be pruned by dropping a partition until they are
    moved, and moving many of them takes long.
    """
    if not has_partitions(connection):
        return
    missing, in_default = missing_months(connection, now), default_months(connection)
    if in_default:
        text = f"grants of {_list_months(in_default)} are in the default partition"
        yield Check("partitions", "warn", text, _PARTITION_HINT)
    if missing:
        is_late = month_of(now) in missing
        when = "grants go to the default partition" if is_late else "they are created ahead"
        text = f"{_list_months(missing)} have no partition: {when}"
        yield Check("partitions", "warn", text, _PARTITION_HINT)
    if not in_default and not missing:
        yield Check("partitions", "ok", "this month and the next two have partitions")


def _list_months(months: Sequence[int]) -> str:
    return ", ".join(format_month(month) for month in months)


class _DatabaseFacts(NamedTuple):
    """The state of the database that other checks examine, and the checks of its rows."""

    is_of_later_release: bool
    write_problem: Cause | None
    config: TenantConfig
    checks: list[Check]


def database_checks(settings: Settings, *, offline: bool) -> Iterator[Check]:
    """Check the database, and what it says of tenants, buckets, endpoints and unfinished work."""
    url = settings.database_url.get_secret_value()

    def unusable(error: BaseException) -> ServiceUnusable:
        is_lock = isinstance(error, TimeoutError) and make_url(url).get_backend_name() == "sqlite"
        return database_unusable(FILE_LOCKED if is_lock else database_cause(error), url)

    facts = attempt("database", unusable, _read_facts)
    if isinstance(facts, Check):
        yield facts
        return
    is_later = facts.is_of_later_release
    release = "a later release, which this one can use" if is_later else "this release"
    yield Check("database", "ok", f"reachable at {describe_url(url)}, with the tables of {release}")
    if facts.write_problem is not None:
        yield failed("database", database_unusable(facts.write_problem, url))
    yield from _file_checks(url)
    yield from check_tenants(facts.config, clock.now())
    yield from bucket_checks(facts.config, settings, offline=offline)
    yield from _checks_of_features("service_checks", facts.config, offline=offline)
    yield from facts.checks


def _read_facts() -> _DatabaseFacts:
    with open_database(snapshot_transaction) as connection:
        config = load_config(connection)
        return _DatabaseFacts(
            is_of_later_release(connection),
            write_problem(connection),
            config,
            [*_row_checks(connection, config, clock.now())],
        )


def check_role(connection: Connection) -> Iterator[Check]:
    """Warn of a role that may change the config."""
    role = role_that_changes_config(connection)
    if role is not None:
        text = f"the role {role} may change the config: workers need another one"
        hint = "python -m worker migrate --grant-to ROLE, and connect workers alone with it"
        yield Check("role", "warn", text, hint)


def _row_checks(connection: Connection, config: TenantConfig, now: datetime) -> Iterator[Check]:
    yield from check_role(connection)
    yield check_waiting(EXPIRED_GRANTS, EXPIRED_GRANTS.since(connection), now)
    yield from check_partitions(connection, now)
    yield from _checks_of_features("database_checks", connection, config, now)


def _checks_of_features(part: str, *args: Any, **options: Any) -> Iterator[Check]:
    """Yield the checks of all features. One that raises fails alone, unless the database does."""
    for check in load_each(part):
        try:
            yield from check(*args, **options)
        except (SQLAlchemyError, Transient, ServiceUnusable):
            raise
        except Exception as error:  # noqa: BLE001 - the defect of one feature hides no other
            text = f"checks of {check.__module__} failed: {place_of(error)}"
            yield Check("doctor", "fail", text, "report this line: it is a defect")


def _file_checks(database_url: str) -> Iterator[Check]:
    for path in sqlite_files(database_url):
        if mode := mode_of_others(path):
            text = f"other accounts have access to {path} (mode {mode})"
            yield Check("database", "warn", text, "python -m worker migrate")


def role_that_changes_config(connection: Connection) -> str | None:
    """Return the name of the connected role if it may change the tables of the config."""
    if connection.dialect.name != "postgresql":
        return None
    query = text(
        "SELECT current_user WHERE EXISTS (SELECT 1 FROM unnest(CAST(:tables AS text[])) AS name"
        " WHERE has_table_privilege(name, 'INSERT, UPDATE, DELETE'))"
    )
    role: str | None = connection.scalar(query, {"tables": CONFIG_TABLES})
    return role
