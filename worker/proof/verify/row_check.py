"""Verifies rows of no range of batches: cancellations, revocations, uses, changes of the config.

Each of these, or each group that one transaction wrote, gives the hash of its leaf. The names of
tenants follow from their ids, which the leaves cover.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

from worker.ledger.merkle import CONFIG_LOG, encode_record, entry_hash, use_record
from worker.proof.verify.chunk_check import Scope
from worker.proof.verify.log_chunks import RemovedMonths
from worker.proof.verify.log_reader import (
    Found,
    LogReader,
    NamedRows,
    Problem,
    Reader,
    Row,
    WrongValue,
    merge_by_key,
    ordered,
    problems_of,
    read_row,
    stream_leaves,
    stream_rows,
    where_tenant,
)
from worker.proof.verify.log_rows import (
    CANCELLATION,
    CONFIG_CHANGE,
    REVOCATION,
    USE,
    select_columns,
)

_BATCHES = "SELECT batch_number AS own_number, tenant AS own_tenant, batch_id FROM batches"


def check_use_group(group: NamedRows, removed: Sequence[RemovedMonths]) -> bool:
    """Verify a group of uses; return true if it was removed because of its age. Raises Found."""
    tenant = group.tenant
    if not group.leaves:
        raise Found(Problem("uses", f"no leaf covers the group {group.reference}", tenant=tenant))
    number, leaf_hash = group.leaves[0][2:]
    if len(group.leaves) > 1:
        text = f"covers uses that leaf {number} covers as well"
        raise Found(Problem("leaves", text, tenant=tenant, number=group.leaves[1][2]))
    if not group.rows:
        if any(each.use_groups and number < each.leaf_number for each in removed):
            return True
        text = f"have no rows, but leaf {number} covers them"
        raise Found(Problem("uses", text, tenant=tenant), (tenant, number))
    with problems_of("uses", tenant=tenant):
        records = [_use_record(row, tenant) for row in group.rows]
    if entry_hash(records) != leaf_hash:
        text = f"{len(group.rows):,} of one group differ from what leaf {number} covers"
        raise Found(Problem("uses", text, tenant=tenant), (tenant, number))
    return False


def _use_record(row: Row, tenant: Any) -> bytes:
    *columns, batch_id = row
    values = read_row(USE, tuple(columns))
    if not isinstance(batch_id, str):
        text = f"belongs to batch number {values['batch_number']}, which its tenant does not have"
        raise Found(Problem("uses", text, tenant=tenant, item=values["item_number"]))
    return use_record(batch_id, values)


_match_numbers = re.compile(r"([0-9]{1,18})-([0-9]{1,18})").fullmatch


class _SingleRows(NamedTuple):
    """A table of which each row has a leaf of its own, which names its key."""

    table: str
    kind: str
    columns: Mapping[str, Reader]
    key: str


_SINGLE = (
    _SingleRows("cancellations", "cancellation", CANCELLATION, "batch_id"),
    _SingleRows("revocations", "revocation", REVOCATION, "revocation_id"),
)


@dataclass(slots=True)
class OthersResult:
    """The numbers of rows that leaves cover, and what is wrong with them.

    removed counts, by tenant, the groups of uses that were removed because of their age.
    """

    counts: Counter[str] = field(default_factory=Counter)
    removed: Counter[str] = field(default_factory=Counter)
    found: list[Found] = field(default_factory=list)


def check_others(reader: LogReader, scope: Scope) -> OthersResult:
    """Verify cancellations, revocations and uses; without selected tenants, config changes too."""
    result, tenants = OthersResult(), scope.tenants
    checks = [_single_rows(reader, single, tenants, result) for single in _SINGLE]
    checks.append(_uses(reader, scope, result))
    if not tenants:
        checks += [_changes(reader, result), _identities(reader)]
    for found in chain.from_iterable(checks):
        result.found.append(found)
        if len(result.found) >= scope.max_problems:
            break
    return result


def check_refused_chunks(reader: LogReader, tenants: tuple[str, ...]) -> Iterator[Problem]:
    """Yield where the list of chunks with refused items differs from the chunks.

    Questions for refusals read this list. No leaf covers it: it follows from the chunks, which
    have to be verified before.
    """
    where, params = where_tenant("batches.tenant", tenants)
    listed = "tenant = batches.tenant AND batch_number = chunks.batch_number"
    missing = reader.fetch(
        "SELECT batches.tenant, batches.batch_id, chunks.chunk_number"  # noqa: S608 - no value
        " FROM chunks JOIN batches ON batches.batch_number = chunks.batch_number"
        f" WHERE chunks.refused > 0 AND {where} AND NOT EXISTS (SELECT 1 FROM refused_chunks"
        f" WHERE {listed} AND chunk_number = chunks.chunk_number)",
        *params,
    )
    where, params = where_tenant("refused_chunks.tenant", tenants)
    joined = "batch_number = refused_chunks.batch_number"
    unfounded = reader.fetch(
        "SELECT refused_chunks.tenant, batches.batch_id, refused_chunks.chunk_number"  # noqa: S608
        f" FROM refused_chunks LEFT JOIN batches ON batches.{joined}"
        f" AND batches.tenant = refused_chunks.tenant LEFT JOIN chunks ON chunks.{joined}"
        " AND chunks.chunk_number = refused_chunks.chunk_number"
        f" WHERE {where} AND (batches.tenant IS NULL OR coalesce(chunks.refused, 0) = 0)",
        *params,
    )
    texts = (("the chunk has refused items, and is missing", missing), ("has none", unfounded))
    for text, rows in texts:
        for tenant, batch, chunk in rows:
            yield Problem("refused_chunks", text, tenant=tenant, batch=batch, chunk=chunk)


def _identities(reader: LogReader) -> Iterator[Found]:
    for tenant, name in reader.fetch("SELECT id, name FROM tenant_identities ORDER BY id"):
        if not isinstance(tenant, str) or name != tenant.partition("~")[0]:
            place = tenant if isinstance(tenant, str) else None
            text = "is not the name that belongs to the id"
            yield Found(Problem("tenant_identities", text, tenant=place, column="name"))


def _uses(reader: LogReader, scope: Scope, result: OthersResult) -> Iterator[Found]:
    where, params = where_tenant("tenant", scope.tenants)
    names = select_columns(reader.dialect, USE)
    order = f"{ordered(reader, 'tenant')}, {ordered(reader, 'group_id')}, fingerprint"
    rows = stream_rows(
        reader,
        f"SELECT {names}, batch_id FROM uses "  # noqa: S608 - no value
        f"LEFT JOIN ({_BATCHES}) AS own ON own_number = batch_number AND own_tenant = tenant "
        f"WHERE {where} ORDER BY {order}",
        *params,
    )
    for group in merge_by_key(rows, stream_leaves(reader, "use", scope.tenants)):
        try:
            is_removed = check_use_group(group, scope.removed.get(group.tenant, ()))
        except Found as found:
            yield found
        else:
            result.counts["uses"] += len(group.rows)
            if is_removed:
                result.removed[group.tenant] += 1


def _single_rows(
    reader: LogReader, single: _SingleRows, tenants: tuple[str, ...], result: OthersResult
) -> Iterator[Found]:
    where, params = where_tenant("tenant", tenants)
    names = select_columns(reader.dialect, single.columns)
    first, second = ordered(reader, "tenant"), ordered(reader, single.key)
    rows = stream_rows(
        reader,
        f"SELECT {names} FROM {single.table} WHERE {where} ORDER BY {first}, {second}",  # noqa: S608
        *params,
    )
    for own in merge_by_key(rows, stream_leaves(reader, single.kind, tenants)):
        try:
            _check_single(single, own)
        except Found as found:
            yield found
        else:
            result.counts[single.table] += 1


def _check_single(single: _SingleRows, own: NamedRows) -> None:
    place: dict[str, Any] = {"tenant": own.tenant}
    if single.key == "batch_id":
        place["batch"] = own.reference
    if len(own.leaves) > 1:
        text = f"covers a {single.kind} that another leaf covers"
        raise Found(Problem("leaves", text, number=own.leaves[1][2], **place))
    if not own.leaves:
        raise Found(Problem(single.table, "no leaf covers it", **place))
    _, _, leaf_number, leaf_hash = own.leaves[0]
    if not own.rows:
        text = f"has no row, but leaf {leaf_number} covers it"
        raise Found(Problem(single.table, text, **place), (own.tenant, leaf_number))
    with problems_of(single.table, **place):
        record = encode_record(single.kind, read_row(single.columns, own.rows[0]))
    if entry_hash([record]) != leaf_hash:
        text = f"differs from what leaf {leaf_number} covers"
        raise Found(Problem(single.table, text, **place), (own.tenant, leaf_number))


def _changes(reader: LogReader, result: OthersResult) -> Iterator[Found]:
    names = select_columns(reader.dialect, CONFIG_CHANGE)
    statement = f"SELECT {names} FROM config_changes ORDER BY change_number"  # noqa: S608 - no value
    rows = stream_rows(reader, statement)
    row = next(rows, None)
    expected = 0
    for first, last, number, leaf_hash in _config_leaves(reader):
        if last < first or first < expected:
            text = "covers no changes, or some that another leaf covers"
            yield Found(Problem("leaves", text, tenant=CONFIG_LOG, number=number))
            continue
        expected = last + 1
        records: list[bytes] = []
        while row is not None and row[0] <= last:
            if row[0] < first:
                yield _uncovered_change(row)
            else:
                yield from _append_record(records, row)
            row = next(rows, None)
        if len(records) != last - first + 1 or entry_hash(records) != leaf_hash:
            yield _wrong_changes(first, last, number, len(records))
        else:
            result.counts["changes"] += len(records)
    while row is not None:
        yield _uncovered_change(row)
        row = next(rows, None)


def _uncovered_change(row: Row) -> Found:
    return Found(Problem("config_changes", "no leaf covers it", number=row[0]))


def _append_record(records: list[bytes], row: Row) -> Iterator[Found]:
    try:
        records.append(encode_record("config", read_row(CONFIG_CHANGE, row)))
    except WrongValue as error:
        yield Found(Problem.of_value("config_changes", error, number=row[0]))


def _wrong_changes(first: int, last: int, leaf: int, count: int) -> Found:
    expected = last - first + 1
    text = f"differ from what leaf {leaf} covers"
    if count < expected:
        text = f"{expected - count} of {expected} are missing that leaf {leaf} covers"
    problem = Problem("config_changes", text, number=first, last_number=last)
    return Found(problem, (CONFIG_LOG, leaf))


def _config_leaves(reader: LogReader) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield first and last change, number and hash of the leaves of changes, in that order.

    There is one for each command that changed the config, so they fit into memory.
    """
    leaves = []
    for _, reference, number, leaf_hash in stream_leaves(reader, "config", (CONFIG_LOG,)):
        match = _match_numbers(reference) if isinstance(reference, str) else None
        first, last = (int(match[1]), int(match[2])) if match else (-1, -2)
        leaves.append((first, last, number, leaf_hash))
    return iter(sorted(leaves))
