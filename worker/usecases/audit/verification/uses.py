"""Verifies uses of grants: those that one transaction recorded give the hash of their leaf."""

from collections.abc import Iterator, Sequence
from typing import Any

from worker.core.tree.records import entry_hash, use_record
from worker.db.tree.log_readers import LogReader, Row
from worker.db.tree.named_rows import (
    NamedRows,
    merge_by_key,
    ordered,
    stream_leaves,
    stream_rows,
    where_tenant,
)
from worker.db.tree.stored_rows import USE, select_columns
from worker.db.tree.stored_values import WrongValue, read_row
from worker.usecases.audit.verification.problems import Found, Problem
from worker.usecases.audit.verification.prunes import RemovedMonths

_BATCHES = "SELECT batch_number AS own_number, tenant AS own_tenant, batch_id FROM batches"


def read_groups(reader: LogReader, tenants: tuple[str, ...]) -> Iterator[NamedRows]:
    """Yield the groups of uses with their leaves. The last value of a row is its batch's id."""
    where, params = where_tenant("tenant", tenants)
    names = select_columns(reader.dialect, USE)
    order = f"{ordered(reader, 'tenant')}, {ordered(reader, 'group_id')}, fingerprint"
    rows = stream_rows(
        reader,
        f"SELECT {names}, batch_id FROM uses "  # noqa: S608 - no value
        f"LEFT JOIN ({_BATCHES}) AS own ON own_number = batch_number AND own_tenant = tenant "
        f"WHERE {where} ORDER BY {order}",
        *params,
    )
    return merge_by_key(rows, stream_leaves(reader, "use", tenants))


def check_group(group: NamedRows, removed: Sequence[RemovedMonths]) -> bool:
    """Verify a group of uses; return true if it was removed because of its age. Raises Found."""
    place: dict[str, Any] = {"tenant": group.tenant}
    if not group.leaves:
        text = f"no leaf covers the group {group.reference}"
        raise Found(Problem("uses", text)._replace(**place))
    number, leaf_hash = group.leaves[0][2:]
    if len(group.leaves) > 1:
        text = f"covers uses that leaf {number} covers as well"
        raise Found(Problem("leaves", text, number=group.leaves[1][2])._replace(**place))
    leaf = group.tenant, number
    if not group.rows:
        if any(each.use_groups and number < each.leaf_number for each in removed):
            return True
        raise Found(Problem("uses", f"have no rows, but leaf {number} covers them", **place), leaf)
    if entry_hash([_record(row, place) for row in group.rows]) != leaf_hash:
        text = f"{len(group.rows):,} of one group differ from what leaf {number} covers"
        raise Found(Problem("uses", text)._replace(**place), leaf)
    return False


def _record(row: Row, place: dict[str, Any]) -> bytes:
    *columns, batch_id = row
    try:
        values = read_row(USE, tuple(columns))
    except WrongValue as error:
        raise Found(Problem.of_value("uses", error, **place)) from None
    if not isinstance(batch_id, str):
        text = f"belongs to batch number {values['batch_number']}, which its tenant does not have"
        raise Found(Problem("uses", text, item=values["item_number"])._replace(**place))
    return use_record(batch_id, values)
