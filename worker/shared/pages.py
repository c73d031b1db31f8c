"""Pages of rows, and values in them: ranges of items, seconds of times, and similar names."""

from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeVar

from sqlalchemy import BigInteger, Connection, Row, Select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction


def format_items(numbers: Iterable[int]) -> str:
    """Write numbers as ranges, in ascending order."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(f"{first}-{last}" if first < last else f"{first}" for first, last in parts)


def parse_items(text: str) -> Iterator[range]:
    """Yield the ranges of a text that `format_items` wrote."""
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        yield range(int(first), int(last or first) + 1)


def similar_name(name: str, known_names: Iterable[str]) -> str | None:
    """Return the known name that is most similar to a misspelled one, None if none is."""
    return next(iter(get_close_matches(name, sorted(set(known_names)), n=1)), None)


def did_you_mean(name: str, known_names: Iterable[str], otherwise: str = "") -> str:
    """Return the end of a message about an unknown name, which suggests the most similar one.

    otherwise is the hint if no name is similar. Without a hint, the end is empty.
    """
    similar = similar_name(name, known_names)
    hint = otherwise if similar is None else f"did you mean {similar!r}?"
    return f": {hint}" if hint else ""


class seconds_since_epoch(GenericFunction[int]):  # noqa: N801 - the name of an SQL function
    """The number of whole seconds from 1970-01-01 in UTC to a time in a column."""

    type = BigInteger()
    inherit_cache = True


@compiles(seconds_since_epoch, "sqlite")
def _compile_seconds_sqlite(
    function: seconds_since_epoch, compiler: SQLCompiler, **options: Any
) -> str:
    moment = compiler.process(function.clauses, **options)
    # Without the fraction, which strftime rounds: 59.9996 seconds would be the next minute.
    return f"CAST(strftime('%s', substr({moment}, 1, 19)) AS INTEGER)"


@compiles(seconds_since_epoch, "postgresql")
def _compile_seconds_postgresql(
    function: seconds_since_epoch, compiler: SQLCompiler, **options: Any
) -> str:
    moment = compiler.process(function.clauses, **options)
    return f"CAST(floor(extract(epoch FROM {moment})) AS BIGINT)"


Value = TypeVar("Value")


def in_parts(values: Iterable[Value], size: int = 500) -> Iterator[list[Value]]:
    """Yield values in parts, such as keys for one query each.

    SQLite builds a tree of a query's tuples, which may be at most 1,000 deep.
    """
    rest = iter(values)
    while part := list(islice(rest, size)):
        yield part


Record = TypeVar("Record")

_ROWS_PER_READ = 500


class Page(NamedTuple, Generic[Record]):
    """Records in the order of their query, and whether further ones match it.

    skipped is the number of records that were left out before the last one.
    """

    records: list[Record]
    has_more: bool
    skipped: int = 0


def fetch_page(
    connection: Connection,
    query: Select[*tuple[Any, ...]],
    limit: int,
    is_unwanted: Callable[[Row[*tuple[Any, ...]]], bool] | None = None,
) -> Page[Row[*tuple[Any, ...]]]:
    """Read at most limit rows that are wanted, and count the others before the last one.

    The database cannot select unwanted rows, so with is_unwanted the rows are read in parts until
    the page is full.
    """
    if is_unwanted is None:  # one row beyond the limit shows whether there are more
        rows = list(connection.execute(query.limit(limit + 1)))
        return Page(rows[:limit], has_more=len(rows) > limit)
    records: list[Row[*tuple[Any, ...]]] = []
    skipped = 0
    with connection.execute(query, execution_options={"yield_per": _ROWS_PER_READ}) as stream:
        for row in stream:
            if is_unwanted(row):
                skipped += 1
            elif len(records) == limit:
                return Page(records, has_more=True, skipped=skipped)
            else:
                records.append(row)
    return Page(records, has_more=False, skipped=skipped)
