"""Compares the config in force, and the keys of grants, with the log of changes of the config."""

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

import models
from worker.ledger.merkle import key_thumbprint
from worker.proof.verify.config_log import ConfigLog
from worker.proof.verify.log_reader import LogReader, reader_of
from worker.proof.verify.stored_rows import (
    CONFIG_CHANGE,
    Found,
    Problem,
    StoredTable,
    WrongValue,
)

LONGEST_DECISION = timedelta(hours=1)
"""The longest time by which a decision may follow a change that it does not know.

That is the time to decide, and the difference between the clocks of an operator and a worker.
"""

_TABLES = tuple(
    map(
        StoredTable,
        (
            *(models.Bucket, models.Tenant, models.Policy, models.Quota),
            *(models.WebhookEndpoint, models.TenantKey),
        ),
    )
)
_OVERRIDES = StoredTable(models.QuotaOverride)
_OVERRIDE = ("tenant", "metric", "window", "extra", "expires_at")


def read_config_log(reader: LogReader, log: ConfigLog) -> ConfigLog:
    """Add the changes that a log does not have. Raises Found for one that cannot be read."""
    names = CONFIG_CHANGE.select(reader.dialect)
    condition = "change_number > ? ORDER BY change_number"
    statement = f"SELECT {names} FROM config_changes WHERE {condition}"  # noqa: S608 - no value
    for row in reader.stream(statement, log.last_number):
        try:
            values = CONFIG_CHANGE.read(row)
            log.add(*(values[name] for name in ("change_number", "changed_at", "path", "after")))
        except (WrongValue, ValueError, LookupError, TypeError) as error:
            text = str(error) if isinstance(error, WrongValue) else "is no change of the config"
            raise Found(Problem("config_changes", text, number=row[0])) from None
    return log


def compare_config(reader: LogReader, log: ConfigLog) -> Iterator[Problem]:
    """Yield where the tables of the config differ from the log, for the selected tenants."""
    expected = log.rows(log.last_number)
    ids = {key[0]: row["id"] for key, row in expected.get("tenants", {}).items()}
    for table in _TABLES:
        for key, text in _compare_table(reader, table, expected.get(table.name, {})):
            name: str | None = key[0]
            tenant = None if table.name == "buckets" else ids.get(key[0], key[0])
            if tenant is not None:
                name = ".".join(key[1:]) or None
            if not reader.tenants or tenant in reader.tenants:
                yield Problem(table.name, text, tenant=tenant, reference=name)
    yield from _compare_overrides(reader, log)


def _compare_table(
    reader: LogReader, table: StoredTable, expected: dict[tuple[str, ...], Any]
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the primary key of each row that differs, and how."""
    missing = dict(expected)
    for row in reader.stream(f"SELECT {table.select(reader.dialect)} FROM {table.name}"):  # noqa: S608 - no value
        stored = dict(zip((column.name for column in table.columns), row, strict=True))
        key = tuple(str(stored[name]) for name in table.key)
        logged = missing.pop(key, None)
        if logged is None:
            yield key, "is not in the log of the config"
            continue
        try:
            values = table.read(row)
        except WrongValue as error:
            yield key, str(error)
            continue
        for column, value in values.items():
            if (tuple(value) if isinstance(value, list) else value) != logged.get(column):
                yield key, f"{column} is not the value in the log of the config"
    yield from (
        (key, "is in the log of the config, but not in the table") for key in sorted(missing)
    )


def _compare_overrides(reader: LogReader, log: ConfigLog) -> Iterator[Problem]:
    stored = Counter[tuple[Any, ...]]()
    for row in reader.select(_OVERRIDES.select(reader.dialect), _OVERRIDES.name, "tenant IN {}"):
        try:
            values = _OVERRIDES.read(row)
        except WrongValue as error:
            yield Problem(_OVERRIDES.name, str(error), tenant=str(row[1]))
            continue
        stored[tuple(values[name] for name in _OVERRIDE)] += 1
    rows = (tuple(row[name] for name in _OVERRIDE) for row in log.overrides)
    logged = Counter(row for row in rows if not reader.tenants or row[0] in reader.tenants)
    texts = {
        "is not in the log of the config": stored - logged,
        "is in the log of the config, but not in the table": logged - stored,
    }
    for text, differing in texts.items():
        for tenant, metric, window, extra, _ in sorted(differing):
            name = f"{metric}.{window}"
            problem = f"an increase by {extra:,} {text}"
            yield Problem(_OVERRIDES.name, problem, tenant=tenant, reference=name)


def find_differences(connection: Connection, log: ConfigLog | None = None) -> list[Problem]:
    """Return where the config in force differs from its log. Needs a snapshot transaction.

    A log that an earlier call has filled saves most of the time: only newer changes are read. They
    are not compared with their leaves: `audit verify` does that.
    """
    reader = reader_of(connection)
    try:
        return list(compare_config(reader, read_config_log(reader, log or ConfigLog())))
    except Found as found:
        return [found.problem]


def signer_problem(log: ConfigLog, tenant_id: str, chunk: dict[str, Any]) -> str | None:
    """Return why the config that decided a chunk did not accept its signature, or None if it did.

    The chunk names the change of the config that was the newest one when it was decided.
    """
    number = chunk["config_change"]
    if number is None:
        return "names no change of the config"
    replaced_at = log.next_time(number)
    if replaced_at is not None and chunk["issued_at"] > replaced_at + LONGEST_DECISION:
        return f"was decided by the config after change {number}, which had been replaced"
    problem = _key_problem(log, f"tenants.{tenant_id.partition('~')[0]}", chunk)
    return problem and f"{problem} after change {number} of the config"


def _key_problem(log: ConfigLog, tenant: str, chunk: dict[str, Any]) -> str | None:
    name, number = chunk["signing_key"], chunk["config_change"]
    if name is None:
        is_accepted = log.value(f"{tenant}.trust", number) == "queue"
        return None if is_accepted else "is not signed, and its tenant had to sign"
    key = f"{tenant}.keys.{name}"
    public_key, expires, revoked = (
        log.value(f"{key}.{field}", number) for field in ("sign", "expires", "revoked")
    )
    if public_key is None or key_thumbprint(public_key) != chunk["key_thumbprint"]:
        return f"was signed by another key than {name} was"
    if revoked or (expires is not None and chunk["issued_at"] > expires + LONGEST_DECISION):
        return f"was signed by {name}, which was not valid"
    return None
