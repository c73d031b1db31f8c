"""Verifies the records of removed months: each gives the hash of its leaf."""

from dataclasses import dataclass, field

from worker.core.tree.records import encode_record, entry_hash
from worker.db.tree.log_readers import LogReader, Row
from worker.db.tree.stored_rows import PRUNE, select_columns
from worker.db.tree.stored_values import WrongValue, read_row
from worker.usecases.audit.problems import Found, Problem
from worker.usecases.audit.verify_charges import where_tenant

_EXISTS = {
    "sqlite": "SELECT count(*) FROM sqlite_master WHERE name = 'prunes'",
    "postgresql": "SELECT count(to_regclass('prunes'))",
}


@dataclass(slots=True)
class Prunes:
    """The month before which the items of a tenant were removed, by tenant, like 2026-01."""

    before: dict[str, str] = field(default_factory=dict)
    found: list[Found] = field(default_factory=list)


def read_prunes(reader: LogReader, tenants: tuple[str, ...]) -> Prunes:
    """Read and verify what was removed because of its age. There are few rows."""
    prunes = Prunes()
    if not reader.fetch(_EXISTS[reader.dialect])[0][0]:
        return prunes  # the tables are those of an older release
    where, params = where_tenant("tenant", tenants)
    names = select_columns(reader.dialect, PRUNE)
    rows = reader.fetch(
        f"SELECT {names} FROM prunes WHERE {where} ORDER BY prune_number",  # noqa: S608 - no value
        *params,
    )
    leaves = reader.fetch(
        "SELECT tenant, reference, leaf_number, hash FROM leaves "  # noqa: S608 - no value
        f"WHERE kind = 'prune' AND {where} ORDER BY tenant, leaf_number",
        *params,
    )
    by_key: dict[tuple[str, str | None], Row] = {}
    for tenant, reference, number, leaf_hash in leaves:
        if (tenant, reference) in by_key:
            text = "covers a removal that another leaf covers"
            prunes.found.append(Found(Problem("leaves", text, tenant=tenant, number=number)))
        by_key[tenant, reference] = (number, leaf_hash)
    for row in rows:
        try:
            tenant, before = _check(row, by_key)
        except Found as found:
            prunes.found.append(found)
        else:
            prunes.before[tenant] = max(before, prunes.before.get(tenant, ""))
    for (tenant, _), (number, _hash) in by_key.items():
        text = f"has no row for leaf {number}"
        prunes.found.append(Found(Problem("prunes", text, tenant=tenant)))
    return prunes


def _check(row: Row, leaves: dict[tuple[str, str | None], Row]) -> tuple[str, str]:
    prune_number, tenant = row[0], row[1]
    place: dict[str, str | int | None] = {"tenant": tenant, "number": prune_number}
    leaf = leaves.pop((tenant, str(prune_number)), None)
    if leaf is None:
        raise Found(Problem("prunes", "no leaf covers it")._replace(**place))  # type: ignore[arg-type]
    try:
        values = read_row(PRUNE, row)
    except WrongValue as error:
        raise Found(Problem.of_value("prunes", error, **place)) from None
    del values["prune_number"]
    if entry_hash([encode_record("prune", values)]) != leaf[1]:
        problem = Problem("prunes", f"differs from what leaf {leaf[0]} covers")
        raise Found(problem._replace(**place), (tenant, leaf[0]))  # type: ignore[arg-type]
    return tenant, values["before"]
