"""Reads the facts behind the states of grants: of single grants, items of a batch, or counts."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Select,
    and_,
    cast,
    func,
    literal_column,
    select,
)

from models import Batch, Chunk, Grant, Settlement, StoredObject, Use
from worker.audit.grant_states import DOWNLOADED, STORING, StateFacts
from worker.shared.grant_items import is_in_chunk
from worker.shared.pages import in_parts, parse_items


class RangeBounds(NamedTuple):
    """One range of a text: the table that has a row for each, its first and its last number."""

    table: Any
    first: ColumnElement[int]
    last: ColumnElement[int]


def contains_item(connection: Connection, ranges: Any, item: Any) -> ColumnElement[bool]:
    """Return the condition that a column of ranges contains the item number of another one."""
    bounds = split_ranges(connection, ranges)
    is_within = (bounds.first <= item, bounds.last >= item)
    query: Select[Any] = select(literal_column("1")).select_from(bounds.table).where(*is_within)
    return query.correlate_except(bounds.table).exists()


def split_ranges(connection: Connection, ranges: Any) -> RangeBounds:
    """Return the ranges of a column."""
    if connection.dialect.name == "sqlite":
        some = func.nullif(ranges, literal_column("''"))  # json_each(NULL) has no rows
        texts = '["' + func.replace(some, ",", '","') + '"]'
        table = func.json_each(texts).table_valued("value", name="item_ranges")
        value = table.c.value
        # SQLite casts the digits at the beginning of a text, and an empty one to 0.
        last = func.substr(value, func.instr(value, "-") + literal_column("1"))
        return RangeBounds(table, cast(value, Integer), cast(last, Integer))
    texts = func.string_to_array(ranges, ",")
    table = func.unnest(texts).table_valued("value").render_derived(name="item_ranges")
    value = table.c.value
    last = func.split_part(value + "-" + value, "-", literal_column("2"))
    first = func.split_part(value, "-", literal_column("1"))
    return RangeBounds(table, cast(first, Integer), cast(last, Integer))


_NO_USES = ("aborted", "deleted")  # the ends of an upload and of an object
_NEWEST_OBJECT = (
    *(Use.verdict, Use.size, Use.etag, Use.version, Use.checksum, Use.content_type),
    *(Use.occurred_at.label("stored_at"), Use.problem),
)


class ItemUses(NamedTuple):
    """A decided item: its object key, the facts about its grant, None if it was refused, and uses.

    The object key of a form that leaves the name to the client is that of its object, once that is
    known. stored has the fields of the newest object that it stored, as in `UseState`.
    """

    object_key: str
    facts: StateFacts | None
    uses: int
    stored: Mapping[str, Any]


def read_state_facts(
    connection: Connection, batch_number: int, items: Collection[int]
) -> Mapping[int, StateFacts]:
    """Return the facts of the issued grants of a batch with these item numbers.

    Items that are refused, not decided yet or pruned are missing from the result.
    """
    found = read_item_uses(connection, batch_number, items)
    return {item: each.facts for item, each in found.items() if each.facts is not None}


def read_item_uses(
    connection: Connection, batch_number: int, items: Collection[int]
) -> Mapping[int, ItemUses]:
    """Read some items of a batch, by number. What is not decided yet or pruned is missing."""
    found: dict[int, ItemUses] = {}
    for part in in_parts(sorted(set(items))):
        found |= _read_part(connection, batch_number, part)
    return found


def _read_part(
    connection: Connection, batch_number: int, items: Sequence[int]
) -> Mapping[int, ItemUses]:
    stored: dict[int, dict[str, Any]] = {}
    is_use = _is_item(Use, batch_number, items)
    for row in connection.execute(newest_stored(_NEWEST_OBJECT, *is_use)):
        values = row._asdict()
        stored[values.pop("item_number")] = values
    # Each stored object gets the row of its key, which only a newer object takes over.
    own = select(StoredObject.item_number, StoredObject.object_key)
    own = own.where(*_is_item(StoredObject, batch_number, items)).order_by(StoredObject.changed_at)
    keys = {row.item_number: row.object_key for row in connection.execute(own)}
    counts = _count_events(connection, batch_number, items)
    rows = connection.execute(_decided_items(batch_number, items)).all()
    unused = _unused_items(connection, batch_number, {row.chunk_number for row in rows})
    found: dict[int, ItemUses] = {}
    for row in rows:
        item, values = row.item_number, stored.get(row.item_number, {})
        facts = _row_facts(row)._replace(
            stored_verdict=values.pop("verdict", None),
            downloads=counts[item][DOWNLOADED],
            is_replaced=item in stored and item not in keys,
            is_settled=item in unused[row.chunk_number],
        )
        uses = sum(count for event, count in counts[item].items() if event not in _NO_USES)
        key = keys.get(item, row.object_key)
        found[item] = ItemUses(key, facts if row.code is None else None, uses, values)
    return found


def _decided_items(batch_number: int, items: Sequence[int]) -> Select[Any]:
    return (
        select(Grant.item_number, Grant.object_key, Grant.code, Batch.kind, Chunk.chunk_number)
        .add_columns(Chunk.issued_at, Chunk.expires_in)
        .select_from(Grant)
        .join(Batch, Batch.batch_number == Grant.batch_number)
        .join(Chunk, is_in_chunk())
        .where(*_is_item(Grant, batch_number, items))
    )


def _count_events(
    connection: Connection, batch_number: int, items: Sequence[int]
) -> Mapping[int, Counter[str]]:
    counts: defaultdict[int, Counter[str]] = defaultdict(Counter)
    query = select(Use.item_number, Use.event, func.count()).group_by(Use.item_number, Use.event)
    for item, event, count in connection.execute(query.where(*_is_item(Use, batch_number, items))):
        counts[item][event] = count
    return counts


def _unused_items(
    connection: Connection, batch_number: int, chunks: Collection[int]
) -> Mapping[int, Collection[int]]:
    """Return the items for which the settlements of these chunks found no object, by chunk."""
    query = select(Settlement.chunk_number, Settlement.unused).where(
        Settlement.batch_number == batch_number, Settlement.chunk_number.in_(chunks)
    )
    unused: defaultdict[int, set[int]] = defaultdict(set)
    for chunk, text in connection.execute(query):
        unused[chunk].update(*parse_items(text))
    return unused


def newest_stored(columns: Iterable[Any], *conditions: ColumnElement[bool]) -> Select[Any]:
    """Select the newest object that each grant of a batch stored: its item number and columns."""
    newest_first = (Use.occurred_at.desc(), Use.fingerprint.desc())
    rank = func.row_number().over(partition_by=Use.item_number, order_by=newest_first)
    ranked = select(Use.item_number, *columns, rank.label("rank"))
    uses = ranked.where(Use.event.in_(STORING), *conditions).subquery()
    return select(*(column for column in uses.c if column.name != "rank")).where(uses.c.rank == 1)


def _is_item(
    table: Any, batch_number: int, items: Sequence[int]
) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return table.batch_number == batch_number, table.item_number.in_(items)


_COMMIT_TIME = timedelta(minutes=5)
"""The longest time from the time of a row until its transaction ends, and others see it."""


class BatchFacts(NamedTuple):
    """The facts of a batch's issued grants, counted, and the number of its refused items."""

    issued: Counter[StateFacts]
    refused: int


def count_state_facts(connection: Connection, batch_number: int, chunk_size: int) -> BatchFacts:
    """Count the facts of the issued grants of a batch, in its decided chunks.

    The facts are those that `read_state_facts` returns, except that downloads is at most 1, and
    is_settled false for grants with uses: neither changes a state.
    """
    chunks = connection.execute(_issued_chunks(batch_number)).all()
    used: defaultdict[int, Counter[StateFacts]] = defaultdict(Counter)
    facts_of = {row.chunk_number: _row_facts(row) for row in chunks}
    newest = newest_stored([Use.verdict], Use.batch_number == batch_number).subquery()
    own = select(StoredObject.item_number).where(StoredObject.batch_number == batch_number)
    kept = own.distinct().subquery()
    is_replaced = kept.c.item_number.is_(None)
    groups = _chunk_of(newest.c.item_number, chunk_size), newest.c.verdict, is_replaced
    query = select(*groups, func.count()).group_by(*groups)
    query = query.select_from(newest.outerjoin(kept, kept.c.item_number == newest.c.item_number))
    for chunk, verdict, is_replaced, count in connection.execute(query):
        facts = facts_of[chunk]._replace(stored_verdict=verdict, is_replaced=is_replaced)
        used[chunk][facts] += count
    for chunk, count in connection.execute(_downloaded_items(batch_number, chunk_size)):
        used[chunk][facts_of[chunk]._replace(downloads=1)] += count
    issued: Counter[StateFacts] = Counter()
    settled = [row.settled_at for row in chunks if row.settled_at is not None]
    late = _late_items(connection, batch_number, chunk_size, settled)
    for row in chunks:
        chunk_counts, facts = used[row.chunk_number], facts_of[row.chunk_number]
        issued += chunk_counts
        parts = list(parse_items(row.unused or ""))
        used_late = late.get(row.chunk_number, ())
        unused = sum(map(len, parts)) - sum(item in part for part in parts for item in used_late)
        issued[facts._replace(is_settled=True)] += unused
        issued[facts] += row.issued - chunk_counts.total() - unused
    return BatchFacts(+issued, sum(row.refused for row in chunks))


def _row_facts(row: Any) -> StateFacts:
    expires_at = row.issued_at + timedelta(seconds=row.expires_in)
    return StateFacts(row.kind, expires_at)


def _late_items(
    connection: Connection, batch_number: int, chunk_size: int, settled: Collection[datetime]
) -> Mapping[int, list[int]]:
    """Return the items whose uses their settlement may not have seen, by chunk, as few are."""
    late: defaultdict[int, list[int]] = defaultdict(list)
    if settled:
        query = (
            select(Use.item_number)
            .where(Use.batch_number == batch_number, Use.event.in_(STORING))
            .where(Use.recorded_at >= min(settled) - _COMMIT_TIME)
            .distinct()
        )
        for item in connection.scalars(query):
            late[item // chunk_size].append(item)
    return late


def _issued_chunks(batch_number: int) -> Any:
    is_settlement = and_(
        Settlement.batch_number == Chunk.batch_number, Settlement.chunk_number == Chunk.chunk_number
    )
    return (
        select(Chunk.chunk_number, Chunk.issued, Chunk.refused, Chunk.issued_at, Chunk.expires_in)
        .add_columns(Batch.kind, Settlement.unused, Settlement.settled_at)
        .join(Batch, Batch.batch_number == Chunk.batch_number)
        .outerjoin(Settlement, is_settlement)
        .where(Chunk.batch_number == batch_number)
    )


def _downloaded_items(batch_number: int, chunk_size: int) -> Any:
    chunk = _chunk_of(Use.item_number, chunk_size)
    return (
        select(chunk, func.count(Use.item_number.distinct()))
        .where(Use.batch_number == batch_number, Use.event == DOWNLOADED)
        .group_by(chunk)
    )


def _chunk_of(item_number: Any, chunk_size: int) -> Any:
    # A literal: PostgreSQL groups by no expression that has a parameter.
    return item_number // literal_column(str(chunk_size), Integer)


def read_decided_chunks(connection: Connection, batch_number: int) -> set[int]:
    """Return the numbers of the decided chunks of a batch."""
    query = select(Chunk.chunk_number).where(Chunk.batch_number == batch_number)
    return set(connection.scalars(query))
