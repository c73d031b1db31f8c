"""The tables of the audit log as the driver reads them, and the problems that are found in them."""

import json
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import JSON, Boolean, Column, Integer, LargeBinary, String

import models
from models.base import Base, Instant
from worker.ledger.merkle import HASH_BYTES


class WrongValue(ValueError):
    """A value that the service does not write; the text names its column."""


class Problem(NamedTuple):
    """A row that is not as it was written, and what is wrong with it.

    reference is what a leaf calls the row if it has no batch, such as a group of uses. number is
    that of a leaf or of a config change, or the size of a checkpoint. If only a range of rows is
    known to be wrong, last_item or last_number ends the range. leaf is the number of the leaf from
    which the row differs.
    """

    table: str
    text: str
    tenant: str | None = None
    batch: str | None = None
    chunk: int | None = None
    item: int | None = None
    last_item: int | None = None
    reference: str | None = None
    number: int | None = None
    last_number: int | None = None
    leaf: int | None = None

    def __str__(self) -> str:
        parts = (
            ("tenant", self.tenant, None),
            ("batch", self.batch, None),
            ("chunk", self.chunk, None),
            ("item", self.item, self.last_item),
            (_REFERENCES.get(self.table, "reference"), self.reference, None),
            (_NUMBERS.get(self.table, "number"), self.number, self.last_number),
        )
        place = ", ".join(_place(*part) for part in parts if part[1] is not None)
        return f"{self.table}: {place}: {self.text}" if place else f"{self.table}: {self.text}"


_NUMBERS = {
    "leaves": "leaf",
    "checkpoints": "size",
    "config_changes": "change",
    "tree_heads": "size",
}
_REFERENCES = {
    "uses": "group",
    "revocations": "revocation",
    "prunes": "number",
    "erasures": "erasure",
    **dict.fromkeys(("buckets", "policies", "quotas", "endpoints", "tenant_keys"), "name"),
    "quota_overrides": "name",
}


def _place(name: str, first: str | int | None, last: int | None) -> str:
    return f"{name} {first}" if last is None or last == first else f"{name}s {first} to {last}"


class Found(Exception):
    """A problem was found."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class StoredTable:
    """A table whose rows are read as the driver returns them.

    Another spelling of a value is wrong, too: nobody but the service writes these rows.
    """

    def __init__(self, model: type[Base]) -> None:
        table = model.metadata.tables[model.__tablename__]
        self.name = table.name
        self.columns = table.columns
        self.key = [column.name for column in table.primary_key]
        self._readers = [(column.name, *_reader(column)) for column in table.columns]

    def select(self, dialect: str) -> str:
        """Return the list of all columns in a query."""
        return ", ".join(select_column(dialect, column) for column in self.columns)

    def read(self, row: Sequence[Any]) -> dict[str, Any]:
        """Return the values of a row by column. Raises WrongValue."""
        values = {}
        for (name, types, convert), value in zip(self._readers, row, strict=True):
            if type(value) not in types:
                raise WrongValue(f"{name} has a value of another type")
            values[name] = value if value is None or convert is None else convert(name, value)
        return values


def select_column(dialect: str, column: Column[Any]) -> str:
    """Return a column in a query: a time as SQLite stores it, JSON as its text."""
    name = f'{column.table.name}."{column.name}"'
    if dialect == "sqlite":
        return name
    if isinstance(column.type, Instant):
        return f"to_char({name} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')"
    return f"{name}::text" if isinstance(column.type, JSON) else name


_Convert = Callable[[str, Any], Any]


def _reader(column: Column[Any]) -> tuple[tuple[type, ...], _Convert | None]:
    """Return the types of a column's values in the driver, and the function that converts them."""
    types: tuple[type, ...]
    convert: _Convert | None = None
    match column.type:
        case Instant():
            types, convert = (str,), read_instant
        case JSON():  # SQLite stores a number in such a column as a number
            types, convert = (str, int, float), read_json
        case LargeBinary(length=length):
            types, convert = (bytes,), _read_hash if length == HASH_BYTES else None
        case Integer():
            types = (int,)
        case Boolean():  # SQLite has none
            types = (bool, int)
        case String():
            types = (str,)
        case other:
            raise TypeError(f"{column}: no reader for {other!r}")
    return ((*types, type(None)) if column.nullable else types), convert


def _read_hash(name: str, value: Any) -> bytes:
    """Return a hash. Raises WrongValue: two of another length can have the same hash together."""
    if len(value) != HASH_BYTES:
        raise WrongValue(f"{name} has {len(value)} bytes instead of {HASH_BYTES}")
    return bytes(value)


def read_instant(name: str, value: Any) -> datetime:
    """Return a time in UTC, from the text in which SQLite stores it. Raises WrongValue."""
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise WrongValue(f"{name} is no date and time") from None
    if moment.tzinfo is not None or moment.isoformat(" ", "microseconds") != value:
        raise WrongValue(f"{name} is not spelled as the service writes times")
    return moment.replace(tzinfo=UTC)


def read_json(name: str, value: Any) -> Any:
    """Return what a JSON text contains, or a number as it is. Raises WrongValue.

    The service stores NULL and no null.
    """
    if not isinstance(value, str):
        if isinstance(value, int | float) and math.isfinite(value):
            return value
        raise WrongValue(f"{name} is no JSON")
    try:
        content = json.loads(value)
        is_spelled = json.dumps(content, allow_nan=False) == value
    except (ValueError, RecursionError):
        raise WrongValue(f"{name} is no JSON") from None
    if not is_spelled or content is None:
        raise WrongValue(f"{name} is not spelled as the service writes JSON")
    return content


BATCH, CHUNK, GRANT, ANNOTATION, CANCELLATION, REISSUE, SETTLEMENT, USE = map(
    StoredTable,
    (
        *(models.Batch, models.Chunk, models.Grant, models.Annotation, models.Cancellation),
        *(models.Reissue, models.Settlement, models.Use),
    ),
)
REVOCATION, ERASURE, PRUNE, CONFIG_CHANGE, LEAF, CHECKPOINT = map(
    StoredTable,
    (
        *(models.Revocation, models.Erasure, models.Prune, models.ConfigChange, models.Leaf),
        models.Checkpoint,
    ),
)
