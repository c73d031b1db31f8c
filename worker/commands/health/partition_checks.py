"""The check that grants of the coming months have partitions."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection

from worker.commands.health.checks import Check
from worker.db.retention.months import format_month, month_of
from worker.db.retention.partitions import default_months, has_partitions, missing_months

_HINT = "python -m worker migrate; the log of the upkeep worker says why: partition_postponed"


class PartitionFacts(NamedTuple):
    """The months from this one on that have no partition, and those of rows that lack one."""

    missing: Sequence[int]
    default: Sequence[int]


def read_partition_facts(connection: Connection, now: datetime) -> PartitionFacts | None:
    """Read the state of the partitions; None if the database has none."""
    if not has_partitions(connection):
        return None
    return PartitionFacts(missing_months(connection, now), default_months(connection))


def check_partitions(facts: PartitionFacts | None, now: datetime) -> Iterator[Check]:
    """Warn of months without a partition, and of grants in the default partition.

    Grants are issued all the same. They cannot be pruned by dropping a partition until they are
    moved, and moving many of them takes long.
    """
    if facts is None:
        return
    if facts.default:
        text = f"grants of {_list(facts.default)} are in the default partition"
        yield Check("partitions", "warn", text, _HINT)
    if facts.missing:
        is_late = month_of(now) in facts.missing
        when = "grants go to the default partition" if is_late else "they are created ahead"
        text = f"{_list(facts.missing)} have no partition: {when}"
        yield Check("partitions", "warn", text, _HINT)
    if not facts.default and not facts.missing:
        yield Check("partitions", "ok", "this month and the next two have partitions")


def _list(months: Sequence[int]) -> str:
    return ", ".join(format_month(month) for month in months)
