"""Generates the rows of an audit log: seeded and skewed, a year of one service."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from random import Random
from typing import Any, NamedTuple

Row = tuple[Any, ...]

END = datetime(2026, 11, 27, tzinfo=UTC)
"""The time of the last rows; the first ones are a year older."""
YEAR = timedelta(days=365)
CHUNK_ITEMS = 600
BUCKETS = ("documents", "media", "exports")
REFUSED = 0.02  # of the items that are refused one by one; whole batches are refused as well

_KINDS = (("download", 0.8), ("upload", 0.1), ("put", 0.07), ("multipart", 0.03))
_REASONS = (None, "statements", "nightly export", "support case 4711", "migration")
_CODES = ("prefix_not_allowed", "key_invalid", "size_too_large")
_BATCH_CODES = ("quota_exceeded", "expiry_too_long")
# Sizes of batches: (smallest, largest, share of all rows). Few rows are in batches of one, but most
# batches are.
_SIZES = ((1, 1, 0.03), (2, 600, 0.07), (601, 10_000, 0.3), (10_001, 100_000, 0.4))
_LARGEST = (100_001, 1_000_000, 0.2)
_SECONDS_PER_CHUNK = 0.02


@dataclass(frozen=True, slots=True)
class DataPlan:
    """The parameters of a generated log. The same plan gives the same rows.

    Half of the rows are of the first tenant, the others are spread over all others.
    """

    rows: int
    tenants: int = 50
    seed: int = 13


class GeneratedChunk(NamedTuple):
    """The row of a chunk, and the rows of its grants."""

    row: Row
    grants: list[Row]


class GeneratedBatch(NamedTuple):
    """The row of a batch, and its chunks, generated while they are read."""

    row: Row
    chunks: Iterator[GeneratedChunk]


BATCH_COLUMNS = (
    *("batch_number", "batch_id", "tenant", "bucket", "kind", "requested_by", "reason", "terms"),
    *("total", "chunk_size", "fingerprint", "refusal", "decided_at"),
)
CHUNK_COLUMNS = (
    *("batch_number", "chunk_number", "fingerprint", "issued", "refused", "issued_at"),
    *("expires_in", "limited_by", "access_key", "refusal", "signing_key"),
)
GRANT_COLUMNS = ("batch_number", "item_number", "object_key", "code", "detail", "digest")


def tenant_name(number: int) -> str:
    """Return the name of a tenant, by its number from 0."""
    return f"tenant-{number:02d}"


def object_key(tenant: str, number: int) -> str:
    """Return a tenant's object key by number. Low numbers are requested most often."""
    return f"{tenant}/{2020 + number % 7}/statement-{number:07d}.pdf"


def generate_batches(plan: DataPlan) -> Iterator[GeneratedBatch]:
    """Generate batches in the order of their numbers, until they have all rows of the plan."""
    rng = Random(plan.seed)
    number, rows, rows_of_first = 0, 0, 0
    while rows < plan.rows:
        number += 1
        total = min(_batch_size(rng, plan), plan.rows - rows)
        chance_of_first = 0.9 if 2 * rows_of_first <= rows else 0.1
        tenant = 0 if rng.random() < chance_of_first else rng.randrange(1, plan.tenants)
        decided_at = END - YEAR + YEAR * (rows / plan.rows)
        yield _generate_batch(rng, plan, number, tenant, total, decided_at)
        rows += total
        rows_of_first += total if tenant == 0 else 0


def _batch_size(rng: Random, plan: DataPlan) -> int:
    # The largest batches only exist in logs that have room for several of them.
    sizes = _SIZES if plan.rows < 5 * _LARGEST[1] else (*_SIZES, _LARGEST)
    weights = [share / ((low + high) / 2) for low, high, share in sizes]
    low, high, _ = rng.choices(sizes, weights)[0]
    return rng.randint(low, high)


def _generate_batch(
    rng: Random, plan: DataPlan, number: int, tenant_number: int, total: int, decided_at: datetime
) -> GeneratedBatch:
    tenant = tenant_name(tenant_number)
    kind = rng.choices([name for name, _ in _KINDS], [share for _, share in _KINDS])[0]
    code = rng.choice(_BATCH_CODES) if rng.random() < 0.005 else None  # noqa: PLR2004
    terms = {"kind": kind, "bucket": rng.choice(BUCKETS), "expires_in": 3_600}
    row = (
        *(number, f"0199a000-0000-7000-8000-{number:012d}", tenant, terms["bucket"], kind),
        *(f"{tenant}/service-{rng.randrange(20)}", rng.choice(_REASONS), json.dumps(terms)),
        *(total, CHUNK_ITEMS, sha256(b"%d" % number).digest(), _refusal(code), decided_at),
    )
    distinct = max(10, plan.rows // 3 // (2 if tenant_number == 0 else 2 * plan.tenants))
    return GeneratedBatch(row, _generate_chunks(rng, row, code, distinct))


def _generate_chunks(
    rng: Random, batch: Row, code: str | None, distinct: int
) -> Iterator[GeneratedChunk]:
    number, tenant, total, decided_at = batch[0], batch[2], batch[8], batch[12]
    for chunk, first in enumerate(range(0, total, CHUNK_ITEMS)):
        grants = [
            _generate_grant(rng, number, item, tenant, distinct, code)
            for item in range(first, min(first + CHUNK_ITEMS, total))
        ]
        refused = sum(grant[3] is not None for grant in grants)
        row = (
            *(number, chunk, sha256(b"%d.%d" % (number, chunk)).digest(), len(grants) - refused),
            *(refused, decided_at + timedelta(seconds=chunk * _SECONDS_PER_CHUNK), 3_600),
            *("request", None if code else "AKIDEXAMPLE", _refusal(code), f"{tenant}/main"),
        )
        yield GeneratedChunk(row, grants)


def _generate_grant(
    rng: Random, batch: int, item: int, tenant: str, distinct: int, batch_code: str | None
) -> Row:
    key = object_key(tenant, int(distinct * rng.random() ** 3))  # a power law
    if batch_code is not None:
        return (batch, item, key, batch_code, None, None)
    if rng.random() < REFUSED:
        return (batch, item, key, rng.choice(_CODES), None, None)
    return (batch, item, key, None, None, rng.randbytes(32))


def _refusal(code: str | None) -> str | None:
    return code and json.dumps({"code": code, "message": "generated"})
