"""Computes the leaves of a SQLite file as docs/audit.md says, without any code of the service.

The members of records are those of the page's table, and the hashes those of the page's program.
"""

import json
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

TYPES = ("text", "number", "time", "bytes", "JSON", "commitment")
ITEM = "item"
_COLUMNS = {ITEM: {"item": "item_number", "key": "object_key"}}
_BY_REFERENCE = {
    "cancellation": ("cancellations", "batch_id"),
    "use": ("uses", "group_id"),
    "revocation": ("revocations", "revocation_id"),
    "erasure": ("erasures", "erasure_id"),
    "prune": ("prunes", "prune_number"),
}

Members = dict[str, tuple[str, bool]]
"""The type of each member of a record, and whether it can be absent."""

Row = Mapping[str, Any]


def record_section(page: str) -> str:
    """Return the part of docs/audit.md about records."""
    return page.partition("\n## The record\n")[2].partition("\n## Retention\n")[0]


def documented_members(section: str) -> dict[str, Members]:
    """Return the members of each type of record; those of an item under `item`."""
    rows = re.findall(r"^\| (?:`(\w+)`|none: an item) \| (`\w+`\?? .+) \|$", section, re.MULTILINE)
    members = {kind or ITEM: _parse_members(cell) for kind, cell in rows}
    return {kind: found for kind, found in members.items() if found}


def _parse_members(cell: str) -> Members:
    members = re.findall(rf"`(\w+)`(\??) ({'|'.join(TYPES)})\b", cell)
    return {name: (type_, mark == "?") for name, mark, type_ in members}


def load_program(section: str) -> SimpleNamespace:
    """Return the functions of the section's program."""
    (text,) = re.findall(r"^```python\n(.+?)^```$", section, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(text, "record_hashes.py", "exec"), names)  # noqa: S102 - the page's own code
    return SimpleNamespace(**names)


class RecordVerifier:
    """Computes the hash of each leaf from the rows that the leaf names."""

    def __init__(self, connection: sqlite3.Connection, section: str) -> None:
        connection.row_factory = sqlite3.Row
        self._connection = connection
        self._members = documented_members(section)
        self._program = load_program(section)

    def leaves(self) -> Iterator[tuple[Row, bytes | None]]:
        """Yield each leaf with the hash that it should have; None if its rows were pruned."""
        for leaf in self._rows("SELECT * FROM leaves ORDER BY tenant, leaf_number"):
            yield leaf, self._hash(leaf)

    def heads(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the right edge of each tree as it is stored, and as it follows from its leaves."""
        for head in self._rows("SELECT * FROM tree_heads"):
            query = "SELECT hash FROM leaves WHERE tenant = ? ORDER BY leaf_number"
            edge: list[bytes] = []
            for size, leaf in enumerate(self._rows(query, head["tenant"])):
                edge = self._program.append(size, edge, leaf["hash"])
            yield head["edge"], b"".join(edge)

    def _hash(self, leaf: Row) -> bytes | None:
        if leaf["kind"] in {"batch", "chunk"}:
            return self._chunk_hash(leaf)
        records = [self._record(leaf["kind"], row) for row in self._rows_of(leaf)]
        return self._program.hash_of_leaf(records) if records else None

    def _rows_of(self, leaf: Row) -> Sequence[Row]:
        kind, reference = leaf["kind"], leaf["reference"]
        if kind == "config":
            query = "SELECT * FROM config_changes WHERE change_number BETWEEN ? AND ?"
            return self._rows(f"{query} ORDER BY change_number", *map(int, reference.split("-")))
        place = leaf["batch_number"], leaf["chunk_number"]
        if kind in {"reissue", "settlement"}:
            query = f"SELECT * FROM {kind}s WHERE batch_number = ? AND chunk_number = ?"  # noqa: S608
            rows = self._rows(query, *place)
            return [
                row for row in rows if reference is None or row["fingerprint"].hex() == reference
            ]
        table, column = _BY_REFERENCE[kind]
        order = "fingerprint" if kind == "use" else column
        query = f"SELECT * FROM {table} WHERE tenant = ? AND {column} = ? ORDER BY {order}"  # noqa: S608
        return self._rows(query, leaf["tenant"], reference)

    def _chunk_hash(self, leaf: Row) -> bytes:
        program, number = self._program, leaf["batch_number"]
        (batch,) = self._rows("SELECT * FROM batches WHERE batch_number = ?", number)
        place = number, leaf["chunk_number"]
        is_chunk = "batch_number = ? AND chunk_number = ?"
        (chunk,) = self._rows(f"SELECT * FROM chunks WHERE {is_chunk}", *place)  # noqa: S608
        first = chunk["chunk_number"] * batch["chunk_size"]
        items = self._rows(
            "SELECT * FROM grants LEFT JOIN annotations USING (batch_number, item_number)"
            " WHERE batch_number = ? AND item_number >= ? AND item_number < ? ORDER BY item_number",
            *(number, first, first + batch["chunk_size"]),
        )
        records = [self._record(ITEM, item) for item in items]
        own = [self._record("chunk", chunk)]
        if leaf["kind"] == "batch":
            own.append(self._record("batch", batch))
        edges = self._rows(f"SELECT * FROM item_edges WHERE {is_chunk}", *place)  # noqa: S608
        if items or not edges:
            return bytes(program.hash_of_leaf(records + own))
        stored = edges[0]["edge"]
        edge = [stored[start : start + 32] for start in range(0, len(stored), 32)]
        for size, record in enumerate(own, chunk["issued"] + chunk["refused"]):
            edge = program.append(size, edge, program.leaf_hash(record))
        return bytes(program.leaf_hash(program.root_of_edge(edge)))

    def _record(self, kind: str, row: Row) -> bytes:
        values = dict(row)
        if "batch_number" in values and kind not in {ITEM, "batch"}:
            query = "SELECT batch_id, tenant FROM batches WHERE batch_number = ?"
            (batch,) = self._rows(query, values["batch_number"])
            values |= dict(batch)
        record = {} if kind == ITEM else {"type": kind}
        for name, (type_, _) in self._members[kind].items():
            column = _COLUMNS.get(kind, {}).get(name, name)
            value = _member(type_, values[column], values.get(f"{column}_salt"))
            if value is not None:
                record[name] = value
        return _canonical(record).encode()

    def _rows(self, query: str, *parameters: Any) -> list[Row]:
        return self._connection.execute(query, parameters).fetchall()


def _member(type_: str, value: Any, salt: bytes | None) -> Any:
    """Return the value of a member, or None if the record lacks it."""
    if value is None:
        return salt.hex() if type_ == "commitment" and salt is not None else None
    match type_:
        case "commitment":
            return sha256((salt or b"") + value.encode()).hexdigest()
        case "time":
            return f"{value.replace(' ', 'T')}Z"
        case "bytes":
            return value.hex()
        case "JSON" if isinstance(value, str):
            return json.loads(value)
    return value


def _canonical(value: Any) -> str:
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        members = (f"{_canonical(name)}:{_canonical(value[name])}" for name in names)
        return f"{{{','.join(members)}}}"
    if isinstance(value, list):
        return f"[{','.join(map(_canonical, value))}]"
    return json.dumps(value, ensure_ascii=False)
