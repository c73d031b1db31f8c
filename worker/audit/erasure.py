"""Erases texts of producers, which may be personal, and records how many were erased and why.

The record of a row has only a commitment to each text. An erasure removes the text and its salt,
and leaves the commitment, so the tree still verifies. It cannot be undone.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Update,
    and_,
    bindparam,
    false,
    func,
    insert,
    or_,
    select,
    update,
)

from models import Annotation, Batch, Cancellation, Erasure
from worker.base.pages import Page, fetch_page, in_parts
from worker.core.annotations import ANNOTATION_FIELDS, SALT_SUFFIX, commitment
from worker.core.issued_grants import GrantName
from worker.ledger.merkle import encode_record, entry_hash
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
    """A row with texts to erase, or that were erased. columns are their names.

    table is batch, item or cancellation. item_number is None but for an item.
    """

    table: str
    tenant: str
    batch_id: str
    item_number: int | None
    columns: tuple[str, ...]


class ErasureAuthor(NamedTuple):
    """The account that erases, its reason, and the time."""

    erased_by: str
    reason: str | None
    erased_at: datetime


class ErasureRecord(NamedTuple):
    """An erasure of the texts of one tenant."""

    at: datetime
    tenant: str
    erased_by: str
    reason: str | None
    texts: int
    erasure: str


TABLE_NAMES = tuple(table.name for table in _TABLES)


def find_texts(connection: Connection, target: ErasureTarget) -> list[ErasedRow]:
    """Return the rows with texts of the target, and those of their columns to erase."""
    erased = set(_erased_columns(target))
    found = []
    for table in _TABLES:
        for row in _read(connection, table, _conditions(connection, table, target)):
            columns = tuple(name for name in table.texts if name in erased and row[name])
            if columns:
                found.append(_erased_row(table, row, columns))
    return found


def _erased_columns(target: ErasureTarget) -> Iterator[str]:
    if target.grant is not None:
        yield from ("requested_by", *ANNOTATION_FIELDS)
    if target.recipient is not None:
        yield from ANNOTATION_FIELDS
    if target.requested_by is not None:
        yield from ("requested_by", "reason")


def _conditions(
    connection: Connection, table: _Table, target: ErasureTarget
) -> Iterator[ColumnElement[bool]]:
    if target.recipient is not None:
        yield _is_recipient(table, target.recipient)
    if target.requested_by is not None:
        is_asked = "requested_by" in table.texts
        yield _is_text(table.model.requested_by, target.requested_by) if is_asked else false()
    if target.grant is not None:
        batch_id, number, tenant = target.grant
        yield table.owner.batch_id == batch_id
        if tenant is not None:
            yield is_of_tenant(connection, table.owner.tenant, tenant)
        if table.model is Annotation:
            yield Annotation.item_number == number
        else:  # the texts of a batch with more items are those of other grants as well
            is_alone = table.model is Batch and number == 0
            yield Batch.total == 1 if is_alone else false()
    if target.tenant is not None:
        yield is_of_tenant(connection, table.owner.tenant, target.tenant)


def _is_recipient(table: _Table, recipient: str) -> ColumnElement[bool]:
    """Return the condition that a row is about a recipient: an item can have that of its batch."""
    if table.model is Cancellation:
        return false()
    if table.model is Batch:
        return _is_text(Batch.recipient, recipient)
    has_none = and_(Annotation.recipient.is_(None), Annotation.recipient_salt.is_(None))
    is_of_batch = and_(has_none, _is_text(Batch.recipient, recipient))
    return or_(_is_text(Annotation.recipient, recipient), is_of_batch)


def _is_text(column: Any, text: str) -> ColumnElement[bool]:
    is_equal: ColumnElement[bool] = func.lower(column) == func.lower(text)
    return is_equal


def find_rows(connection: Connection, rows: Sequence[ErasedRow]) -> list[ErasedRow]:
    """Return those of these rows that exist, with those of their columns that are not erased."""
    found = []
    for table in _TABLES:
        for part in in_parts([row for row in rows if row.table == table.name]):
            columns = {row._replace(columns=()): row.columns for row in part}
            is_one = or_(*(_is_row(table, row) for row in part))
            for stored in _read(connection, table, [is_one]):
                place = _erased_row(table, stored, ())
                left = tuple(name for name in columns[place] if stored[name] is not None)
                if left:
                    found.append(place._replace(columns=left))
    return found


def may_erase(connection: Connection) -> bool:
    """Return whether the user of the database may change texts: on PostgreSQL, only the owner."""
    if connection.dialect.name == "sqlite":
        return True
    query = select(func.has_table_privilege(Batch.__tablename__, "UPDATE"))
    return bool(connection.scalar(query))


def _read(
    connection: Connection, table: _Table, conditions: Iterable[ColumnElement[bool]]
) -> Iterator[Any]:
    """Read the keys and texts of rows, with their tenant and batch id."""
    texts = [getattr(table.model, name) for name in table.text_columns]
    query = select(table.owner.tenant, table.owner.batch_id, *texts)
    if table.owner is Batch:
        query = query.add_columns(Batch.batch_number)
    if table.model is Annotation:
        is_own = Batch.batch_number == Annotation.batch_number
        query = query.add_columns(Annotation.item_number).join(Annotation, is_own)
    rows = connection.execute(query.where(*conditions), execution_options={"yield_per": 1_000})
    yield from rows.mappings()


def _erased_row(table: _Table, row: Mapping[str, Any], columns: tuple[str, ...]) -> ErasedRow:
    return ErasedRow(table.name, row["tenant"], row["batch_id"], row.get("item_number"), columns)


def erase_texts(
    connection: Connection, rows: Sequence[ErasedRow], author: ErasureAuthor, erasure_id: str
) -> int:
    """Erase texts of these rows, and return how many there were.

    Appends a leaf for each tenant that says how many. Call it last in the transaction, as
    `append_leaf` says.
    """
    counts: Counter[str] = Counter()
    by_table = {table: [row for row in rows if row.table == table.name] for table in _TABLES}
    for table, erased in by_table.items():
        for part in in_parts(erased):
            counts += _erase_part(connection, table, part)
    for tenant, texts in sorted(counts.items()):
        values = {"tenant": tenant, "erasure_id": erasure_id, "texts": texts, **author._asdict()}
        connection.execute(insert(Erasure), values)
        leaf = entry_hash([encode_record("erasure", values)])
        append_leaf(connection, tenant, NewLeaf("erasure", leaf, reference=erasure_id))
    return counts.total()


def _erase_part(connection: Connection, table: _Table, rows: list[ErasedRow]) -> Counter[str]:
    """Erase texts of some rows of one table, and count them by tenant."""
    columns = {row._replace(columns=()): row.columns for row in rows}
    counts: Counter[str] = Counter()
    values, batches = [], set()
    is_one = or_(*(_is_row(table, row) for row in rows))
    for stored in list(_read(connection, table, [is_one])):
        place = _erased_row(table, stored, ())
        new = {f"key_{name}": value for name, value in stored.items()}
        for name in table.texts:
            text, salt = stored[name], stored[name + SALT_SUFFIX]
            is_erased = text is not None and name in columns[place]
            counts[place.tenant] += is_erased
            new[f"new_{name}"] = None if is_erased else text
            new[f"new_{name}{SALT_SUFFIX}"] = commitment(text, salt) if is_erased else salt
        values.append(new)
        batches.add(stored.get("batch_number"))
    if values:
        connection.execute(_update(table), values)
        # The fingerprints of a request cover its texts: with their salt, they confirm a guess.
        forget = update(Batch).where(Batch.batch_number.in_(batches - {None}))
        connection.execute(forget.values(request_salt=None))
    return +counts


def _is_row(table: _Table, row: ErasedRow) -> ColumnElement[bool]:
    is_own = and_(table.owner.tenant == row.tenant, table.owner.batch_id == row.batch_id)
    if table.model is Annotation:
        return and_(is_own, Annotation.item_number == row.item_number)
    return is_own


def _update(table: _Table) -> Update:
    columns = table.model.__table__.c
    is_row = [key == bindparam(f"key_{key.name}") for key in table.model.__table__.primary_key]
    new: dict[Any, Any] = {columns[name]: bindparam(f"new_{name}") for name in table.text_columns}
    return update(table.model.__table__).where(*is_row).values(new)


def read_erased(connection: Connection, tenant: str | None = None) -> Iterator[ErasedRow]:
    """Yield all rows whose texts were erased: what a restored backup has to erase again."""
    for table in _TABLES:
        conditions: list[ColumnElement[bool]] = [
            or_(*(_is_erased(table, name) for name in table.texts))
        ]
        if tenant is not None:
            conditions.append(is_of_tenant(connection, table.owner.tenant, tenant))
        for row in _read(connection, table, conditions):
            columns = tuple(
                name
                for name in table.texts
                if row[name] is None and row[name + SALT_SUFFIX] is not None
            )
            yield _erased_row(table, row, columns)


def _is_erased(table: _Table, name: str) -> ColumnElement[bool]:
    salt = getattr(table.model, name + SALT_SUFFIX)
    return and_(getattr(table.model, name).is_(None), salt.is_not(None))


def read_erasures(
    connection: Connection, limit: int, *, tenant: str | None, since: datetime | None
) -> Page[ErasureRecord]:
    """Read at most limit erasures, newest first. A filter that is None matches everything."""
    query = select(
        *(Erasure.erased_at, Erasure.tenant, Erasure.erased_by, Erasure.reason, Erasure.texts),
        Erasure.erasure_id,
    )
    if tenant is not None:
        query = query.where(is_of_tenant(connection, Erasure.tenant, tenant))
    if since is not None:
        query = query.where(Erasure.erased_at >= since)
    query = query.order_by(Erasure.erased_at.desc(), Erasure.tenant)
    return fetch_page(connection, query, limit, ErasureRecord._make)
