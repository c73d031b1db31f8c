"""The rows of the audit log in the order in which a verification merges them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from worker.db.tree.log_readers import LogReader, Row
from worker.db.tree.row_queues import GrantQueue, RowQueue
from worker.db.tree.stored_values import (
    Reader,
    binary,
    digest,
    instant,
    json_value,
    number,
    optional,
    text,
)

BATCH: dict[str, Reader] = {
    "batch_number": number,
    "batch_id": text,
    "tenant": text,
    "bucket": text,
    "kind": text,
    "requested_by": text,
    "reason": optional(text),
    "terms": json_value,
    "total": number,
    "chunk_size": number,
    "callback": optional(text),
    "fingerprint": digest,
    "refusal": optional(json_value),
    "decided_at": instant,
    "recipient": optional(text),
    "notify": optional(json_value),
    "reissue_of": optional(text),
}
CHUNK: dict[str, Reader] = {
    "batch_number": number,
    "chunk_number": number,
    "fingerprint": digest,
    "issued": number,
    "refused": number,
    "issued_at": instant,
    "expires_in": number,
    "limited_by": text,
    "access_key": optional(text),
    "refusal": optional(json_value),
    "signing_key": optional(text),
}
REISSUE: dict[str, Reader] = {
    "batch_number": number,
    "chunk_number": number,
    "fingerprint": digest,
    "access_key": text,
    "reissued_at": instant,
    "digests": binary,
}
CANCELLATION: dict[str, Reader] = {
    "tenant": text,
    "batch_id": text,
    "signing_key": optional(text),
    "requested_by": text,
    "reason": optional(text),
    "cancelled_at": instant,
}
REVOCATION: dict[str, Reader] = {
    "tenant": text,
    "revocation_id": text,
    "target_kind": text,
    "target": text,
    "bucket": optional(text),
    "storage": optional(text),
    "grants": number,
    "revoked_by": text,
    "reason": optional(text),
    "revoked_at": instant,
    "lapses_at": instant,
}
CONFIG_CHANGE: dict[str, Reader] = {
    "change_number": number,
    "changed_at": instant,
    "changed_by": text,
    "command": text,
    "path": text,
    "before": optional(json_value),
    "after": optional(json_value),
}
PRUNE: dict[str, Reader] = {
    "prune_number": number,
    "tenant": text,
    "before": text,
    "pruned_by": text,
    "pruned_at": instant,
    "chunks": number,
    "items": number,
    "edges": number,
    "use_groups": number,
}
USE: dict[str, Reader] = {
    "tenant": text,
    "group_id": text,
    "fingerprint": digest,
    "batch_number": number,
    "item_number": number,
    "event": text,
    "source": text,
    "verdict": text,
    "problem": optional(text),
    "occurred_at": instant,
    "recorded_at": instant,
    "size": optional(number),
    "etag": optional(text),
    "version": optional(text),
    "checksum": optional(text),
    "content_type": optional(text),
    "remote_address": optional(text),
    "user_agent": optional(text),
    "charged_bytes": optional(number),
}
SETTLEMENT: dict[str, Reader] = {
    "batch_number": number,
    "chunk_number": number,
    "tenant": text,
    "unused": text,
    "used_bytes": number,
    "returned_bytes": number,
    "settled_at": instant,
}
ITEM_EDGE: dict[str, Reader] = {"batch_number": number, "chunk_number": number, "edge": binary}
LEAF: dict[str, Reader] = {
    "batch_number": optional(number),
    "chunk_number": optional(number),
    "tenant": text,
    "leaf_number": number,
    "kind": text,
    "reference": optional(text),
    "hash": digest,
}
GRANT = ("batch_number", "item_number", "object_key", "code", "detail", "digest")
_JSON = {"terms", "refusal", "detail", "before", "after", "notify"}
_INSTANTS = {
    "decided_at",
    "issued_at",
    "reissued_at",
    "cancelled_at",
    "changed_at",
    "pruned_at",
    "signed_at",
    "window_start",
    "charged_at",
    "occurred_at",
    "recorded_at",
    "settled_at",
    "revoked_at",
    "lapses_at",
}


class BatchRange(NamedTuple):
    """Batch numbers from first up to, not including, end; None is no bound."""

    first: int | None
    end: int | None


def select_columns(dialect: str, columns: Any) -> str:
    """Return a list of columns: times as SQLite stores them, JSON as its text."""
    return ", ".join(_column(dialect, column) for column in columns)


def _column(dialect: str, column: str) -> str:
    if dialect == "sqlite":
        return f'"{column}"'
    if column in _INSTANTS:
        return f"to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')"
    return f'"{column}"::text' if column in _JSON else f'"{column}"'


class RangeRows(NamedTuple):
    """The rows of a range of batches, each table in the order of its primary key."""

    batches: RowQueue
    chunks: RowQueue
    grants: GrantQueue
    reissues: RowQueue
    settlements: RowQueue
    leaves: RowQueue
    item_edges: RowQueue

    @property
    def of_chunks(self) -> tuple[RowQueue, ...]:
        """The tables whose rows belong to one chunk each."""
        return self.chunks, self.reissues, self.settlements, self.leaves, self.item_edges


def read_range(reader: LogReader, batches: BatchRange, tenants: tuple[str, ...]) -> RangeRows:
    """Read the rows of a range of batches: of all tenants, or of those with the given ids.

    Leaves are in the order of batch, chunk, and leaf number.
    """
    bounds, params = _bounds(batches)
    of_batches = of_leaves = bounds
    batch_params = leaf_params = params
    if tenants:
        marks = ", ".join("?" * len(tenants))
        of_leaves = f"{bounds} AND tenant IN ({marks})"
        leaf_params = (*params, *tenants)
        of_batches = (
            f"{bounds} AND batch_number IN (SELECT batch_number FROM batches WHERE {of_leaves})"  # noqa: S608 - no value
        )
        batch_params = (*params, *leaf_params)

    def rows(
        table: str, columns: Any, order: str, where: str, values: tuple[Any, ...]
    ) -> Iterator[list[Row]]:
        names = select_columns(reader.dialect, columns)
        statement = f"SELECT {names} FROM {table} WHERE {where} ORDER BY {order}"  # noqa: S608 - no value
        return reader.stream(statement, *values)

    number_, chunk = "batch_number", "batch_number, chunk_number"
    return RangeRows(
        RowQueue("batches", rows("batches", BATCH, number_, of_leaves, leaf_params), keys=1),
        RowQueue("chunks", rows("chunks", CHUNK, chunk, of_batches, batch_params)),
        GrantQueue(rows("grants", GRANT, "batch_number, item_number", of_batches, batch_params)),
        RowQueue(
            "reissues", rows("reissues", REISSUE, f"{chunk}, fingerprint", of_batches, batch_params)
        ),
        RowQueue("settlements", rows("settlements", SETTLEMENT, chunk, of_batches, batch_params)),
        RowQueue("leaves", rows("leaves", LEAF, f"{chunk}, leaf_number", of_leaves, leaf_params)),
        RowQueue("item_edges", rows("item_edges", ITEM_EDGE, chunk, of_batches, batch_params)),
    )


def _bounds(batches: BatchRange) -> tuple[str, tuple[Any, ...]]:
    conditions, params = ["batch_number IS NOT NULL"], []
    if batches.first is not None:
        conditions.append("batch_number >= ?")
        params.append(batches.first)
    if batches.end is not None:
        conditions.append("batch_number < ?")
        params.append(batches.end)
    return " AND ".join(conditions), tuple(params)
