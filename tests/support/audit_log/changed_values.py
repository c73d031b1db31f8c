"""Changes of single values."""

import json
import random
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from tests.support.audit_log.places import ROW_TABLES, Mutation, NotPossible, Place, pick, place_of
from tests.support.audit_log.stored_tables import JSON, KEYS, Row, StoredTables


def flip_bit(table: str) -> Mutation:
    def mutate(db: StoredTables, rng: random.Random) -> Place:
        row = pick(db, rng, table)
        columns = [name for name in row if name not in _UNSIGNED.get(table, ())]
        column = rng.choice(columns)
        place = place_of(db, table, row)
        value = flipped(rng, column, row[column])
        db.update(table, row, **{column: value})
        if column == "batch_number":  # the row is at another batch now, perhaps of another tenant
            others = db.rows("batches", "batch_number = ?", value)
            tenants = tuple(batch["tenant"] for batch in others)
            place = place._replace(tenants=(*place.tenants, *tenants), batches=())
        return with_new_key(place, table, row | {column: value})

    return mutate


# The time at which a checkpoint was signed is in no signature, and the salt of a request in no
# record. `month` repeats the chunk's time.
_UNSIGNED: Mapping[str, tuple[str, ...]] = {
    "checkpoints": ("signed_at",),
    "grants": ("month",),
    "batches": ("request_salt",),
}


def instead_of_null(column: str) -> Any:
    if column in JSON:
        return '{"a": 1}'
    is_number = column in {"batch_number", "chunk_number", "size", "use_groups"}
    is_binary = column == "digest" or column.endswith("_salt")
    return 1 if is_number else bytes(32) if is_binary else "x"


def flipped(rng: random.Random, column: str, value: Any) -> Any:
    match value:
        case None:
            return instead_of_null(column)
        case int():
            return value ^ (1 << rng.randrange(20))
        case bytes():
            if not value:
                return b"x"
            data = bytearray(value)
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            return bytes(data)
        case str():
            characters = list(value or " ")
            index = rng.randrange(len(characters))
            characters[index] = chr(ord(characters[index]) ^ (1 << rng.randrange(5)))
            return "".join(characters)
        case datetime():
            return value + timedelta(microseconds=1 << rng.randrange(30))
    raise NotPossible


def with_new_key(place: Place, table: str, row: Row) -> Place:
    """Add the place at which the changed row is now."""
    tenants = (*place.tenants, row["tenant"]) if "tenant" in row else place.tenants
    batches = (*place.batches, row["batch_id"]) if "batch_id" in row else place.batches
    tables, leaves = place.tables, place.leaves
    if table in {*ROW_TABLES, "reissues", "settlements"}:
        tables, batches = (*tables, "leaves"), () if "batch_number" in KEYS[table] else batches
    return Place(tables, tenants, batches, leaves)


def respell_json(db: StoredTables, rng: random.Random) -> Place:
    table, column = rng.choice([("batches", "terms"), ("grants", "detail")])
    row = pick(db, rng, table, f"{column} IS NOT NULL")
    place = place_of(db, table, row)
    text = json.dumps(json.loads(row[column]), separators=(",", ":"))
    if text == row[column]:
        raise NotPossible
    db.update(table, row, **{column: text})
    return place
