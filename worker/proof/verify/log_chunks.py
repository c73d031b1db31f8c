"""Batches, chunks, items and removed months as they are stored, with the hashes of their records.

The bytes of the records are those that `worker.ledger` encodes, at a fifth of its time: see the
test.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from json.encoder import encode_basestring
from operator import itemgetter
from typing import Any, NamedTuple

from worker.ledger.merkle import (
    CHUNK_KINDS,
    HASH_BYTES,
    chunk_record,
    dump_canonical,
    encode_record,
    entry_hash,
)
from worker.proof.verify.log_reader import (
    Found,
    LogReader,
    Problem,
    Reader,
    Row,
    WrongValue,
    digest,
    instant,
    is_digest,
    json_value,
    number,
    optional,
    problems_of,
    read_row,
    text,
    where_tenant,
)
from worker.proof.verify.log_rows import BATCH, CHUNK, PRUNE, select_columns

_CACHED_TEXTS = 1_000  # of terms and refusals, few are distinct

UNUSUAL = (TypeError, AttributeError, ValueError)
"""The errors of a row that the service would not write."""

_Encode = Callable[[Any], str | None]  # None is left out of the record


class RecordEncoder:
    """Encodes the records of one table: its columns by name, without the number of a batch.

    A column that is read with another function than those of `_ENCODERS` is not supported.
    """

    def __init__(
        self, kind: str, columns: Mapping[str, Reader], shared: tuple[str, ...] = ()
    ) -> None:
        """Take the columns in the order of the rows; shared are texts that follow them."""
        readers = {**columns, **dict.fromkeys(shared, text)}
        positions = {name: position for position, name in enumerate(readers)}
        names = sorted(readers.keys() - {"batch_number"})
        self._encoders = [(name, positions[name], _ENCODERS[readers[name]]) for name in names]
        self._end = f'"type":"{kind}"}}'
        if names[-1] > "type":
            raise ValueError("a column follows the type")

    def encode(self, row: Row) -> bytes:
        """Return the record of a row. Raises UNUSUAL."""
        members = [
            f'"{name}":{value},'
            for name, position, encode in self._encoders
            if (value := encode(row[position])) is not None
        ]
        return f"{{{''.join(members)}{self._end}".encode()


def _encode_number(value: Any) -> str:
    if not isinstance(value, int):
        raise TypeError
    return str(value)


def _encode_digest(value: Any) -> str:
    if len(value) != HASH_BYTES:
        raise ValueError
    return f'"{value.hex()}"'


def _encode_instant(value: Any) -> str:
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is not None or moment.isoformat(" ", "microseconds") != value:
        raise ValueError
    return f'"{value[:10]}T{value[11:]}Z"'


def _encode_json(value: Any) -> str | None:
    content, encoded = read_json(value)
    return None if content is None else encoded


@lru_cache(_CACHED_TEXTS, typed=True)
def read_json(value: Any) -> tuple[Any, str]:
    """Return what a stored JSON value contains, not to be changed, and its text in a record.

    Raises WrongValue, without the name of the column.
    """
    content = json_value("", value)
    return content, dump_canonical(content)


def _optional(encode: _Encode) -> _Encode:
    return lambda value: None if value is None else encode(value)


_REQUIRED: dict[Reader, _Encode] = {
    text: encode_basestring,
    number: _encode_number,
    digest: _encode_digest,
    instant: _encode_instant,
    json_value: _encode_json,
}
_ENCODERS = _REQUIRED | {optional(read): _optional(encode) for read, encode in _REQUIRED.items()}


_BATCH_RECORD = RecordEncoder("batch", BATCH)
_CHUNK_RECORD = RecordEncoder("chunk", CHUNK, shared=("tenant", "batch_id"))
_BATCH_VALUES = ("batch_id", "tenant", "kind", "terms", "total", "chunk_size", "decided_at")
_batch_values = itemgetter(*map(list(BATCH).index, _BATCH_VALUES))
_chunk_values = itemgetter(*map(list(CHUNK).index, ("issued", "refused", "issued_at")))


class Leaf(NamedTuple):
    """A stored leaf of a chunk, a reissue or a settlement, unchecked."""

    batch_number: int
    chunk_number: int
    tenant: str
    leaf_number: int
    kind: str
    reference: str | None
    hash: bytes

    @property
    def place(self) -> tuple[str, int]:
        """Its tenant and number."""
        return self.tenant, self.leaf_number

    @property
    def is_typed(self) -> bool:
        """True if a leaf of a chunk has the types of such a leaf; its tenant and kind are known."""
        is_number = isinstance(self.leaf_number, int)
        return is_number and self.reference is None and is_digest(self.hash)


class StoredBatch:
    """A batch whose row can be read, with its record, and where its problems are.

    charged_at is the time of its charge as it is stored.
    """

    __slots__ = ("charged_at", "chunk_size", "id", "kind", "record", "tenant", "terms", "total")

    def __init__(self, row: Row) -> None:
        """Read a row. Raises WrongValue."""
        try:
            self.record = _BATCH_RECORD.encode(row)
        except UNUSUAL:
            values = read_row(BATCH, row)  # names the column
            del values["batch_number"]
            self.record = encode_record("batch", values)
        self.id: str
        self.tenant: str
        self.total: int
        self.chunk_size: int
        self.id, self.tenant, self.kind, terms, self.total, self.chunk_size, self.charged_at = (
            _batch_values(row)
        )
        self.terms = read_json(terms)[0]

    def items_of(self, chunk: int) -> range:
        """Return the numbers of a chunk's items."""
        size = self.chunk_size
        return range(chunk * size, min((chunk + 1) * size, self.total))

    def found(self, table: str, text: str, leaf: Leaf | None = None, **place: Any) -> Found:
        """Return a problem of the batch, or of a part of it; leaf is the one it differs from."""
        problem = Problem(table, text, tenant=self.tenant, batch=self.id)._replace(**place)
        return Found(problem, None if leaf is None else leaf.place)


class StoredChunk:
    """A chunk whose row can be read, with its record. issued_at is as it is stored."""

    __slots__ = ("issued", "issued_at", "record", "refused")

    def __init__(self, batch: StoredBatch, row: Row) -> None:
        """Read a row. Raises WrongValue."""
        try:
            self.record = _CHUNK_RECORD.encode((*row, batch.tenant, batch.id))
        except UNUSUAL:
            self.record = chunk_record(batch.tenant, batch.id, read_row(CHUNK, row))
        self.issued, self.refused, self.issued_at = _chunk_values(row)


@dataclass(slots=True)
class ChunkRows:
    """Everything that is stored of one chunk of a batch; row is None if there is no such chunk.

    item_edge is the row with the tree of its items, which `audit prune` stores. settlement is None
    if its upload slots are not settled. chunk_leaves are those of the leaves that cover the chunk
    itself.
    """

    batch: StoredBatch
    number: int
    row: Row | None
    items: Sequence[Row]
    leaves: Sequence[Leaf]
    reissues: Sequence[Row]
    item_edge: Row | None = None
    settlement: Row | None = None
    chunk_leaves: list[Leaf] = field(init=False)

    def __post_init__(self) -> None:
        self.chunk_leaves = [leaf for leaf in self.leaves if leaf.kind in CHUNK_KINDS]

    def found(self, table: str, text: str, leaf: Leaf | None = None, **place: Any) -> Found:
        """Return a problem of the chunk, or of a part of it; leaf is the one it differs from."""
        return self.batch.found(table, text, leaf, chunk=self.number, **place)

    def wrong_value(self, table: str, error: WrongValue, **place: Any) -> Found:
        """Return the problem of a value that cannot be read."""
        return self.found(table, error.problem, column=error.column, **place)


_is_escaped = re.compile(r'[\x00-\x1f"\\]').search
_match_size = re.compile(r'\{"size": (0|[1-9][0-9]{0,17})\}').fullmatch


class WrongItem(ValueError):
    """An item that is not as it was written: its number, and what is wrong with it."""

    def __init__(self, item: int, error: WrongValue) -> None:
        super().__init__(f"item {item}: {error}")
        self.item = item
        self.error = error


class Items:
    """The items of one chunk: the hashes of their records, and what their details say.

    sizes is the sum of the sizes that issued items name.
    """

    __slots__ = ("hashes", "issued", "sizes")

    def __init__(self, rows: Sequence[Row], first: int) -> None:
        """Read rows whose items are numbered from first on. Raises WrongItem."""
        self.hashes: list[bytes] = []
        self.issued = self.sizes = 0
        if not rows:
            return
        try:
            is_usual = self._hash(rows, first)
        except UNUSUAL:  # WrongValue, and text that is not Unicode
            is_usual = False
        if not is_usual:
            raise _find_wrong_item(rows, first)

    def _hash(self, rows: Sequence[Row], first: int) -> bool:
        """Hash all records. Returns false, or raises, if a row is not as the service writes it."""
        _, numbers, keys, codes, details, digests = zip(*rows, strict=True)
        self.issued = codes.count(None)
        refused = len(rows) - self.issued
        if numbers != tuple(range(first, first + len(rows))) or digests.count(None) != refused:
            return False
        issued = [each for each in digests if each is not None] if refused else digests
        if not {HASH_BYTES}.issuperset(map(len, issued)):
            return False
        # Few texts have characters to escape: one search is much faster than quoting each.
        if _is_escaped("".join(keys)):
            keys = tuple(encode_basestring(key)[1:-1] for key in keys)
        if refused:
            codes = tuple(code if code is None else encode_basestring(code) for code in codes)
        parts: Sequence[str] = ("",) * len(rows)
        if details.count(None) != len(rows):
            parts = [self._detail(*pair) for pair in zip(details, codes, strict=True)]
        # Equal to records.item_record, which takes longer: see its test. A digest of a refused item
        # is missing, or else that of an issued one is.
        self.hashes = [
            record.digest()
            for record in map(
                sha256,
                [
                    f'\0{{{part}"digest":"{signature.hex()}","item":{item},"key":"{key}"}}'.encode()
                    if code is None
                    else f'\0{{"code":{code},{part}"item":{item},"key":"{key}"}}'.encode()
                    for item, key, code, part, signature in zip(
                        numbers, keys, codes, parts, digests, strict=True
                    )
                ],
            )
        ]
        return True

    def _detail(self, detail: Any, code: str | None) -> str:
        if detail is None:
            return ""
        match = _match_size(detail) if isinstance(detail, str) else None
        size: Any
        if match is not None:  # the usual detail of an upload, four times as fast
            part, size = f'"detail":{{"size":{match[1]}}},', int(match[1])
        else:
            value, encoded = read_json(detail)
            part = f'"detail":{encoded},'
            size = value.get("size") if isinstance(value, dict) else None
        if code is None and isinstance(size, int):
            self.sizes += size
        return part


def _find_wrong_item(rows: Sequence[Row], first: int) -> WrongItem:
    """Find the first item that is not as the service writes it."""
    for expected, row in enumerate(rows, first):
        try:
            _check_item(row, expected)
        except WrongValue as error:
            return WrongItem(expected, error)
    raise RuntimeError("the items cannot be hashed, and none of them is wrong")


def _check_item(row: Row, expected: int) -> None:
    """Raise WrongValue for a value that cannot be read, or that contradicts another."""
    _, item, key, code, detail, signature = row
    if item != expected:
        raise WrongValue("item_number", "is missing")
    number("item_number", item)
    _unicode("object_key", key)
    if detail is not None:
        json_value("detail", detail)
    if code is not None:
        _unicode("code", code)
        if signature is not None:
            raise WrongValue("digest", "is set, though the item was refused")
    elif signature is None:
        raise WrongValue("digest", "is missing, though the item was issued")
    else:
        digest("digest", signature)


def _unicode(column: str, value: Any) -> None:
    try:
        text(column, value).encode()
    except UnicodeEncodeError:
        raise WrongValue(column, "is no Unicode text") from None


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
            removed = _check_prune(row, by_key)
        except Found as found:
            prunes.found.append(found)
        else:
            prunes.removed[row[1]].append(removed)
    for (tenant, _), (leaf_number, _hash) in by_key.items():
        text = f"has no row for leaf {leaf_number}"
        prunes.found.append(Found(Problem("prunes", text, tenant=tenant)))
    return prunes


def _check_prune(row: Row, leaves: dict[tuple[str, str | None], Row]) -> RemovedMonths:
    prune_number, tenant = row[0], row[1]
    leaf = leaves.pop((tenant, str(prune_number)), None)
    place: dict[str, Any] = {"tenant": tenant, "number": prune_number}
    if leaf is None:
        raise Found(Problem("prunes", "no leaf covers it", **place))
    with problems_of("prunes", **place):
        values = read_row(PRUNE, row)
    del values["prune_number"]
    if entry_hash([encode_record("prune", values)]) != leaf[1]:
        text = f"differs from what leaf {leaf[0]} covers"
        raise Found(Problem("prunes", text, **place), (tenant, leaf[0]))
    before = values["before"]
    if not _is_month(before) or before > values["pruned_at"].strftime("%Y-%m"):
        text = "is no month that had begun at the time of the removal"
        raise Found(Problem("prunes", text, column="before", **place), (tenant, leaf[0]))
    return RemovedMonths(before, leaf[0], *(values[name] for name in RemovedMonths._fields[2:]))


def compare_removed(
    prunes: Prunes, removed_chunks: Mapping[str, int], removed_items: Mapping[str, int]
) -> list[Problem]:
    """Return a problem for each tenant that lacks more than its removals have recorded.

    A removal that is going on has removed less.
    """
    problems = []
    for tenant, chunks in sorted(removed_chunks.items()):
        items, removed = removed_items[tenant], prunes.removed.get(tenant, [])
        recorded = (sum(each.chunks for each in removed), sum(each.items for each in removed))
        if chunks < recorded[0] or (chunks, items) == recorded:
            continue
        text = (
            f"record the removal of {recorded[1]:,} items of {recorded[0]:,} chunks, and"
            f" {items:,} items of {chunks:,} chunks are missing"
        )
        problems.append(Problem("prunes", text, tenant=tenant))
    return problems


def compare_removed_uses(prunes: Prunes, found: Mapping[str, int]) -> list[Problem]:
    """Return a problem for each tenant that lacks more groups of uses than are recorded."""
    problems = []
    for tenant, groups in sorted(found.items()):
        recorded = sum(each.use_groups for each in prunes.removed.get(tenant, []))
        if groups > recorded:
            text = f"record the removal of {recorded:,} groups of uses, and {groups:,} are missing"
            problems.append(Problem("prunes", text, tenant=tenant))
    return problems
