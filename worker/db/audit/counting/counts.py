"""Counts of issued and refused items by any combination of columns and periods.

The counters of chunks answer what concerns whole chunks. Grants are read only where a column or a
filter of single items requires it.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import tzinfo
from functools import cache
from typing import Any, Literal, NamedTuple, get_args

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    func,
    literal_column,
    select,
    union_all,
)

from worker.db.audit.counting.columns import (
    HALF,
    PERIODS,
    CountOptions,
    Dimension,
    Query,
    grouped_columns,
)
from worker.db.audit.counting.periods import describe_unit
from worker.db.audit.counting.queries import count_queries, refusals_of
from worker.db.audit.filters import GrantFilter

SortOrder = Literal["total", "issued", "refused", "bytes"]
Group = tuple[str | None, ...]

DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)
MAX_GROUPS = 1_000_000
_ROWS_PER_READ = 10_000


class ItemCount(NamedTuple):
    """The numbers of issued and refused items of one group, and the bytes of the issued ones.

    group has a value for each column that was asked for, in the same order. bytes is the largest
    amount that the issued grants let their holders upload.
    """

    group: Group
    issued: int
    refused: int
    bytes: int

    @property
    def total(self) -> int:
        """The number of all items."""
        return self.issued + self.refused


class TooManyGroups(ValueError):
    """A count has more than MAX_GROUPS groups."""


def count_items(
    connection: Connection, grant_filter: GrantFilter, options: CountOptions
) -> list[ItemCount]:
    """Count the items that match a filter, in the order of their groups.

    Raises TooManyGroups.
    """
    sums: dict[Group, list[int]] = {}
    for query in count_queries(connection, grant_filter, options):
        with closing(_read_groups(connection, query, options)) as groups:
            for group, numbers in groups:
                totals = sums.setdefault(group, [0, 0, 0])
                for index, number in enumerate(numbers):
                    totals[index] += number
                if len(sums) > MAX_GROUPS:
                    raise TooManyGroups
    counts = list(_take_counts(sums))
    counts.sort(key=lambda count: tuple([(value is not None, value) for value in count.group]))
    return counts


def _take_counts(sums: dict[Group, list[int]]) -> Iterator[ItemCount]:
    """Yield the counts of the groups, and remove those: a million of both take 150 MB more."""
    while sums:
        group, numbers = sums.popitem()
        if any(numbers[:2]):
            yield ItemCount(group, *numbers)


def top_items(
    connection: Connection,
    grant_filter: GrantFilter,
    dimension: Dimension,
    limit: int,
    sort: SortOrder = "total",
) -> list[ItemCount]:
    """Count items by one column, and return the largest counts, largest first.

    Codes are those of refused items: issued ones have none. The database sorts and limits, so the
    number of groups has no bound. Not for the decision, and not for periods.
    """
    options = CountOptions((dimension,))
    if dimension == "code":
        grant_filter = replace(grant_filter, decisions=refusals_of(grant_filter))
        if not grant_filter.decisions:
            return []
    parts = union_all(*count_queries(connection, grant_filter, options)).subquery()
    group = parts.c[0]
    issued, refused, high, low = (func.sum(column) for column in parts.c[1:])
    half = literal_column(str(HALF), BigInteger)
    orders: dict[SortOrder, tuple[ColumnElement[int], ...]] = {
        "total": (issued + refused,),
        "issued": (issued,),
        "refused": (refused,),
        "bytes": (high + low // half, low % half),
    }
    order = (*(column.desc() for column in orders[sort]), group)
    sums = select(group, issued, refused, high, low).group_by(group).having(issued + refused > 0)
    query = sums.order_by(*order).limit(limit)
    return [ItemCount(key, *numbers) for key, numbers in _read_groups(connection, query, options)]


def _read_groups(
    connection: Connection, query: Query, options: CountOptions
) -> Generator[tuple[Group, tuple[int, int, int]], None, None]:
    labels = [_label(name, options.zone) for name in grouped_columns(options)]
    split_at = options.by.index("decision") if "decision" in options.by else None
    with connection.execute(query, execution_options={"yield_per": _ROWS_PER_READ}) as rows:
        for row in rows:
            issued, refused, high, low = (int(value or 0) for value in row[-4:])
            group = tuple([label(value) for label, value in zip(labels, row[:-4], strict=True)])
            size = high * HALF + low
            if split_at is None:
                yield group, (issued, refused, size)
                continue
            before, after = group[:split_at], group[split_at:]
            yield (*before, "issued", *after), (issued, 0, size)
            yield (*before, "refused", *after), (0, refused, 0)


def _label(name: str, zone: tzinfo) -> Callable[[Any], str | None]:
    """Return the function that turns a value of a column into that of a group."""
    period = PERIODS.get(name)
    if period is None:
        return lambda value: value
    return cache(lambda unit: describe_unit(period, zone, int(unit)))
