"""Inserts uses, each once, with the leaves that cover them."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ARRAY, Connection, String, Text, bindparam, func, select

from models import Batch, Use
from worker.core.tree.records import entry_hash, use_record
from worker.core.uses.reports import UseReport
from worker.core.uses.used_grant import UsedGrant
from worker.core.uses.verdicts import Judgement, use_fingerprint
from worker.db.inserts import insert_statement
from worker.db.tree.append import NewLeaf, append_leaf

_FROM_REPORT = (
    *("event", "source", "occurred_at", "size", "etag", "version", "checksum", "content_type"),
    *("remote_address", "user_agent"),
)
_LENGTHS = {"etag": 128, "checksum": 128, "content_type": 255}
_LENGTHS |= {"version": 1_024, "remote_address": 64, "user_agent": 256}

# A foreign key gets its type when the table that it refers to is loaded, which may be later.
_TYPES = {column.name: column.type for column in Use.__table__.columns}
_TYPES["batch_number"] = Batch.batch_number.type
# A cast to VARCHAR(n) would cut a value off, which then differs from its leaf. TEXT is refused.
_TYPES |= {name: Text() for name, type_ in _TYPES.items() if isinstance(type_, String)}


def _if_new(statement: Any) -> Any:
    statement = statement.on_conflict_do_nothing(index_elements=["fingerprint"])
    return statement.returning(Use.fingerprint)


_INSERT_ROWS = _if_new(insert_statement(Use, "sqlite"))
# With a parameter for each value, the same INSERT of a thousand rows took five times as long.
_ARRAYS = select(*(func.unnest(bindparam(n, type_=ARRAY(type_))) for n, type_ in _TYPES.items()))
_INSERT_ARRAYS = _if_new(insert_statement(Use, "postgresql").from_select(list(_TYPES), _ARRAYS))


class JudgedUse(NamedTuple):
    """A report, the grant that it is about, the verdict, and the bytes that the use costs."""

    report: UseReport
    grant: UsedGrant
    judgement: Judgement
    charged_bytes: int | None = None


class InsertedUses(NamedTuple):
    """The uses of one tenant that a transaction inserted, their group, and their leaf."""

    tenant: str
    group_id: str
    uses: Sequence[JudgedUse]
    leaf: NewLeaf


def insert_uses(
    connection: Connection,
    uses: Sequence[JudgedUse],
    now: datetime,
    new_group_id: Callable[[], str],
) -> list[InsertedUses]:
    """Insert the uses that are not recorded yet, and return them by tenant.

    The caller appends the leaves at the end of the transaction, with `append_use_leaves`. Rows are
    inserted in the order of their fingerprints, so that processes that are told of the same uses
    wait for each other instead of ending in a deadlock.
    """
    groups: dict[str, str] = {}
    values: dict[bytes, dict[str, Any]] = {}
    judged: dict[bytes, JudgedUse] = {}
    for use in uses:
        if use.grant.tenant not in groups:
            groups[use.grant.tenant] = new_group_id()
        row = _values(use, now, groups[use.grant.tenant])
        values.setdefault(row["fingerprint"], row)
        judged.setdefault(row["fingerprint"], use)
    if not values:
        return []
    rows = [values[fingerprint] for fingerprint in sorted(values)]
    return _by_tenant(_insert_new(connection, rows), values, judged)


def _insert_new(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> set[bytes]:
    """Insert the rows that are new, in their order, and return their fingerprints."""
    if connection.dialect.name == "sqlite":
        return set(connection.scalars(_INSERT_ROWS, rows))
    arrays = {name: [row[name] for row in rows] for name in _TYPES}
    return set(connection.scalars(_INSERT_ARRAYS, arrays))


def _values(use: JudgedUse, now: datetime, group_id: str) -> dict[str, Any]:
    report, grant, judgement, charged_bytes = use
    told = {name: getattr(report, name) for name in _FROM_REPORT}
    for name, length in _LENGTHS.items():
        told[name] = told[name] and told[name][:length]
    return told | {
        "tenant": grant.tenant,
        "batch_number": grant.batch_number,
        "item_number": grant.item_number,
        "verdict": judgement.verdict,
        "problem": judgement.problem,
        "charged_bytes": charged_bytes,
        "recorded_at": now,
        "fingerprint": use_fingerprint(report, grant),
        "group_id": group_id,
    }


def _by_tenant(
    inserted: set[bytes],
    values: Mapping[bytes, dict[str, Any]],
    judged: Mapping[bytes, JudgedUse],
) -> list[InsertedUses]:
    by_tenant: defaultdict[str, list[bytes]] = defaultdict(list)
    for fingerprint in sorted(inserted):
        by_tenant[values[fingerprint]["tenant"]].append(fingerprint)
    result = []
    for tenant, fingerprints in sorted(by_tenant.items()):
        # The records are in the order of the fingerprints, which the rows keep.
        records = [use_record(judged[f].grant.batch_id, values[f]) for f in fingerprints]
        group_id = values[fingerprints[0]]["group_id"]
        leaf = NewLeaf("use", entry_hash(records), reference=group_id)
        result.append(InsertedUses(tenant, group_id, [judged[f] for f in fingerprints], leaf))
    return result


def append_use_leaves(connection: Connection, inserted: Sequence[InsertedUses]) -> None:
    """Append the leaves of inserted uses: the last statements of the transaction."""
    for uses in inserted:  # in the order of the tenants, to avoid deadlocks
        append_leaf(connection, uses.tenant, uses.leaf)
