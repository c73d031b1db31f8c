"""Compares rows with the leaves that cover them, by one rule for the leaves of every kind.

The rows of a table and the leaves that name them are read in the same order, and put together by
what the leaves name. Then each leaf has to have the hash of its rows.
"""

import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from operator import attrgetter
from typing import Any, NamedTuple

from worker.core.annotations import SALT_SUFFIX
from worker.ledger.merkle import CONFIG_LOG, encode_record, entry_hash
from worker.proof.verify.log_reader import LogReader, Row, where_tenant
from worker.proof.verify.stored_rows import (
    ANNOTATION,
    BATCH,
    CANCELLATION,
    CHUNK,
    CONFIG_CHANGE,
    ERASURE,
    PRUNE,
    REISSUE,
    REVOCATION,
    SETTLEMENT,
    USE,
    Found,
    Problem,
    StoredTable,
    WrongValue,
    read_instant,
    select_column,
)

UNREADABLE = (TypeError, AttributeError, ValueError)
"""The errors of a value that has no record."""


class Removal(NamedTuple):
    """A removal: the month before which chunks were issued, like 2026-01, and its leaf."""

    before: str
    leaf: int
    chunks: int
    items: int
    use_groups: int

    def explains(self, issued_at: datetime, leaf: int) -> bool:
        """Return whether it concerns a chunk, which must be older, and so must be its leaf."""
        return f"{issued_at:%Y-%m}" < self.before and leaf < self.leaf


@dataclass(slots=True)
class LogState:
    """The log that is verified, and what the checks have found in it so far.

    tenants are the ids of the selected tenants, none for all. removals are those of each tenant;
    missing counts what a removal explains, by tenant and by name of what is missing.
    """

    reader: LogReader
    tenants: tuple[str, ...] = ()
    counts: Counter[str] = field(default_factory=Counter)
    removals: defaultdict[str, list[Removal]] = field(default_factory=lambda: defaultdict(list))
    missing: Counter[tuple[str, str]] = field(default_factory=Counter)


class Leaf(NamedTuple):
    """A stored leaf, after the four columns that name its rows. Nothing of it is checked."""

    batch_number: Any
    chunk_number: Any
    tenant: Any
    reference: Any
    kind: str
    number: int
    hash: bytes

    @property
    def key(self) -> Row:
        """The columns that name its rows: numbers of a batch and a chunk, a tenant, a reference."""
        return self[:_KEY]


_KEY = 4


class LeafCheck:
    """Compares the rows of a table with the leaves of a kind.

    reference is the SQL of a row's name in its leaf, NULL if the leaf names a chunk.
    """

    table: StoredTable
    kinds: tuple[str, ...]
    reference = "NULL"
    counted: str | None = None
    differs = "differs"

    def __init__(self, log: LogState) -> None:
        self.log = log
        self.reader = log.reader

    def run(self) -> Iterator[Problem]:
        """Yield what is wrong with the rows or their leaves."""
        for key, rows, leaves in _merge(self._rows(), self._leaves()):
            try:
                self._check(key, rows, leaves)
            except Found as found:
                yield found.problem
            except UNREADABLE:
                yield self._found(key, "has a value that the service does not write").problem

    def _rows(self) -> Iterator[Row]:
        """Yield the rows: what a leaf would name, the id of the batch, and the columns."""
        name, columns = self.table.name, self.table.columns
        batch_id, numbers, join = "NULL", ["NULL", "NULL"], ""
        tenant = f"{name}.tenant" if "tenant" in columns else "batches.tenant"
        if "batch_number" in columns:
            batch_id = "batches.batch_id"
            join = f" LEFT JOIN batches ON batches.batch_number = {name}.batch_number"
            if "tenant" in columns:
                join += f" AND batches.tenant = {name}.tenant"
        if "chunk_number" in columns:
            numbers = [f"{name}.batch_number", f"{name}.chunk_number"]
        key = ", ".join((*numbers, self._by_bytes(tenant), self._by_bytes(self.reference)))
        where, params = where_tenant(tenant, self.log.tenants)
        order = ", ".join(f"{name}.{column}" for column in self.table.key)
        return self.reader.stream(
            f"SELECT {key}, {batch_id}, {self.table.select(self.reader.dialect)}"  # noqa: S608 - no value
            f" FROM {name}{join} WHERE {where} ORDER BY 1, 2, 3, 4, {order}",
            *params,
        )

    def _leaves(self) -> Iterator[Leaf]:
        """Yield the leaves of these kinds in the order of the rows."""
        kinds = ", ".join(f"'{kind}'" for kind in self.kinds)
        where, params = where_tenant("tenant", self.log.tenants)
        columns = ", ".join(
            ("batch_number", "chunk_number", *map(self._by_bytes, ("tenant", "reference")))
        )
        statement = (
            f"SELECT {columns}, kind, leaf_number, hash FROM leaves"  # noqa: S608 - no value
            f" WHERE kind IN ({kinds}) AND {where} ORDER BY 1, 2, 3, 4, leaf_number"
        )
        return map(Leaf._make, self.reader.stream(statement, *params))

    def _check(self, key: Row, rows: list[Row], leaves: list[Leaf]) -> None:
        """Compare the rows with a key with the leaves that name it. Raises Found."""
        if len(leaves) > 1:
            text = f"covers what leaf {leaves[0].number} covers as well"
            place = {"table": "leaves", "leaf": None, "number": leaves[1].number}
            raise self._found(key, text, **place)
        if not leaves:
            raise self._found(key, "no leaf covers it")
        leaf = leaves[0]
        if not rows:
            if self._is_removed(leaf):
                return
            raise self._found(
                key, f"has no row, but leaf {leaf.number} covers it", leaf=leaf.number
            )
        try:
            expected = self._leaf_hash(rows, leaf)
        except WrongValue as error:
            raise self._found(key, str(error), leaf=leaf.number) from None
        except UNREADABLE:
            text = "has a value that the service does not write"
            raise self._found(key, text, leaf=leaf.number) from None
        if leaf.hash != expected:
            raise self._differing(key, rows, leaf)
        if self.counted is not None:
            self.log.counts[self.counted] += len(rows)

    def _leaf_hash(self, rows: list[Row], leaf: Leaf) -> bytes:
        """Return the hash of the leaf of these rows. Raises UNREADABLE."""
        return entry_hash([self._record(row, leaf) for row in rows])

    def _record(self, row: Row, leaf: Leaf) -> bytes:
        batch_id, *columns = row[_KEY:]
        values = self.table.read(columns)
        if "batch_number" not in values:
            return encode_record(self.kinds[0], values)
        if not isinstance(batch_id, str):
            number = values["batch_number"]
            raise WrongValue(f"belongs to batch number {number}, which its tenant does not have")
        return encode_record(self.kinds[0], values, tenant=leaf.tenant, batch_id=batch_id)

    def _is_removed(self, leaf: Leaf) -> bool:  # noqa: ARG002 - of subclasses
        """Return whether the rows of a leaf were removed because of their age, and count that."""
        return False

    def _differing(self, key: Row, rows: list[Row], leaf: Leaf) -> Found:  # noqa: ARG002
        """Return the problem of rows that have another hash than their leaf."""
        return self._found(
            key, f"{self.differs} from what leaf {leaf.number} covers", leaf=leaf.number
        )

    def _found(self, key: Row, text: str, **place: Any) -> Found:
        """Return a problem of the rows or leaves with a key."""
        number, chunk, tenant, reference = key
        named = {"tenant": tenant, "batch": self._batch_id(number), "chunk": chunk}
        return Found(Problem(self.table.name, text, **named, reference=reference)._replace(**place))

    def _batch_id(self, batch_number: Any) -> str | None:
        if batch_number is None:
            return None
        statement = "SELECT batch_id FROM batches WHERE batch_number = ?"
        return next((row[0] for row in self.reader.fetch(statement, batch_number)), None)

    def _by_bytes(self, column: str) -> str:
        """Return a column of texts in the order of their bytes, as SQLite has it."""
        return f'{column} COLLATE "C"' if self.reader.dialect == "postgresql" else column


def _merge(
    rows: Iterator[Row], leaves: Iterator[Leaf]
) -> Iterator[tuple[Row, list[Row], list[Leaf]]]:
    """Put together rows and leaves by their first columns, in whose order both are."""
    row, leaf = next(rows, None), next(leaves, None)
    while row is not None or leaf is not None:
        keys = [each[:_KEY] for each in (row, leaf) if each is not None]
        key = keys[0] if keys[0] == keys[-1] else min(keys, key=_sort_key)
        own_rows, own_leaves = list[Row](), list[Leaf]()
        while row is not None and row[:_KEY] == key:
            own_rows.append(row)
            row = next(rows, None)
        while leaf is not None and leaf[:_KEY] == key:
            own_leaves.append(leaf)
            leaf = next(leaves, None)
        yield key, own_rows, own_leaves


def _sort_key(key: Row) -> tuple[Any, ...]:
    """Return the key as SQLite sorts it: a changed value can have another type."""
    return tuple((_RANKS.get(type(value), 1), value) for value in key)


_RANKS = {type(None): 0, str: 2, bytes: 3}


class CancellationCheck(LeafCheck):
    """A cancellation has the id of a batch, which its leaf names."""

    table, kinds, counted = CANCELLATION, ("cancellation",), "cancellations"
    reference = "cancellations.batch_id"

    def _found(self, key: Row, text: str, **place: Any) -> Found:
        return super()._found(key, text, **{"batch": key[-1], "reference": None, **place})


class RevocationCheck(LeafCheck):
    """A revocation has a leaf in the tree of each tenant whose grants it ended."""

    table, kinds, counted = REVOCATION, ("revocation",), "revocations"
    reference = "revocations.revocation_id"


class ErasureCheck(LeafCheck):
    """An erasure has a leaf in the tree of each tenant whose texts it erased."""

    table, kinds, counted = ERASURE, ("erasure",), "erasures"
    reference = "erasures.erasure_id"


class ReissueCheck(LeafCheck):
    """The leaf of a reissue names the fingerprint of its digests."""

    table, kinds, counted = REISSUE, ("reissue",), "reissues"

    def __init__(self, log: LogState) -> None:
        super().__init__(log)
        is_sqlite = log.reader.dialect == "sqlite"
        self.reference = (
            "lower(hex(reissues.fingerprint))"
            if is_sqlite
            else "encode(reissues.fingerprint, 'hex')"
        )


class UseCheck(LeafCheck):
    """A leaf covers all uses that one transaction recorded for a tenant."""

    table, kinds, counted = USE, ("use",), "uses"
    reference = "uses.group_id"
    differs = "differ"

    def _is_removed(self, leaf: Leaf) -> bool:
        removals = self.log.removals[leaf.tenant]
        if not any(each.use_groups and leaf.number < each.leaf for each in removals):
            return False
        self.log.missing[leaf.tenant, "use_groups"] += 1
        return True


class SettlementCheck(LeafCheck):
    """The settlement of a chunk is removed after the items of the chunk."""

    table, kinds, counted = SETTLEMENT, ("settlement",), "settlements"

    def _is_removed(self, leaf: Leaf) -> bool:
        issued_at = select_column(self.reader.dialect, CHUNK.columns["issued_at"])
        first = "chunks.chunk_number * batches.chunk_size"
        rows = self.reader.fetch(
            f"SELECT {issued_at} FROM chunks"  # noqa: S608 - no value
            " JOIN batches ON batches.batch_number = chunks.batch_number"
            " WHERE chunks.batch_number = ? AND chunks.chunk_number = ? AND NOT EXISTS"
            " (SELECT 1 FROM grants WHERE grants.batch_number = chunks.batch_number"
            f" AND item_number >= {first} AND item_number < {first} + batches.chunk_size)",
            *(leaf.batch_number, leaf.chunk_number),
        )
        moments = [read_instant("issued_at", row[0]) for row in rows]
        return any(
            each.explains(moment, leaf.number)
            for each in self.log.removals[leaf.tenant]
            for moment in moments
        )


_is_month = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])").fullmatch


class PruneCheck(LeafCheck):
    """The records of removals, which explain rows that are missing. There are few."""

    table, kinds = PRUNE, ("prune",)
    reference = "CAST(prunes.prune_number AS TEXT)"

    def _check(self, key: Row, rows: list[Row], leaves: list[Leaf]) -> None:
        super()._check(key, rows, leaves)
        values = self.table.read(rows[0][_KEY + 1 :])
        before, leaf = values["before"], leaves[0]
        if not _is_month(before) or before > values["pruned_at"].strftime("%Y-%m"):
            text = f"{before} is no month that had begun at the time of the removal"
            raise self._found(key, text, leaf=leaf.number)
        counts = [values[name] for name in Removal._fields[2:]]
        self.log.removals[leaf.tenant].append(Removal(before, leaf.number, *counts))


_match_numbers = re.compile(r"([0-9]{1,18})-([0-9]{1,18})").fullmatch


class ChangeCheck(LeafCheck):
    """A leaf covers a range of changes of the config, from a first to a last number."""

    table, kinds, counted = CONFIG_CHANGE, ("config",), "changes"
    differs = "differ"

    def _leaves(self) -> Iterator[Leaf]:
        # There is one for each command that changed the config, so they fit into memory.
        leaves = [leaf._replace(reference=_numbers(leaf.reference)) for leaf in super()._leaves()]
        return iter(sorted(leaves, key=attrgetter("reference", "tenant")))

    def _rows(self) -> Iterator[Row]:
        ranges = [leaf.reference for leaf in self._leaves()]
        names = self.table.select(self.reader.dialect)
        statement = f"SELECT {names} FROM config_changes ORDER BY change_number"  # noqa: S608 - no value
        for row in self.reader.stream(statement):
            number = row[0]
            index = bisect_right(ranges, (number, 2**63))
            covering = ranges[index - 1] if index else (0, -1)
            named = covering if number <= covering[1] else (number, number)
            yield (None, None, CONFIG_LOG, named, None, *row)

    def _leaf_hash(self, rows: list[Row], leaf: Leaf) -> bytes:
        first, last = leaf.reference
        return super()._leaf_hash(rows, leaf) if len(rows) == last - first + 1 else b""

    def _found(self, key: Row, text: str, **place: Any) -> Found:
        first, last = key[-1]
        place = {"reference": None, "number": first, "last_number": last, **place}
        if place.get("table") == "leaves":
            place["last_number"] = None
        return super()._found(key, text, **place)


def _numbers(reference: Any) -> tuple[int, int]:
    match = _match_numbers(reference) if isinstance(reference, str) else None
    return (int(match[1]), int(match[2])) if match else (-1, -1)


def compare_removals(log: LogState) -> Iterator[Problem]:
    """Yield each tenant that lacks something else than its removals have recorded.

    A removal that is going on has removed fewer chunks. If it has removed all, it has removed all
    their items.
    """
    for (tenant, what), missing in sorted(log.missing.items()):
        removals = log.removals[tenant]
        recorded = sum(getattr(each, what) for each in removals)
        is_done = log.missing[tenant, "chunks"] == sum(each.chunks for each in removals)
        if missing > recorded or (what == "items" and is_done and missing < recorded):
            name = what.replace("use_groups", "groups of uses")
            text = f"record the removal of {recorded:,} {name}, and {missing:,} are missing"
            yield Problem("prunes", text, tenant=tenant)


def check_erased(log: LogState) -> Iterator[Problem]:
    """Yield each tenant with more erased texts than its erasures have recorded."""
    recorded: dict[str, int] = dict(
        log.reader.fetch("SELECT tenant, sum(texts) FROM erasures GROUP BY tenant")
    )
    where, params = where_tenant("tenant", log.tenants)
    own = "annotations JOIN batches ON batches.batch_number = annotations.batch_number"
    counts = " UNION ALL ".join(
        f"SELECT tenant, {_erased(table)} AS erased FROM {source}"  # noqa: S608 - no value
        for table, source in (
            (BATCH, "batches"),
            (ANNOTATION, own),
            (CANCELLATION, "cancellations"),
        )
    )
    rows = log.reader.fetch(
        f"SELECT tenant, sum(erased) FROM ({counts}) AS each_row"  # noqa: S608 - no value
        f" WHERE erased > 0 AND {where} GROUP BY tenant",
        *params,
    )
    for tenant, erased in rows:
        if erased > recorded.get(tenant, 0):
            text = f"record the erasure of {recorded.get(tenant, 0):,} texts, and {erased:,} are"
            yield Problem("erasures", f"{text} erased", tenant=tenant)


def _erased(table: StoredTable) -> str:
    """Return the SQL of the number of erased texts in a row."""
    names = [column.name for column in table.columns]
    columns = [f"{table.name}.{name}" for name in names if name + SALT_SUFFIX in names]
    return " + ".join(
        f"CASE WHEN {column} IS NULL AND {column}{SALT_SUFFIX} IS NOT NULL THEN 1 ELSE 0 END"
        for column in columns
    )
