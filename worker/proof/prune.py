"""Removes grants and uses of old months; keeps their batches, chunks, leaves, trees of items."""

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, Engine

from worker.base.database_engine import acquire_advisory_lock, read_transaction, write_transaction
from worker.base.month_partitions import (
    Partition,
    default_months,
    first_moment,
    format_month,
    has_partitions,
    read_partitions,
)
from worker.proof.prune_rows import (
    Blocker,
    PruneRefused,
    TenantPart,
    chunks_before,
    chunks_without_edge,
    delete_annotations,
    delete_chunks,
    delete_groups,
    delete_old_objects,
    delete_settlements,
    drop_partition,
    find_blockers,
    has_grants,
    has_old_uses,
    insert_item_edges,
    insert_prune,
    lock_grants,
    old_groups,
    owns_grants,
    pruned_before,
    tenant_parts,
    uncovered_tenants,
)

MAX_ITEMS = 5_000
"""The number of rows that one transaction reads or deletes. On SQLite, other writers wait."""

_FIRST_CHUNK = (-1, -1)


class PrunePlan(NamedTuple):
    """The rows that a prune removes: grants of chunks issued, and uses recorded, before a month.

    partitions are dropped. pruned_before is what earlier prunes removed. is_begun tells that one of
    them was interrupted before it had deleted all rows.
    """

    before: int
    pruned_before: datetime | None
    parts: list[TenantPart]
    partitions: list[Partition]
    blockers: list[Blocker]
    uncovered: list[str]
    is_begun: bool

    @property
    def items(self) -> int:
        """The number of grants that it removes."""
        return sum(part.items for part in self.parts)

    @property
    def uses(self) -> int:
        """The number of uses that it removes."""
        return sum(part.uses for part in self.parts)

    @property
    def bytes(self) -> int:
        """The size of the partitions that it drops."""
        return sum(partition.bytes for partition in self.partitions)

    @property
    def is_empty(self) -> bool:
        """True if there is nothing to remove."""
        return not self.parts and not self.partitions and not self.is_begun


def plan_prune(connection: Connection, before: int, now: datetime) -> PrunePlan:
    """Plan to remove the grants of all chunks issued before a month. Raises PruneRefused."""
    moment = first_moment(before)
    partitions = _partitions_to_drop(connection, before)
    parts = tenant_parts(connection, moment)
    pruned = pruned_before(connection)
    return PrunePlan(
        before=before,
        pruned_before=pruned,
        parts=parts,
        partitions=partitions,
        blockers=find_blockers(connection, moment, now),
        uncovered=uncovered_tenants(connection, parts),
        is_begun=pruned is not None and _is_begun(connection, moment, pruned),
    )


def _is_begun(connection: Connection, before: datetime, pruned: datetime) -> bool:
    if has_old_uses(connection, min(before, pruned)):
        return True
    keeps_rows = not has_partitions(connection) and pruned >= before
    return keeps_rows and has_grants(connection, before)


def _partitions_to_drop(connection: Connection, before: int) -> list[Partition]:
    if not has_partitions(connection):
        return []
    if not owns_grants(connection):
        raise PruneRefused("only the owner of the tables can drop partitions: connect as the owner")
    if any(month < before for month in default_months(connection)):
        raise PruneRefused(
            "grants of these months are in the default partition: run `python -m worker migrate`,"
            " which moves them"
        )
    partitions = read_partitions(connection)
    mixed = [part for part in partitions if part.first is None and part.contains(before)]
    if mixed:
        raise PruneRefused(
            "the first partition holds all months until the one in which the tables were created;"
            f" --before {format_month(mixed[0].end)} is the earliest month that drops it"
        )
    return [partition for partition in partitions if partition.end <= before]


def prune(
    engine: Engine,
    plan: PrunePlan,
    pruned_by: str,
    now: datetime,
    progress: Callable[[int], None],
) -> int:
    """Remove grants as planned; return their number.

    Before, it stores the tree of each chunk's items, in transactions of their own. Uses and
    settlements, on SQLite also grants, are deleted after the transaction that records the prune, in
    many further ones. After an interruption, the same call goes on. progress gets the number of
    items whose tree is stored, and then also the number removed. Raises PruneRefused if something
    changed since it was planned or if items are missing, Transient and DBAPIError.
    """
    hashed = _store_item_edges(engine, plan, progress)
    with write_transaction(engine) as connection:
        if has_partitions(connection):
            lock_grants(connection)
        is_changed = pruned_before(connection) != plan.pruned_before
        if is_changed or find_blockers(connection, first_moment(plan.before), now):
            raise PruneRefused("something changed meanwhile: run the command again")
        for part in plan.parts:
            insert_prune(connection, part, plan.before, pruned_by, now)
        for partition in plan.partitions:
            drop_partition(connection, partition)
        is_dropped = has_partitions(connection)
    removed = (
        plan.items
        if is_dropped
        else _delete_rows(engine, plan.before, lambda total: progress(hashed + total))
    )
    _delete_uses(engine, first_moment(plan.before))
    return removed


def _delete_uses(engine: Engine, before: datetime) -> None:
    with read_transaction(engine) as connection:
        parts = list(old_groups(connection, before, MAX_ITEMS))
    for groups in parts:
        with write_transaction(engine) as connection:
            delete_groups(connection, groups)
    for delete_part in (delete_settlements, delete_annotations):
        deleted = 1
        while deleted:
            with write_transaction(engine) as connection:
                deleted = delete_part(connection, before)
    with write_transaction(engine) as connection:
        delete_old_objects(connection, before)


def _store_item_edges(engine: Engine, plan: PrunePlan, progress: Callable[[int], None]) -> int:
    before = first_moment(plan.before)
    total, last = 0, _FIRST_CHUNK
    while True:
        with write_transaction(engine) as connection:
            acquire_advisory_lock(connection, "item_edges")
            chunks = chunks_without_edge(connection, plan.pruned_before, before, last, MAX_ITEMS)
            if not chunks:
                return total
            insert_item_edges(connection, chunks)
        total += sum(chunk.items for chunk in chunks)
        last = chunks[-1].batch_number, chunks[-1].chunk_number
        progress(total)


def _delete_rows(engine: Engine, before: int, progress: Callable[[int], None]) -> int:
    total, last = 0, _FIRST_CHUNK
    while True:
        with write_transaction(engine) as connection:
            chunks = chunks_before(connection, first_moment(before), last, MAX_ITEMS)
            if not chunks:
                return total
            total += delete_chunks(connection, chunks)
        last = chunks[-1].batch_number, chunks[-1].chunk_number
        progress(total)
