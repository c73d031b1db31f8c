"""Erases texts of producers, which may be personal, and records how many were erased and why.

The record of a row has only a commitment to each text. An erasure removes the text and its salt,
and leaves the commitment, so the tree still verifies. It cannot be undone.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Self

from sqlalchemy import (
    ColumnElement,
    Connection,
    Update,
    and_,
    bindparam,
    func,
    insert,
    or_,
    select,
    update,
)

from models import Annotation, Batch, Cancellation, Erasure, Reservation
from valetkey.wire.grant_ids import grant_id
from worker.base.pages import in_parts
from worker.core.annotations import ANNOTATION_FIELDS, SALT_SUFFIX, commitment
from worker.core.issued_grants import GrantName
from worker.ledger.merkle import encode_record, entry_hash
from worker.ledger.reservations import REMAINING
from worker.ledger.tenant_history import is_of_tenant
from worker.ledger.tree_leaves import NewLeaf, append_leaf


class _Table(NamedTuple):
    """A table with texts that can be erased. owner is the table that names the tenant and batch."""

    name: str
    model: Any
    owner: Any
    texts: tuple[str, ...]

    @property
    def text_columns(self) -> list[str]:
        """The columns of the texts, and of their salts."""
        return [each for name in self.texts for each in (name, name + SALT_SUFFIX)]


_TABLES = (
    _Table("batch", Batch, Batch, ("requested_by", "reason", "recipient")),
    _Table("item", Annotation, Batch, ANNOTATION_FIELDS),
    _Table("cancellation", Cancellation, Cancellation, ("requested_by", "reason")),
)


_BY_NAME = {table.name: table for table in _TABLES}


class ErasureTarget(NamedTuple):
    """The texts to erase: those that name a person, or those of one grant.

    A name is compared without regard to the case of ASCII letters. With a recipient, the reason and
    the reference in the same row are erased, too; with a requester, the reason.
    """

    recipient: str | None = None
    requested_by: str | None = None
    grant: GrantName | None = None
    tenant: str | None = None


class ErasedRow(NamedTuple):
    """A row whose texts in some columns were erased, or have to be, by names that every copy has.

    table is batch, item or cancellation. item_number is None but for an item.
    """

    table: str
    tenant: str
    batch_id: str
    item_number: int | None
    columns: tuple[str, ...]

    @classmethod
    def parse(cls, line: str) -> Self:
        """Parse one line of JSON. Raises ValueError unless it has all fields and no others."""
        values = json.loads(line)
        if not isinstance(values, dict) or values.keys() != set(cls._fields):
            raise ValueError("it has other fields")
        table = _BY_NAME.get(values["table"])
        columns, number = values["columns"], values["item_number"]
        is_item = table is not None and table.model is Annotation
        is_valid = (
            table is not None
            and isinstance(values["tenant"], str)
            and isinstance(values["batch_id"], str)
            and (type(number) is int if is_item else number is None)
            and isinstance(columns, list)
            and set(columns) <= set(table.texts)
        )
        if not is_valid:
            raise ValueError("a field has another value")
        return cls(**values | {"columns": tuple(columns)})


class FoundText(NamedTuple):
    """A row as it is stored, with the columns whose texts are to be erased."""

    table: _Table
    stored: Mapping[str, Any]
    columns: tuple[str, ...]

    @property
    def tenant(self) -> str:
        """The id of the tenant."""
        tenant: str = self.stored["tenant"]
        return tenant


class ErasureAuthor(NamedTuple):
    """The account that erases, its reason, and the time."""

    erased_by: str
    reason: str | None
    erased_at: datetime


def find_texts(
    connection: Connection, target: ErasureTarget, *, locks: bool = False
) -> list[FoundText]:
    """Return the rows with texts of the target; with locks, nobody else changes them meanwhile."""
    erased = set(_erased_columns(target))
    found = []
    for table, conditions in _selections(connection, target):
        for row in _read(connection, table, conditions, locks=locks):
            columns = tuple(name for name in table.texts if name in erased and row[name])
            if columns:
                found.append(FoundText(table, row, columns))
    return found


def _erased_columns(target: ErasureTarget) -> Iterator[str]:
    if target.grant is not None:
        yield from ("requested_by", *ANNOTATION_FIELDS)
    if target.recipient is not None:
        yield from ANNOTATION_FIELDS
    if target.requested_by is not None:
        yield from ("requested_by", "reason")


_Conditions = list[ColumnElement[bool]]


def _selections(
    connection: Connection, target: ErasureTarget
) -> Iterator[tuple[_Table, _Conditions]]:
    """Yield tables and conditions that together select each row of the target once."""
    for table in _TABLES:
        own: _Conditions = []
        if target.tenant is not None:
            own = [is_of_tenant(connection, table.owner.tenant, target.tenant)]
        for conditions in _alternatives(connection, table, target):
            yield table, [*own, *conditions]


def _alternatives(
    connection: Connection, table: _Table, target: ErasureTarget
) -> Iterator[_Conditions]:
    if target.recipient is not None and table.model is not Cancellation:
        yield [_is_text(table.model.recipient, target.recipient)]
        if table.model is Annotation:  # without a recipient of its own, it has that of its batch
            has_none = Annotation.recipient.is_(None), Annotation.recipient_salt.is_(None)
            yield [*has_none, _is_text(Batch.recipient, target.recipient)]
    if target.requested_by is not None and "requested_by" in table.texts:
        yield [_is_text(table.model.requested_by, target.requested_by)]
    if target.grant is not None and table.model is not Cancellation:
        batch_id, number, tenant = target.grant
        own = [] if tenant is None else [is_of_tenant(connection, Batch.tenant, tenant)]
        # A batch with more items has the texts of other grants as well.
        is_item = Annotation.item_number == number if table.model is Annotation else _IS_ALONE
        if table.model is Annotation or number == 0:
            yield [*own, Batch.batch_id == batch_id, is_item]
        yield [*own, Batch.reissue_of == grant_id(batch_id, number)]


_IS_ALONE = Batch.total == 1


def _is_text(column: Any, text: str) -> ColumnElement[bool]:
    is_equal: ColumnElement[bool] = func.lower(column) == func.lower(text)
    return is_equal


def _read(
    connection: Connection, table: _Table, conditions: _Conditions, *, locks: bool = False
) -> Iterator[Any]:
    """Read the keys and texts of rows, with their tenant and batch id."""
    texts = [getattr(table.model, name) for name in table.text_columns]
    query = select(table.owner.tenant, table.owner.batch_id, *texts)
    if table.owner is Batch:
        query = query.add_columns(Batch.batch_number)
    if table.model is Annotation:
        is_own = Batch.batch_number == Annotation.batch_number
        query = query.add_columns(Annotation.item_number).join(Annotation, is_own)
    if locks:
        query = query.with_for_update(of=table.model)
    rows = connection.execute(query.where(*conditions), execution_options={"yield_per": 1_000})
    yield from rows.mappings()


def find_rows(
    connection: Connection, rows: Iterable[ErasedRow], tenant: str | None, *, locks: bool = False
) -> list[FoundText]:
    """Return those of these rows that exist and have some of the texts, as `find_texts` does."""
    by_batch: defaultdict[tuple[str, str, str], list[ErasedRow]] = defaultdict(list)
    for row in rows:
        by_batch[row[:3]].append(row)
    found = []
    for (name, tenant_id, batch_id), of_batch in by_batch.items():
        table = _BY_NAME[name]
        own = [table.owner.tenant == tenant_id, table.owner.batch_id == batch_id]
        if tenant is not None:
            own.append(is_of_tenant(connection, table.owner.tenant, tenant))
        for part in in_parts(of_batch):
            columns = {row.item_number: row.columns for row in part}
            items = [Annotation.item_number.in_(columns)] if table.model is Annotation else []
            for stored in _read(connection, table, [*own, *items], locks=locks):
                names = columns[stored.get("item_number")]
                left = tuple(each for each in names if stored[each] is not None)
                found += [FoundText(table, stored, left)] if left else []
    return found


def may_erase(connection: Connection) -> bool:
    """Return whether the user of the database may change texts: on PostgreSQL, only the owner."""
    if connection.dialect.name == "sqlite":
        return True
    query = select(func.has_table_privilege(Batch.__tablename__, "UPDATE"))
    return bool(connection.scalar(query))


def count_open(connection: Connection, found: Iterable[FoundText]) -> int:
    """Count the batches of these rows of which chunks may still arrive: they will be refused."""
    numbers = {each.stored["batch_number"] for each in found if each.table.owner is Batch}
    query = select(func.count()).where(Reservation.chunk_number == REMAINING)
    parts = in_parts(sorted(numbers))
    counts = (connection.scalar(query.where(Reservation.batch_number.in_(part))) for part in parts)
    return sum(count or 0 for count in counts)


def erase_texts(
    connection: Connection, found: Sequence[FoundText], author: ErasureAuthor, erasure_id: str
) -> int:
    """Erase these texts, and return how many there were.

    Appends a leaf for each tenant that says how many. Call it last in the transaction, as
    `append_leaf` says.
    """
    counts: Counter[str] = Counter()
    for each in found:
        counts[each.tenant] += len(each.columns)
    for table in _TABLES:
        values = [_new_values(each) for each in found if each.table is table]
        for part in in_parts(values, _ROWS_PER_UPDATE):
            connection.execute(_update(table), part)
    _forget_requests(connection, found)
    for tenant, texts in sorted(counts.items()):
        row = {"tenant": tenant, "erasure_id": erasure_id, "texts": texts, **author._asdict()}
        connection.execute(insert(Erasure), row)
        leaf = entry_hash([encode_record("erasure", row)])
        append_leaf(connection, tenant, NewLeaf("erasure", leaf, reference=erasure_id))
    return counts.total()


_ROWS_PER_UPDATE = 5_000


def _new_values(found: FoundText) -> dict[str, Any]:
    """Return the parameters of `_update`: the key of the row, and all its texts and salts."""
    stored = found.stored
    new = {f"key_{name}": value for name, value in stored.items()}
    for name in found.table.texts:
        text, salt = stored[name], stored[name + SALT_SUFFIX]
        is_erased = name in found.columns
        new[f"new_{name}"] = None if is_erased else text
        new[f"new_{name}{SALT_SUFFIX}"] = commitment(text, salt) if is_erased else salt
    return new


def _forget_requests(connection: Connection, found: Sequence[FoundText]) -> None:
    """Erase the salts of the fingerprints of requests, which would confirm a guess of a text."""
    numbers = {each.stored["batch_number"] for each in found if each.table.owner is Batch}
    for part in in_parts(sorted(numbers)):
        forget = update(Batch).where(Batch.batch_number.in_(part), Batch.request_salt.is_not(None))
        connection.execute(forget.values(request_salt=None))


def _update(table: _Table) -> Update:
    columns = table.model.__table__.c
    is_row = [key == bindparam(f"key_{key.name}") for key in table.model.__table__.primary_key]
    new: dict[Any, Any] = {columns[name]: bindparam(f"new_{name}") for name in table.text_columns}
    return update(table.model.__table__).where(*is_row).values(new)


def read_erased(connection: Connection, tenant: str | None = None) -> Iterator[ErasedRow]:
    """Yield all rows whose texts were erased: what a restored backup has to erase again."""
    for table in _TABLES:
        conditions: _Conditions = [or_(*(_is_erased(table, name) for name in table.texts))]
        if tenant is not None:
            conditions.append(is_of_tenant(connection, table.owner.tenant, tenant))
        for row in _read(connection, table, conditions):
            columns = tuple(
                name
                for name in table.texts
                if row[name] is None and row[name + SALT_SUFFIX] is not None
            )
            number = row.get("item_number")
            yield ErasedRow(table.name, row["tenant"], row["batch_id"], number, columns)


def _is_erased(table: _Table, name: str) -> ColumnElement[bool]:
    salt = getattr(table.model, name + SALT_SUFFIX)
    return and_(getattr(table.model, name).is_(None), salt.is_not(None))
