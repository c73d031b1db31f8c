"""Pages of audit rows: a limited number of records, and whether more of them match."""

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

from sqlalchemy import Connection, Row, Select

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
    to_record: Callable[[Row[*tuple[Any, ...]]], Record],
) -> Page[Record]:
    """Read at most limit records. One row beyond the limit shows whether there are more."""
    rows = connection.execute(query.limit(limit + 1)).all()
    return Page([to_record(row) for row in rows[:limit]], has_more=len(rows) > limit)


def fetch_page_without(
    is_unwanted: Callable[[Record], bool],
    connection: Connection,
    query: Select[*tuple[Any, ...]],
    limit: int,
    to_record: Callable[[Row[*tuple[Any, ...]]], Record],
) -> Page[Record]:
    """Read at most limit records that are wanted, and count the others before the last one.

    The database cannot tell which records are wanted. Their rows are read in parts until the page
    is full.
    """
    records: list[Record] = []
    skipped = 0
    with connection.execute(query, execution_options={"yield_per": _ROWS_PER_READ}) as rows:
        for record in map(to_record, rows):
            if is_unwanted(record):
                skipped += 1
            elif len(records) == limit:
                return Page(records, has_more=True, skipped=skipped)
            else:
                records.append(record)
    return Page(records, has_more=False, skipped=skipped)
