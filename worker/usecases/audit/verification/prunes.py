"""Verifies the records of removed months: each gives the hash of its leaf."""

import re
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from worker.core.tree.records import encode_record, entry_hash
from worker.db.tree.log_readers import LogReader, Row
from worker.db.tree.named_rows import where_tenant
from worker.db.tree.stored_rows import PRUNE, select_columns
from worker.db.tree.stored_values import WrongValue, read_row
from worker.usecases.audit.verification.problems import Found, Problem

_is_month = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])").fullmatch


class RemovedMonths(NamedTuple):
    """A removal: the month before which chunks were issued, like 2026-01, and its leaf."""

    before: str
    leaf_number: int
    chunks: int
    items: int
    use_groups: int

    def explains(self, issued_at: datetime, leaf_number: int) -> bool:
        """Return whether it concerns a chunk, which must be older, and so must be its leaf."""
        return f"{issued_at:%Y-%m}" < self.before and leaf_number < self.leaf_number


@dataclass(slots=True)
class Prunes:
    """The removals of each tenant, and what is wrong with their records."""

    removed: dict[str, list[RemovedMonths]] = field(default_factory=lambda: defaultdict(list))
    found: list[Found] = field(default_factory=list)


def read_prunes(reader: LogReader, tenants: tuple[str, ...]) -> Prunes:
    """Read and verify what was removed because of its age. There are few rows."""
    prunes = Prunes()
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
    for tenant, reference, leaf_number, leaf_hash in leaves:
        if (tenant, reference) in by_key:
            text = "covers a removal that another leaf covers"
            prunes.found.append(Found(Problem("leaves", text, tenant=tenant, number=leaf_number)))
        by_key[tenant, reference] = (leaf_number, leaf_hash)
    for row in rows:
        try:
            removed = _check(row, by_key)
        except Found as found:
            prunes.found.append(found)
        else:
            prunes.removed[row[1]].append(removed)
    for (tenant, _), (number, _hash) in by_key.items():
        text = f"has no row for leaf {number}"
        prunes.found.append(Found(Problem("prunes", text, tenant=tenant)))
    return prunes


def _check(row: Row, leaves: dict[tuple[str, str | None], Row]) -> RemovedMonths:
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
    before = values["before"]
    if not _is_month(before) or before > values["pruned_at"].strftime("%Y-%m"):
        text = "is no month that had begun at the time of the removal"
        raise Found(Problem("prunes", text, column="before")._replace(**place), (tenant, leaf[0]))
    counts = values["chunks"], values["items"], values["use_groups"]
    return RemovedMonths(before, leaf[0], *counts)


def compare_removed(prunes: Prunes, found: dict[str, tuple[int, int]]) -> list[Problem]:
    """Return a problem for each tenant that lacks more than its removals have recorded.

    found has the numbers of chunks and items. A removal that is going on has removed less.
    """
    problems = []
    for tenant, (chunks, items) in sorted(found.items()):
        removed = prunes.removed.get(tenant, [])
        recorded = (sum(each.chunks for each in removed), sum(each.items for each in removed))
        if chunks < recorded[0] or (chunks, items) == recorded:
            continue
        text = (
            f"record the removal of {recorded[1]:,} items of {recorded[0]:,} chunks, and"
            f" {items:,} items of {chunks:,} chunks are missing"
        )
        problems.append(Problem("prunes", text, tenant=tenant))
    return problems


def compare_removed_uses(prunes: Prunes, found: dict[str, int]) -> list[Problem]:
    """Return a problem for each tenant that lacks more groups of uses than are recorded."""
    problems = []
    for tenant, groups in sorted(found.items()):
        recorded = sum(each.use_groups for each in prunes.removed.get(tenant, []))
        if groups > recorded:
            text = f"record the removal of {recorded:,} groups of uses, and {groups:,} are missing"
            problems.append(Problem("prunes", text, tenant=tenant))
    return problems
