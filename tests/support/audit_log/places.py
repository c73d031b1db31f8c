"""The rows of a stored audit log, and the places at which a change of them has to be found."""

import random
from collections.abc import Callable
from typing import NamedTuple

from tests.support.audit_log.stored_tables import Row, StoredTables
from worker.ledger.merkle import CONFIG_LOG
from worker.proof.verify.stored_rows import Problem

ROW_TABLES = ("batches", "chunks", "grants", "annotations", "item_edges")


class NotPossible(Exception):
    """This log has nothing to which the change can be made."""


class Place(NamedTuple):
    """The places that may be named: one of these tables, tenants and batches.

    A problem that names leaves has to include one of the given ones. tenants of None are those of
    rows without a batch.
    """

    tables: tuple[str, ...]
    tenants: tuple[str | None, ...]
    batches: tuple[str, ...] = ()
    leaves: tuple[int, ...] = ()

    def includes(self, problem: Problem) -> bool:
        if problem.table not in self.tables:
            return False
        if problem.leaf is not None and problem.leaf in self.leaves:
            return True
        if problem.tenant not in self.tenants:
            return False
        if problem.batch is not None and self.batches:
            return problem.batch in self.batches
        if problem.table == "leaves" and problem.number is not None and self.leaves:
            last = problem.number if problem.last_number is None else problem.last_number
            return any(problem.number <= leaf <= last for leaf in self.leaves)
        return True


Mutation = Callable[[StoredTables, random.Random], Place]


def pick(db: StoredTables, rng: random.Random, table: str, where: str = "1 = 1") -> Row:
    rows = db.rows(table, where)
    if not rows:
        raise NotPossible
    return rng.choice(rows)


def batch_of(db: StoredTables, row: Row) -> Row:
    return db.rows("batches", "batch_number = ?", row["batch_number"])[0]


def leaves_of(db: StoredTables, row: Row) -> tuple[int, ...]:
    rows = db.rows("leaves", "batch_number = ?", row["batch_number"])
    return tuple(leaf["leaf_number"] for leaf in rows)


def place_of(db: StoredTables, table: str, row: Row) -> Place:
    """Return the place of a row before it is changed."""
    if table in {*ROW_TABLES, "reissues", "settlements"}:
        batch = batch_of(db, row)
        tables: tuple[str, ...] = (table,)
        if table in ROW_TABLES:
            tables = (*ROW_TABLES, "reissues", "settlements", "uses")
        tenants = (batch["tenant"], None)
        return Place(tables, tenants, (batch["batch_id"],), leaves_of(db, row))
    if table == "cancellations":
        return Place((table,), (row["tenant"],), (row["batch_id"],))
    if table in {"uses", "revocations", "refused_chunks", "erasures"}:
        return Place((table,), (row["tenant"],))
    if table == "config_changes":
        return Place((table, "leaves"), (None, CONFIG_LOG))
    if table == "leaves":
        return place_of_leaf(db, row)
    also = ("leaves",) if table in {"tree_heads", "prunes"} else ()
    return Place((table, *also), (row["tenant"],))


def place_of_leaf(db: StoredTables, leaf: Row) -> Place:
    batches: tuple[str, ...] = ()
    if leaf["batch_number"] is not None:
        batches = (batch_of(db, leaf)["batch_id"],)
    elif leaf["kind"] == "cancellation":
        batches = (leaf["reference"],)
    others = ("reissues", "settlements", "cancellations", "revocations", "uses", "config_changes")
    tables = ("leaves", *ROW_TABLES, *others, "prunes", "erasures")
    return Place(tables, (leaf["tenant"], None), batches, (leaf["leaf_number"],))
