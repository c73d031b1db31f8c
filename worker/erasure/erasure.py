"""The commands `audit erase` and `audit erasures`, and how texts are erased.

The record of a row has only a commitment to each text, which may be personal. An erasure removes
the text and its salt, and leaves the commitment, so the tree still verifies. It cannot be undone.
"""

import json
import secrets
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import IO, Any, NamedTuple, Self

import click
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
from valetkey.wire.chunking import uuid7
from valetkey.wire.grant_ids import grant_id
from worker import clock
from worker.base.database_engine import read_transaction, write_transaction
from worker.cli.command_options import confirm
from worker.cli.database import open_database, operator_account
from worker.ledger.merkle import encode_record, entry_hash
from worker.ledger.reservations import REMAINING
from worker.ledger.tree_leaves import NewLeaf, append_leaf
from worker.rules.annotations import ANNOTATION_FIELDS, SALT_SUFFIX, commitment
from worker.shared.command_options import (
    MAX_REASON,
    TEXT,
    parse_cursor,
    parse_reason,
    tenant_option,
)
from worker.shared.grant_names import GrantName
from worker.shared.output import first_page_options, print_list, print_rows
from worker.shared.pages import in_parts
from worker.shared.tenant_history import check_tenant_option, is_of_tenant


@dataclass(frozen=True)
class _Table:
    """A table with texts that can be erased. owner is the table that names the tenant and batch."""

    name: str
    model: Any
    owner: Any

    @cached_property
    def texts(self) -> list[str]:
        """The columns of the texts: those that have another one for their salt."""
        names = self.model.__table__.columns.keys()
        return [name for name in names if name + SALT_SUFFIX in names]

    @cached_property
    def text_columns(self) -> list[str]:
        """The columns of the texts, and of their salts."""
        return [each for name in self.texts for each in (name, name + SALT_SUFFIX)]


_TABLES = {
    "batch": _Table("batch", Batch, Batch),
    "item": _Table("item", Annotation, Batch),
    "cancellation": _Table("cancellation", Cancellation, Cancellation),
}


_ERASED_WITH: dict[str, tuple[str, ...]] = {
    "recipient": ANNOTATION_FIELDS,
    "requested_by": ("requested_by", "reason"),
    "grant": ("requested_by", *ANNOTATION_FIELDS),
}
"""The texts in the same row that are erased, by the field of the target that selects it."""


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
        """Parse one line of JSON. Raises TypeError for other fields, ValueError for other types."""
        row = cls(**json.loads(line))
        table = _TABLES.get(row.table)
        is_item = table is not None and table.model is Annotation
        is_valid = (
            table is not None
            and isinstance(row.tenant, str)
            and isinstance(row.batch_id, str)
            and (type(row.item_number) is int if is_item else row.item_number is None)
            and isinstance(row.columns, list)
            and set(row.columns) <= set(table.texts)
        )
        if not is_valid:
            raise ValueError("a field has another value")
        return row._replace(columns=tuple(row.columns))


class FoundText(NamedTuple):
    """A row as it is stored, with the columns whose texts are to be erased."""

    table: _Table
    stored: Mapping[str, Any]
    columns: tuple[str, ...]


def find_texts(
    connection: Connection, target: ErasureTarget, *, locks: bool = False
) -> list[FoundText]:
    """Return the rows with texts of the target; with locks, nobody else changes them meanwhile."""
    erased = {
        name
        for option, names in _ERASED_WITH.items()
        if getattr(target, option) is not None
        for name in names
    }
    found = []
    for table in _TABLES.values():
        own = _of_tenant(connection, table, target.tenant)
        for conditions in _alternatives(connection, table, target):
            for row in _read(connection, table, [*own, *conditions], locks=locks):
                columns = tuple(name for name in table.texts if name in erased and row[name])
                found += [FoundText(table, row, columns)] if columns else []
    return found


_Conditions = list[ColumnElement[bool]]


def _of_tenant(connection: Connection, table: _Table, tenant: str | None) -> _Conditions:
    return [] if tenant is None else [is_of_tenant(connection, table.owner.tenant, tenant)]


def _alternatives(
    connection: Connection, table: _Table, target: ErasureTarget
) -> Iterator[_Conditions]:
    """Yield conditions that together select each row of the target once."""
    if target.recipient is not None and table.model is not Cancellation:
        yield [_is_text(table.model.recipient, target.recipient)]
        if table.model is Annotation:  # without a recipient of its own, it has that of its batch
            has_none = Annotation.recipient.is_(None), Annotation.recipient_salt.is_(None)
            yield [*has_none, _is_text(Batch.recipient, target.recipient)]
    if target.requested_by is not None and "requested_by" in table.texts:
        yield [_is_text(table.model.requested_by, target.requested_by)]
    if target.grant is not None and table.model is not Cancellation:
        batch_id, number, tenant = target.grant
        own = _of_tenant(connection, table, tenant)
        # A batch with more items has the texts of other grants as well.
        is_item = Annotation.item_number == number if table.model is Annotation else _IS_ALONE
        if table.model is Annotation or number == 0:
            yield [*own, Batch.batch_id == batch_id, is_item]
        yield [*own, Batch.reissue_of == grant_id(batch_id, number)]


_IS_ALONE = Batch.total == 1


def _is_text(column: Any, text: str) -> Any:
    return func.lower(column) == func.lower(text)


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
        table = _TABLES[name]
        own = [table.owner.tenant == tenant_id, table.owner.batch_id == batch_id]
        own += _of_tenant(connection, table, tenant)
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
    """Count the batches of these rows that may still get chunks: they will be refused."""
    query = select(func.count()).where(Reservation.chunk_number == REMAINING)
    counts = (
        connection.scalar(query.where(Reservation.batch_number.in_(part)))
        for part in _batch_numbers(found)
    )
    return sum(count or 0 for count in counts)


def _batch_numbers(found: Iterable[FoundText]) -> Iterator[list[int]]:
    numbers = {each.stored["batch_number"] for each in found if each.table.owner is Batch}
    return in_parts(sorted(numbers))


def erase_texts(
    connection: Connection, found: Sequence[FoundText], erasure: Mapping[str, Any]
) -> int:
    """Erase these texts, and return how many there were. erasure has its id, author and reason.

    Appends a leaf for each tenant that says how many. Call it last in the transaction, as
    `append_leaf` says.
    """
    counts: Counter[str] = Counter()
    for each in found:
        counts[each.stored["tenant"]] += len(each.columns)
    for table in _TABLES.values():
        values = [_new_values(each) for each in found if each.table is table]
        for part in in_parts(values, _ROWS_PER_UPDATE):
            connection.execute(_update(table), part)
    _forget_requests(connection, found)
    for tenant, texts in sorted(counts.items()):
        row = {"tenant": tenant, "texts": texts, **erasure}
        connection.execute(insert(Erasure), row)
        leaf = entry_hash([encode_record("erasure", row)])
        append_leaf(connection, tenant, NewLeaf("erasure", leaf, reference=row["erasure_id"]))
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
    for part in _batch_numbers(found):
        forget = update(Batch).where(Batch.batch_number.in_(part), Batch.request_salt.is_not(None))
        connection.execute(forget.values(request_salt=None))


def _update(table: _Table) -> Update:
    columns = table.model.__table__.c
    is_row = [key == bindparam(f"key_{key.name}") for key in table.model.__table__.primary_key]
    new: dict[Any, Any] = {columns[name]: bindparam(f"new_{name}") for name in table.text_columns}
    return update(table.model.__table__).where(*is_row).values(new)


def read_erased(connection: Connection, tenant: str | None = None) -> Iterator[ErasedRow]:
    """Yield all rows whose texts were erased: what a restored backup has to erase again."""
    for table in _TABLES.values():
        columns = table.model.__table__.c
        pairs = [(name, name + SALT_SUFFIX) for name in table.texts]
        is_erased = or_(
            *(and_(columns[text].is_(None), columns[salt].is_not(None)) for text, salt in pairs)
        )
        own = _of_tenant(connection, table, tenant)
        for row in _read(connection, table, [is_erased, *own]):
            erased = [text for text, salt in pairs if row[text] is None and row[salt] is not None]
            key = row["tenant"], row["batch_id"], row.get("item_number")
            yield ErasedRow(table.name, *key, tuple(erased))


@click.command("erase")
@click.option("--recipient", type=TEXT, metavar="NAME", help="Texts of grants for this recipient.")
@click.option(
    "--requested-by", type=TEXT, metavar="NAME", help="Texts of requests by this requester."
)
@click.option("--grant", callback=parse_cursor, metavar="GRANT", help="Texts of one grant.")
@click.option(
    "--from",
    "file",
    type=click.File("r", encoding="utf-8"),
    help="Erase again what `audit erasures --export` wrote, in a restored backup.",
)
@tenant_option
@click.option(
    "--reason",
    callback=parse_reason,
    metavar="TEXT",
    help=f"Why, for the audit log; {MAX_REASON} characters at most.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be erased, and erase nothing.")
@click.option(
    "--yes",
    "expected",
    type=click.IntRange(min=1),
    metavar="COUNT",
    help="Do not ask: erase if there are at most COUNT texts.",
)
def erase(
    *, file: IO[str] | None, reason: str | None, dry_run: bool, expected: int | None, **target: Any
) -> None:
    """Erase recipients, requesters, reasons and references from the audit log, for ever.

    Names are compared without regard to the case of A to Z. Erasing a recipient also erases the
    reason and the reference of the same items, and erasing a requester the reason. Everything else
    about the grants stays. `audit verify` still verifies: the log has a commitment to each text. It
    records how many texts were erased, when, by whom and why, and nothing of what they were. Grants
    that were issued again for --grant are erased as well. Chunks of a batch that arrive after one
    of its texts was erased are refused.

    Object keys, addresses in uses, and backups are not changed. After a backup was restored, give
    --from what `audit erasures --export` wrote before.

    \b
    Examples:
      python -m worker audit erase --recipient ann@example.com --dry-run
      python -m worker audit erase --recipient ann@example.com --reason "case 4711" --yes 12

    Exits with 1 if nothing matches, or more than COUNT.
    """
    if [file, *map(target.get, _ERASED_WITH)].count(None) != len(_ERASED_WITH):  # all but one
        raise click.UsageError("give one of --recipient, --requested-by, --grant and --from")
    selected = None if file is None else list(_parse_rows(file))
    search = partial(_search, ErasureTarget(**target), selected)
    # Nobody waits for the operator's answer: the second transaction searches again.
    with open_database(read_transaction, refuses_later=True) as connection:
        check_tenant_option(connection, target["tenant"])
        found = search(connection)
        _print_rows(found, count_open(connection, found))
    if dry_run:
        click.echo("Nothing was erased: this was a dry run.")
        return
    limit = _confirm(_count(found), expected)
    with open_database(write_transaction, refuses_later=True) as connection:
        found = search(connection, locks=True)
        _refuse_more(_count(found), limit)
        erased = _erase(connection, found, reason)
    click.echo(f"Erased {erased:,} texts.")


def _search(
    target: ErasureTarget,
    rows: list[ErasedRow] | None,
    connection: Connection,
    *,
    locks: bool = False,
) -> list[FoundText]:
    """Return the texts of a target, or those that a file names. Raises click.ClickException."""
    if not may_erase(connection):
        text = "Only the owner of the tables can erase: name its user in VALETKEY_DATABASE_URL."
        raise click.ClickException(text)
    if rows is not None:
        found = find_rows(connection, rows, target.tenant, locks=locks)
    else:
        found = find_texts(connection, target, locks=locks)
    if target.grant is not None and len({each.stored["tenant"] for each in found}) > 1:
        text = "several tenants have this grant: name one, as in TENANT/BATCH.NUMBER"
        raise click.BadParameter(text, param_hint="--grant")
    if not found:
        raise click.ClickException("No text matches, or it was erased before.")
    return found


def _count(found: Iterable[FoundText]) -> int:
    return sum(len(each.columns) for each in found)


def _erase(connection: Connection, found: Sequence[FoundText], reason: str | None) -> int:
    now = clock.now()
    if connection.dialect.name == "sqlite":  # which else leaves the bytes in free pages
        connection.exec_driver_sql("PRAGMA secure_delete = ON")
    erasure = {
        "erasure_id": uuid7(int(now.timestamp() * 1000), secrets.token_bytes(10)),
        "erased_by": operator_account(),
        "erased_at": now,
        "reason": reason,
    }
    return erase_texts(connection, found, erasure)


def _print_rows(found: Iterable[FoundText], open_batches: int) -> None:
    counts, texts = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for each in found:
        place = each.stored["tenant"], each.table.name
        counts[place] += 1
        texts[place] += len(each.columns)
    shown = [(*place, f"{counts[place]:,}", f"{texts[place]:,}") for place in sorted(counts)]
    print_rows(("tenant", "table", "rows", "texts"), shown, None)
    if open_batches:
        text = "batches are still open: their chunks that have not arrived yet will be refused."
        click.echo(f"{open_batches:,} of these {text}", err=True)


def _confirm(texts: int, expected: int | None) -> int:
    """Return the largest number of texts that the operator wants to erase.

    Raises click.ClickException or click.Abort if these are too many.
    """
    if expected is not None:
        _refuse_more(texts, expected)
        return expected
    unconfirmed = f"There is no terminal to confirm this on: give --yes {texts} to erase them."
    confirm(f"Erase {texts:,} texts for ever?", unconfirmed)
    return texts


def _refuse_more(texts: int, limit: int) -> None:
    if texts > limit:
        raise click.ClickException(
            f"{texts:,} texts match, more than {limit:,}. Nothing was erased."
        )


def _parse_rows(file: IO[str]) -> Iterator[ErasedRow]:
    for number, line in enumerate(file, 1):
        try:
            yield ErasedRow.parse(line)
        except (ValueError, TypeError):
            text = f"line {number} is not one that `audit erasures --export` wrote"
            raise click.BadParameter(text, param_hint="--from") from None


@click.command("erasures")
@click.option(
    "--export", is_flag=True, help="Print the erased rows instead, for `erase --from` in a backup."
)
@first_page_options
def list_erasures(*, export: bool, **options: Any) -> None:
    """List erasures of texts, newest first, with who erased how many and why.

    --export prints one JSON object for each row of the log whose texts were erased, whatever
    --limit and --since are. It has no text, and says where texts have to be erased again after a
    backup was restored.

    \b
    Examples:
      python -m worker audit erasures --tenant acme
      python -m worker audit erasures --export > erased.jsonl
    """
    if not export:
        query = select(
            *(Erasure.erased_at.label("at"), Erasure.tenant, Erasure.erased_by, Erasure.reason),
            *(Erasure.texts, Erasure.erasure_id.label("erasure")),
        )
        print_list(query.order_by(Erasure.erased_at.desc(), Erasure.tenant), options)
        return
    with open_database(read_transaction) as connection:
        check_tenant_option(connection, options["tenant"])
        for row in read_erased(connection, options["tenant"]):
            click.echo(json.dumps(row._asdict()))
