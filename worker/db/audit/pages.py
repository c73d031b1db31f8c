"""Pages of audit rows: a limited number of records, and whether more of them match."""

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

from sqlalchemy import Connection, Row, Select

Record = TypeVar("Record")


class Page(NamedTuple, Generic[Record]):
    """Records in the order of their query, and whether further ones match it."""

    records: list[Record]
    has_more: bool


def fetch_page(
    connection: Connection,
    query: Select[*tuple[Any, ...]],
    limit: int,
    to_record: Callable[[Row[*tuple[Any, ...]]], Record],
) -> Page[Record]:
    """Read at most limit records. One row beyond the limit shows whether there are more."""
    rows = connection.execute(query.limit(limit + 1)).all()
    return Page([to_record(row) for row in rows[:limit]], has_more=len(rows) > limit)
