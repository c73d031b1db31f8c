"""Merges rows of a table with the leaves that name them."""

from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple

from worker.db.tree.log_readers import LogReader, Row


class NamedRows(NamedTuple):
    """The rows with a key, a tenant and a reference, and the leaves that name this key.

    A leaf is its tenant, reference, number and hash.
    """

    tenant: Any
    reference: Any
    rows: list[Row]
    leaves: list[Row]


def stream_rows(reader: LogReader, statement: str, *params: Any) -> Iterator[Row]:
    """Yield the rows of a query one after the other."""
    return chain.from_iterable(reader.stream(statement, *params))


def stream_leaves(reader: LogReader, kind: str, tenants: tuple[str, ...]) -> Iterator[Row]:
    """Yield tenant, reference, number and hash of leaves, in the order of the first three."""
    where, params = where_tenant("tenant", tenants)
    first, second = ordered(reader, "tenant"), ordered(reader, "reference")
    return stream_rows(
        reader,
        "SELECT tenant, reference, leaf_number, hash FROM leaves "  # noqa: S608 - no value
        f"WHERE kind = '{kind}' AND reference IS NOT NULL AND {where} "
        f"ORDER BY {first}, {second}, leaf_number",
        *params,
    )


def ordered(reader: LogReader, column: str) -> str:
    """Return a column of texts in the order of their bytes, as SQLite has it."""
    return f'{column} COLLATE "C"' if reader.dialect == "postgresql" else column


def merge_by_key(rows: Iterator[Row], leaves: Iterator[Row]) -> Iterator[NamedRows]:
    """Put together rows and leaves by their first two columns, in whose order both are."""
    row, leaf = next(rows, None), next(leaves, None)
    while row is not None or leaf is not None:
        key = min((tuple(each[:2]) for each in (row, leaf) if each is not None), key=_place)
        own_rows, own_leaves = list[Row](), list[Row]()
        while row is not None and row[:2] == key:
            own_rows.append(row)
            row = next(rows, None)
        while leaf is not None and leaf[:2] == key:
            own_leaves.append(leaf)
            leaf = next(leaves, None)
        yield NamedRows(key[0], key[1], own_rows, own_leaves)


def _place(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the key as SQLite sorts it, in which a text can be bytes."""
    return tuple((isinstance(value, bytes), value) for value in key)


def where_tenant(column: str, tenants: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Return a condition that selects the rows of tenants, or all, and the condition's values."""
    if not tenants:
        return "1 = 1", ()
    return f"{column} IN ({', '.join('?' * len(tenants))})", tenants
