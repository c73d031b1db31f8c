"""Compares rows with the leaves that cover them, by one rule for the leaves of every kind.

The rows of a table and the leaves that name them are read in the same order, and put together by
what the leaves name. Then each leaf has to have the hash of its rows.
"""

import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from heapq import merge
from itertools import groupby, repeat
from typing import Any, NamedTuple

from sqlalchemy import LargeBinary

from worker.ledger.merkle import CONFIG_LOG, encode_record, entry_hash
from worker.proof.checkpoint_format import Fork
from worker.proof.verify.config_log import ConfigLog
from worker.proof.verify.log_reader import LogReader, Row
from worker.proof.verify.stored_rows import (
    ANNOTATION,
    BATCH,
    CANCELLATION,
    CHUNK,
    CONFIG_CHANGE,
    ERASURE,
    LEAF,
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
from worker.rules.annotations import SALT_SUFFIX

UNREADABLE = (TypeError, AttributeError, ValueError)
"""The errors of a value that has no record."""

_UNREADABLE = "has a value that the service does not write"


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

    config is the log of the config, None if that cannot be read. removals are those of each tenant;
    missing counts what a removal explains, by tenant and by name of what is missing.
    """

    reader: LogReader
    config: ConfigLog | None = None
    counts: Counter[str] = field(default_factory=Counter)
    removals: defaultdict[str, list[Removal]] = field(default_factory=lambda: defaultdict(list))
    missing: Counter[tuple[str, str]] = field(default_factory=Counter)


class Key(NamedTuple):
    """The columns of a leaf that name its rows. Nothing of it is checked."""

    batch_number: Any
    chunk_number: Any
    tenant: Any
    reference: Any


class Leaf(NamedTuple):
    """A stored leaf. Nothing of it is checked."""

    key: Key
    kind: str
    number: int
    hash: bytes


class LeafCheck:
    """Compares the rows of a table with the leaves of a kind.

    reference is the column with a row's name in its leaf, None if the leaf names a chunk. A row is
    the id of its batch, and its columns.
    """

    table: StoredTable
    kinds: tuple[str, ...]
    reference: str | None = None
    counted: str | None = None  # the name of the table, if it is None
    differs = "differs"

    def __init__(self, log: LogState) -> None:
        self.log = log
        self.reader = log.reader

    @classmethod
    def shape(cls) -> tuple[bool, bool, bool]:
        """Return which of these the leaves have: numbers of a batch and a chunk, a reference."""
        names_chunk = "chunk_number" in cls.table.columns
        return names_chunk, names_chunk, cls.reference is not None

    def run(self) -> Iterator[Problem]:
        """Yield what is wrong with the rows or their leaves."""
        leaves = ((leaf.key, leaf) for leaf in self._leaves())
        for key, members in _merge(self._rows(), leaves, *self._parts()):
            try:
                self._check(key, *members)
            except Found as found:
                yield found.problem
            except UNREADABLE:
                yield self._found(key, _UNREADABLE).problem

    def _rows(self) -> Iterator[tuple[Key, Row]]:
        """Yield the rows in the order of what a leaf would name."""
        name, columns = self.table.name, self.table.columns
        batch_id, source, numbers = "NULL", name, ("NULL", "NULL")
        tenant = f"{name}.tenant" if "tenant" in columns else "batches.tenant"
        if "batch_number" in columns:
            shared = "batch_number, tenant" if "tenant" in columns else "batch_number"
            batch_id, source = "batches.batch_id", f"{name} LEFT JOIN batches USING ({shared})"
        if "chunk_number" in columns:
            numbers = f"{name}.batch_number", f"{name}.chunk_number"
        rest = ", ".join((batch_id, self.table.select(self.reader.dialect)))
        order = ", ".join(f"{name}.{column}" for column in self.table.key)
        return self._select(Key(*numbers, tenant, self._reference()), rest, source, "", order)

    def _reference(self) -> str:
        """Return the SQL of a row's name in its leaf."""
        if self.reference is None:
            return "NULL"
        name = f"{self.table.name}.{self.reference}"
        is_bytes = isinstance(self.table.columns[self.reference].type, LargeBinary)
        return self.reader.hex(name) if is_bytes else f"CAST({name} AS TEXT)"

    def _parts(self) -> Sequence[Iterator[tuple[Key, Any]]]:
        """Return what else belongs to the rows, in their order, for `_check`."""
        return ()

    def _leaves(self) -> Iterator[Leaf]:
        """Yield the leaves of these kinds in the order of the rows."""
        kinds = ", ".join(f"'{kind}'" for kind in self.kinds)
        key, columns = Key(*Key._fields), "kind, leaf_number, hash"
        condition = f"AND kind IN ({kinds})"
        for own_key, row in self._select(key, columns, "leaves", condition, "leaf_number"):
            yield Leaf(own_key, *row)

    def _select(
        self, key: Key, columns: str, source: str, condition: str, order: str
    ) -> Iterator[tuple[Key, Row]]:
        """Yield the key and the columns of rows of the selected tenants in the order of the key."""
        texts = map(self.reader.by_bytes, (key.tenant, key.reference))
        names = ", ".join((*key[:2], *texts, columns))
        rest = f"{condition} ORDER BY 1, 2, 3, 4, {order}"
        for row in self.reader.select(names, source, f"{key.tenant} IN {{}}", rest):
            yield Key(*row[: len(key)]), row[len(key) :]

    def _check(self, key: Key, rows: list[Row], leaves: list[Leaf], *_parts: list[Any]) -> None:
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
            text = f"has no row, but leaf {leaf.number} covers it"
            raise self._found(key, text, leaf=leaf.number)
        try:
            expected = self._leaf_hash(rows, leaf)
        except UNREADABLE as error:
            text = str(error) if isinstance(error, WrongValue) else _UNREADABLE
            raise self._found(key, text, leaf=leaf.number) from None
        if leaf.hash != expected:
            raise self._differing(key, rows, leaf)
        self.log.counts[self.counted or self.table.name] += len(rows)

    def _leaf_hash(self, rows: list[Row], leaf: Leaf) -> bytes:
        """Return the hash of the leaf of these rows. Raises UNREADABLE."""
        return entry_hash([self._record(row, leaf) for row in rows])

    def _record(self, row: Row, leaf: Leaf) -> bytes:
        batch_id, *columns = row
        values = self.table.read(columns)
        if "batch_number" not in values:
            return encode_record(self.kinds[0], values)
        if not isinstance(batch_id, str):
            number = values["batch_number"]
            raise WrongValue(f"belongs to batch number {number}, which its tenant does not have")
        return encode_record(self.kinds[0], values, tenant=leaf.key.tenant, batch_id=batch_id)

    def _is_removed(self, leaf: Leaf) -> bool:  # noqa: ARG002 - of subclasses
        """Return whether the rows of a leaf were removed because of their age, and count that."""
        return False

    def _differing(self, key: Key, rows: list[Row], leaf: Leaf) -> Found:  # noqa: ARG002
        """Return the problem of rows that have another hash than their leaf."""
        text = f"{self.differs} from what leaf {leaf.number} covers"
        return self._found(key, text, leaf=leaf.number)

    def _found(self, key: Key, text: str, **place: Any) -> Found:
        """Return a problem of the rows or leaves with a key."""
        number, chunk, tenant, reference = key
        named = {"tenant": tenant, "batch": self._batch_id(number), "chunk": chunk}
        return Found(Problem(self.table.name, text, **named, reference=reference)._replace(**place))

    def _batch_id(self, batch_number: Any) -> str | None:
        if not isinstance(batch_number, int):
            return None
        statement = "SELECT batch_id FROM batches WHERE batch_number = ?"
        return next((row[0] for row in self.reader.fetch(statement, batch_number)), None)


def _merge(*sources: Iterable[tuple[Key, Any]]) -> Iterator[tuple[Key, list[list[Any]]]]:
    """Put together what sources have by their keys, in whose order all of them are."""
    numbered = (zip(source, repeat(number)) for number, source in enumerate(sources))
    merged = merge(*numbered, key=lambda each: _sort_key(each[0][0]))
    for key, group in groupby(merged, lambda each: each[0][0]):
        values: list[list[Any]] = [[] for _ in sources]
        for (_, value), number in group:
            values[number].append(value)
        yield key, values


def _sort_key(key: Key) -> tuple[Any, ...]:
    """Return the key as SQLite sorts it: a changed value can have another type."""
    return tuple((_RANKS.get(type(value), 1), value) for value in key)


_RANKS = {type(None): 0, str: 2, bytes: 3}


class CancellationCheck(LeafCheck):
    """A cancellation has the id of a batch, which its leaf names."""

    table, kinds, reference = CANCELLATION, ("cancellation",), "batch_id"

    def _found(self, key: Key, text: str, **place: Any) -> Found:
        return super()._found(key, text, **{"batch": key.reference, "reference": None, **place})


class RevocationCheck(LeafCheck):
    """A revocation has a leaf in the tree of each tenant whose grants it ended."""

    table, kinds, reference = REVOCATION, ("revocation",), "revocation_id"


class ErasureCheck(LeafCheck):
    """An erasure has a leaf in the tree of each tenant whose texts it erased."""

    table, kinds, reference = ERASURE, ("erasure",), "erasure_id"


class ForkCheck(LeafCheck):
    """The leaf of a fork has no row: its reference is the record."""

    table, kinds, reference = LEAF, ("fork",), "reference"
    counted = "forks"

    @classmethod
    def shape(cls) -> tuple[bool, bool, bool]:
        """Return that the leaves have only a reference."""
        return False, False, True

    def _rows(self) -> Iterator[tuple[Key, Row]]:
        return ((leaf.key, (leaf.key.reference,)) for leaf in self._leaves())

    def _record(self, row: Row, leaf: Leaf) -> bytes:
        fork = Fork.parse(row[0])
        if fork.tenant != leaf.key.tenant:
            raise WrongValue("declares a fork of another tree")
        return fork.record.encode()


class ReissueCheck(LeafCheck):
    """The leaf of a reissue names the fingerprint of its digests."""

    table, kinds, reference = REISSUE, ("reissue",), "fingerprint"


class UseCheck(LeafCheck):
    """A leaf covers all uses that one transaction recorded for a tenant."""

    table, kinds, reference = USE, ("use",), "group_id"
    differs = "differ"

    def _is_removed(self, leaf: Leaf) -> bool:
        removals = self.log.removals[leaf.key.tenant]
        if not any(each.use_groups and leaf.number < each.leaf for each in removals):
            return False
        self.log.missing[leaf.key.tenant, "use_groups"] += 1
        return True


class SettlementCheck(LeafCheck):
    """The settlement of a chunk is removed after the items of the chunk."""

    table, kinds = SETTLEMENT, ("settlement",)

    def _is_removed(self, leaf: Leaf) -> bool:
        issued_at = select_column(self.reader.dialect, CHUNK.columns["issued_at"])
        first = "chunks.chunk_number * batches.chunk_size"
        rows = self.reader.fetch(
            f"SELECT {issued_at} FROM chunks JOIN batches USING (batch_number)"  # noqa: S608 - no value
            " WHERE chunks.batch_number = ? AND chunks.chunk_number = ? AND NOT EXISTS"
            " (SELECT 1 FROM grants WHERE grants.batch_number = chunks.batch_number"
            f" AND item_number >= {first} AND item_number < {first} + batches.chunk_size)",
            *leaf.key[:2],
        )
        return any(
            each.explains(read_instant("issued_at", moment), leaf.number)
            for each in self.log.removals[leaf.key.tenant]
            for (moment,) in rows
        )


_is_month = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])").fullmatch


class PruneCheck(LeafCheck):
    """The records of removals, which explain rows that are missing. There are few."""

    table, kinds, reference = PRUNE, ("prune",), "prune_number"

    def _check(self, key: Key, rows: list[Row], leaves: list[Leaf], *_parts: list[Any]) -> None:
        super()._check(key, rows, leaves)
        _, *columns = rows[0]
        values, leaf = self.table.read(columns), leaves[0].number
        before = values["before"]
        if not _is_month(before) or before > values["pruned_at"].strftime("%Y-%m"):
            text = f"{before} is no month that had begun at the time of the removal"
            raise self._found(key, text, leaf=leaf)
        counts = values["chunks"], values["items"], values["use_groups"]
        self.log.removals[key.tenant].append(Removal(before, leaf, *counts))


_match_numbers = re.compile(r"([0-9]{1,18})-([0-9]{1,18})").fullmatch


class ChangeCheck(LeafCheck):
    """A leaf covers a range of changes of the config, which are of no single tenant."""

    table, kinds, reference = CONFIG_CHANGE, ("config",), "change_number"
    counted = "changes"
    differs = "differ"

    def _leaves(self) -> Iterator[Leaf]:
        # There is one for each command that changed the config, so they fit into memory.
        for leaf in sorted(super()._leaves(), key=lambda leaf: _numbers(leaf.key.reference)):
            numbers = _numbers(leaf.key.reference)
            yield leaf._replace(key=leaf.key._replace(reference=numbers))

    def _rows(self) -> Iterator[tuple[Key, Row]]:
        if self.reader.tenants:
            return
        ranges = [leaf.key.reference for leaf in self._leaves()]
        names = self.table.select(self.reader.dialect)
        statement = f"SELECT {names} FROM config_changes ORDER BY change_number"  # noqa: S608 - no value
        for row in self.reader.stream(statement):
            number = row[0]
            index = bisect_right(ranges, (number, 2**63))
            covering = ranges[index - 1] if index else (0, -1)
            named = covering if number <= covering[1] else (number, number)
            yield Key(None, None, CONFIG_LOG, named), (None, *row)

    def _leaf_hash(self, rows: list[Row], leaf: Leaf) -> bytes:
        first, last = leaf.key.reference
        return super()._leaf_hash(rows, leaf) if len(rows) == last - first + 1 else b""

    def _found(self, key: Key, text: str, **place: Any) -> Found:
        first, last = key.reference
        place = {"reference": None, "number": first, "last_number": last, **place}
        if place.get("table") == "leaves":
            place["last_number"] = None
        return super()._found(key, text, **place)


def _numbers(reference: Any) -> tuple[int, int]:
    match = _match_numbers(reference) if isinstance(reference, str) else None
    return (int(match[1]), int(match[2])) if match else (-1, -1)


CHECKS: tuple[type[LeafCheck], ...] = (
    PruneCheck,  # first: it explains rows that are missing
    *(CancellationCheck, RevocationCheck, ErasureCheck, UseCheck, ReissueCheck, SettlementCheck),
    *(ForkCheck, ChangeCheck),
)
"""The checks of all leaves but those of chunks."""


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


def check_erased(reader: LogReader) -> Iterator[Problem]:
    """Yield each tenant with more erased texts than its erasures have recorded."""
    statement = "SELECT tenant, sum(texts) FROM erasures GROUP BY tenant"
    recorded: dict[str, int] = dict(reader.fetch(statement))
    own = "annotations JOIN batches USING (batch_number)"
    sources = (BATCH, "batches"), (ANNOTATION, own), (CANCELLATION, "cancellations")
    counts = " UNION ALL ".join(
        f"SELECT tenant, {_erased(table)} AS erased FROM {source}"  # noqa: S608 - no value
        for table, source in sources
    )
    rest = "AND erased > 0 GROUP BY tenant"
    rows = reader.select("tenant, sum(erased)", f"({counts}) AS each_row", "tenant IN {}", rest)
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
