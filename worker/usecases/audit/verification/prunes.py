"""Verifies the records of removed months: each gives the hash of its leaf."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from worker.core.tree.records import encode_record, entry_hash
from worker.db.tree.log_readers import LogReader, Row
from worker.db.tree.stored_rows import PRUNE, select_columns
from worker.db.tree.stored_values import WrongValue, read_row
from worker.usecases.audit.verification.charges import where_tenant
from worker.usecases.audit.verification.problems import Found, Problem

_EXISTS = {
    "sqlite": "SELECT count(*) FROM sqlite_master WHERE name = 'prunes'",
    "postgresql": "SELECT count(to_regclass('prunes'))",
}


class PrunedCount(NamedTuple):
    """Numbers of removed items, and of their chunks."""

    chunks: int = 0
    items: int = 0

    def plus(self, other: "PrunedCount") -> "PrunedCount":
        """Return the sum."""
        return PrunedCount(self.chunks + other.chunks, self.items + other.items)


class Removal(NamedTuple):
    """The removal of a tenant's items of all chunks before a month like 2026-01.

    leaf is the number of the newest leaf that covers a removal: what later leaves cover is not
    removed.
    """

    before: str = ""
    leaf: int = -1
    pruned: PrunedCount = PrunedCount()

    def includes(self, issued_at: datetime) -> bool:
        """Return whether it removed the items of chunks that were issued at a moment."""
        return f"{issued_at:%Y-%m}" < self.before


@dataclass(slots=True)
class Prunes:
    """The removals of items, by tenant, and what is wrong with their records."""

    removals: dict[str, Removal] = field(default_factory=dict)
    found: list[Found] = field(default_factory=list)


def read_prunes(reader: LogReader, tenants: tuple[str, ...]) -> Prunes:
    """Read and verify what was removed because of its age. There are few rows."""
    prunes = Prunes()
    if not reader.fetch(_EXISTS[reader.dialect])[0][0]:
        return prunes  # the tables are those of an older release
    where, params = where_tenant("tenant", tenants)
    names = select_columns(reader.dialect, PRUNE)
    rows = reader.fetch(
        f"SELECT {names} FROM prunes WHERE {where} ORDER BY prune_number",  # noqa: S608 - no value
        *params,
    )
    leaves = reader.fetch(
        "SELECT tenant, reference, leaf_number, hash FROM leaves "  # noqa: S608 - no value
        f"WHERE kind = 'prune' AND {where} ORDER BY tenant, leaf_number",
        *params,
    )
    by_key: dict[tuple[str, str | None], Row] = {}
    for tenant, reference, number, leaf_hash in leaves:
        if (tenant, reference) in by_key:
            text = "covers a removal that another leaf covers"
            prunes.found.append(Found(Problem("leaves", text, tenant=tenant, number=number)))
        by_key[tenant, reference] = (number, leaf_hash)
    for row in rows:
        try:
            tenant, removal = _check(row, by_key)
        except Found as found:
            prunes.found.append(found)
        else:
            earlier = prunes.removals.get(tenant, Removal())
            prunes.removals[tenant] = Removal(
                max(removal.before, earlier.before),
                max(removal.leaf, earlier.leaf),
                removal.pruned.plus(earlier.pruned),
            )
    for (tenant, _), (number, _hash) in by_key.items():
        text = f"has no row for leaf {number}"
        prunes.found.append(Found(Problem("prunes", text, tenant=tenant)))
    return prunes


def compare_removals(
    removals: Mapping[str, Removal], pruned: Mapping[str, PrunedCount]
) -> Iterator[Problem]:
    """Yield each tenant of which more is missing than its removals have recorded.

    An interrupted removal has removed less.
    """
    for tenant, count in sorted(pruned.items()):
        recorded = removals.get(tenant, Removal()).pruned
        is_more = count.chunks > recorded.chunks
        if is_more or (count.chunks == recorded.chunks and count.items != recorded.items):
            text = (
                f"record the removal of {recorded.items:,} items of {recorded.chunks:,} chunks,"
                f" and {count.items:,} of {count.chunks:,} chunks are missing"
            )
            yield Problem("prunes", text, tenant=tenant)


def _check(row: Row, leaves: dict[tuple[str, str | None], Row]) -> tuple[str, Removal]:
    prune_number, tenant = row[0], row[1]
    place: dict[str, Any] = {"tenant": tenant, "number": prune_number}
    leaf = leaves.pop((tenant, str(prune_number)), None)
    if leaf is None:
        raise Found(Problem("prunes", "no leaf covers it")._replace(**place))
    try:
        values = read_row(PRUNE, row)
    except WrongValue as error:
        raise Found(Problem.of_value("prunes", error, **place)) from None
    del values["prune_number"]
    if entry_hash([encode_record("prune", values)]) != leaf[1]:
        problem = Problem("prunes", f"differs from what leaf {leaf[0]} covers")
        raise Found(problem._replace(**place), (tenant, leaf[0]))
    count = PrunedCount(values["chunks"], values["items"])
    return tenant, Removal(values["before"], leaf[0], count)
