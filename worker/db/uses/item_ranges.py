"""Conditions on ranges of item numbers in a text such as 0-5,9, as settlements have them."""

from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Select,
    cast,
    func,
    literal_column,
    select,
)


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
