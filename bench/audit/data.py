"""Generates the rows of an audit log: seeded and skewed, a year of one service."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from random import Random
from typing import Any, NamedTuple

from worker.rules.annotations import new_salt, salted
from worker.rules.decisions import GrantRow

END = datetime(2026, 11, 27, tzinfo=UTC)
"""The time of the last rows; the first ones are a year older."""
YEAR = timedelta(days=365)
CHUNK_ITEMS = 600
BUCKETS = ("documents", "media", "exports")
_REFUSED_ITEMS, _REFUSED_BATCHES = 0.015, 0.005

_KINDS = (("download", 0.8), ("upload", 0.1), ("put", 0.07), ("multipart", 0.03))
_REASONS = (None, "statements", "nightly export", "support case 4711", "migration")
_CODES = ("prefix_not_allowed", "key_invalid", "size_too_large")
_SIZED = ("put", "multipart")
_SIZE_TERMS = {kind: {"max_size": 10_000_000} for kind in ("upload", "put", "multipart")}
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
    """The columns of a chunk, and its audit rows."""

    values: dict[str, Any]
    rows: list[GrantRow]


class GeneratedBatch(NamedTuple):
    """The columns of a batch, and its chunks, generated while they are read."""

    values: dict[str, Any]
    chunks: Iterator[GeneratedChunk]


@dataclass(frozen=True, slots=True)
class _BatchPlan:
    number: int
    tenant: str
    total: int
    decided_at: datetime
    distinct_keys: int
    kind: str
    code: str | None = None


def tenant_name(number: int) -> str:
    """Return the name of a tenant, by its number from 0."""
    return f"tenant-{number:02d}"


def batch_id(number: int) -> str:
    """Return the id of a batch, by its number from 1."""
    return f"0199a000-0000-7000-8000-{number:012d}"


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
        distinct = max(10, plan.rows // 6 // (1 if tenant == 0 else plan.tenants))
        kind = rng.choices([name for name, _ in _KINDS], [share for _, share in _KINDS])[0]
        batch = _BatchPlan(number, tenant_name(tenant), total, decided_at, distinct, kind)
        yield _generate_batch(rng, batch)
        rows += total
        rows_of_first += total if tenant == 0 else 0


def _batch_size(rng: Random, plan: DataPlan) -> int:
    # The largest batches only exist in logs that have room for several of them.
    sizes = _SIZES if plan.rows < 5 * _LARGEST[1] else (*_SIZES, _LARGEST)
    weights = [share / ((low + high) / 2) for low, high, share in sizes]
    low, high, _ = rng.choices(sizes, weights)[0]
    return rng.randint(low, high)


def _generate_batch(rng: Random, batch: _BatchPlan) -> GeneratedBatch:
    kind = batch.kind
    bucket = rng.choice(BUCKETS)
    if rng.random() < _REFUSED_BATCHES:
        batch = replace(batch, code=rng.choice(_BATCH_CODES))
    values = {
        "batch_number": batch.number,
        "batch_id": batch_id(batch.number),
        "tenant": batch.tenant,
        "bucket": bucket,
        "kind": kind,
        **salted(
            {
                "requested_by": f"{batch.tenant}/service-{rng.randrange(20)}",
                "reason": rng.choice(_REASONS),
                "recipient": None,
            }
        ),
        "notify": None,
        "reissue_of": None,
        "terms": {"kind": kind, "bucket": bucket, "expires_in": 3_600, **_SIZE_TERMS.get(kind, {})},
        "total": batch.total,
        "chunk_size": CHUNK_ITEMS,
        "callback": None,
        "fingerprint": sha256(b"%d" % batch.number).digest(),
        "request_salt": new_salt(),
        "refusal": _refusal(batch.code),
        "decided_at": batch.decided_at,
    }
    return GeneratedBatch(values, _generate_chunks(rng, batch))


def _generate_chunks(rng: Random, batch: _BatchPlan) -> Iterator[GeneratedChunk]:
    for chunk, first in enumerate(range(0, batch.total, CHUNK_ITEMS)):
        items = range(first, min(first + CHUNK_ITEMS, batch.total))
        rows = [_generate_row(rng, item, batch) for item in items]
        refused = sum(row.code is not None for row in rows)
        values = {
            "batch_number": batch.number,
            "chunk_number": chunk,
            "fingerprint": sha256(b"%d.%d" % (batch.number, chunk)).digest(),
            "issued": len(rows) - refused,
            "refused": refused,
            "issued_at": batch.decided_at + timedelta(seconds=chunk * _SECONDS_PER_CHUNK),
            "expires_in": 3_600,
            "limited_by": "request",
            "access_key": None if batch.code else "AKIDEXAMPLE",
            "refusal": _refusal(batch.code),
            "signing_key": None,
            "key_thumbprint": None,
            "config_change": 2**40,  # the config as it is: the log has fewer changes
        }
        yield GeneratedChunk(values, rows)


def _generate_row(rng: Random, item: int, batch: _BatchPlan) -> GrantRow:
    key = object_key(batch.tenant, int(batch.distinct_keys * rng.random() ** 3))  # a power law
    if batch.code is not None:
        return GrantRow(item, key, batch.code)
    if rng.random() < _REFUSED_ITEMS:
        return GrantRow(item, key, rng.choice(_CODES))
    detail = {"size": rng.randrange(1, 10_000_000)} if batch.kind in _SIZED else None
    return GrantRow(item, key, None, detail, rng.randbytes(32))


def _refusal(code: str | None) -> dict[str, str] | None:
    return {"code": code, "message": "generated"} if code else None
