"""Writes the manifests that are due: all results of a batch, signed again, in one file."""

import gzip
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from hashlib import file_digest
from tempfile import TemporaryFile
from typing import IO, Any, BinaryIO, cast

import structlog
from pydantic_core import to_json
from sqlalchemy import Connection, func, select

from models import Chunk
from valetkey.wire.refusals import Code
from worker.base.database_engine import read_transaction, write_transaction
from worker.base.jobs import JobRun
from worker.context import Context
from worker.errors import Malformed, Transient
from worker.issue.chunk_signing import read_recorded, reissue_chunk
from worker.rules.admission import manifest_refusal, may_overwrite_manifest
from worker.rules.decisions import ChunkDecision, refused_item_result
from worker.rules.tenant_config import TenantAccess
from worker.shared.object_files import ObjectFile, put_object
from worker.shared.threads import ThreadGroup
from worker.webhooks.outbox import (
    MANIFEST_LEASE_TIME,
    ManifestLease,
    ManifestProblem,
    ManifestWritten,
    lease_manifest,
    renew_manifest_lease,
    settle_manifest,
    tenants_with_due_manifests,
)
from worker.webhooks.turns import TurnKey, TurnLimits, Turns
from worker.webhooks.webhook_rules import retry_delay

_RENEWAL_INTERVAL = MANIFEST_LEASE_TIME / 4
_GZIP_LEVEL = 6  # higher levels take much longer and save little


class LeaseLost(Exception):
    """The lease expired and another process took it."""


def write_manifest(
    manifest: ManifestLease, context: Context, writers: Callable[[], int]
) -> ManifestWritten:
    """Write a manifest to its bucket. Raises Malformed, Transient and LeaseLost.

    writers returns the number of manifests that are being written in this process.
    """
    bucket, tenant, policy = _destination(manifest, context)
    keep_lease = _LeaseKeeper(manifest, context)
    # Before the file is written, which takes long: without credentials it cannot be stored.
    context.s3.client(bucket, tenant.name, policy.prefixes, context.now())
    # The file has no name, so nothing of it remains if this process dies.
    with TemporaryFile() as stream:
        issued, refused = _write_lines(stream, _decisions(manifest, context, writers), keep_lease)
        stream.seek(0)
        digest, size = file_digest(stream, "sha256").digest(), stream.tell()
        stream.seek(0)
        client = context.s3.client(bucket, tenant.name, policy.prefixes, context.now())
        content = cast("BinaryIO", stream)
        may_replace = may_overwrite_manifest(policy)
        whole = ObjectFile(content, digest, "application/gzip", may_replace)
        answer = put_object(client, bucket, manifest.object_key, whole, keep_lease)
    if answer is not None:
        now = context.now()
        context.s3.check_rejection(answer, bucket, tenant.name, policy.prefixes, now)
        raise Malformed(f"storage refused it: {answer.words}")
    return ManifestWritten(issued, refused, size, digest.hex())


def _destination(manifest: ManifestLease, context: Context) -> TenantAccess:
    """Return the destination and policy of a manifest. Raises Malformed if it is not allowed."""
    access = context.config.current().find_access(manifest.tenant_id, manifest.bucket)
    if access is None or manifest_refusal(manifest.object_key, access.policy, access.bucket):
        raise Malformed("the tenant's policy no longer allows it to be stored")
    return access


def _write_lines(
    file: IO[bytes], decisions: Iterator[ChunkDecision], keep_lease: "_LeaseKeeper"
) -> tuple[int, int]:
    """Write a line for each result, in the order of the request; count issued and refused ones."""
    issued = refused = 0
    # Without a time and a name in its header, a file that is written again is the same.
    with gzip.GzipFile("", "wb", _GZIP_LEVEL, file, mtime=0) as zipped:
        for decision in decisions:
            zipped.write(b"".join(to_json(result) + b"\n" for result in _results(decision)))
            chunk_issued = 0 if decision.refusal else decision.issued
            issued += chunk_issued
            refused += len(decision.rows) - chunk_issued
            keep_lease()
    return issued, refused


def _decisions(
    manifest: ManifestLease, context: Context, writers: Callable[[], int]
) -> Iterator[ChunkDecision]:
    chunk_number = _next_chunk(manifest, -1, context)
    while chunk_number is not None:
        start = time.thread_time()
        recorded = read_recorded(manifest.batch_number, chunk_number, context)
        # Chunks that arrive after the batch was closed are left out: more of them may follow.
        if recorded.refusal is None or recorded.refusal.code is not Code.BATCH_CLOSED:
            yield reissue_chunk(recorded, context)
        chunk_number = _next_chunk(manifest, chunk_number, context)
        # Only one thread of a process computes at a time. Several writers therefore gain nothing
        # from computing at once, but would delay the webhooks that the process sends.
        time.sleep((time.thread_time() - start) * (writers() - 1))


def _next_chunk(manifest: ManifestLease, after: int, context: Context) -> int | None:
    with read_transaction(context.engine) as connection:
        return next_decided_chunk(connection, manifest.batch_number, after)


def _results(decision: ChunkDecision) -> Iterator[dict[str, Any]]:
    """Yield the results of a chunk's items; if it is refused as a whole, that refusal for each."""
    if decision.refusal is None:
        yield from decision.results
    else:
        refusal = decision.refusal
        yield from (refused_item_result(refusal, row.object_key) for row in decision.rows)


class _LeaseKeeper:
    """Renews a lease when it is called often enough. Raises LeaseLost."""

    def __init__(self, manifest: ManifestLease, context: Context) -> None:
        self._manifest = manifest
        self._context = context
        self._due = context.now() + _RENEWAL_INTERVAL

    def __call__(self) -> None:
        now = self._context.now()
        if now >= self._due:
            with write_transaction(self._context.engine) as connection:
                if not renew_manifest_lease(connection, self._manifest, now):
                    raise LeaseLost
            self._due = now + _RENEWAL_INTERVAL


LIMITS = TurnLimits(total=4, per_owner=2, per_key=2, suspects=4)
"""The manifests that one process writes at the same time: in all, and of one tenant."""

MAX_ATTEMPTS = 4  # over about six minutes
_SCAN_INTERVAL = 1.0  # seconds after which new manifests are found, while others are being written
_STUCK_AFTER = 1800.0  # seconds after which a writer no longer takes up a place
_MAX_PROBLEM_LENGTH = 200


log = structlog.get_logger()


def write_due_manifests(context: Context, run: JobRun | None = None) -> dict[str, int]:
    """Write due manifests until none is left, or the run has to stop; return counts.

    Several are written at once, in fair turns of tenants. Any number of processes may do this at
    once. Raises Transient.
    """
    run = run or JobRun()
    counts = {"written": 0, "unwritten": 0}
    turns = Turns(LIMITS)
    threads: ThreadGroup[ManifestLease, bool | None] = ThreadGroup(
        partial(_write_one, context=context, writers=lambda: threads.running), "manifest"
    )
    while True:
        for manifest, is_written in threads.wait(_SCAN_INTERVAL):
            turns.end(_turn_key(manifest.tenant_id))
            if is_written is not None:
                counts["written" if is_written else "unwritten"] += 1
        for manifest in threads.abandon(_STUCK_AFTER):
            turns.end(_turn_key(manifest.tenant_id))
            log.error("manifest_hangs", batch=manifest.batch_id)
        run.progress()
        leased = [] if run.is_stopping else _lease(turns, context)
        for manifest in leased:
            threads.start(manifest)
        if not leased and not threads.running:
            return counts


def _turn_key(tenant: str) -> TurnKey:
    return TurnKey(tenant, "")


def _lease(turns: Turns, context: Context) -> list[ManifestLease]:
    """Lease what may be written now. A tenant without a complete batch takes nobody's turn."""
    now = context.now()
    with read_transaction(context.engine) as connection:
        tenants = tenants_with_due_manifests(connection, now)
    waiting = {_turn_key(tenant): LIMITS.per_key for tenant in tenants}
    leased: list[ManifestLease] = []
    if not turns.allot(waiting):
        return leased
    with write_transaction(context.engine) as connection:
        while shares := turns.allot(waiting):
            for key in shares:
                manifest = lease_manifest(connection, key.owner, context.new_lease(), now)
                if manifest is None:
                    del waiting[key]
                else:
                    turns.start(key)
                    leased.append(manifest)
    return leased


def _write_one(
    manifest: ManifestLease, context: Context, writers: Callable[[], int]
) -> bool | None:
    """Write and settle a manifest; return true if it is written, None if that is unknown."""
    try:
        result = _attempt(manifest, context, writers)
        with write_transaction(context.engine) as connection:
            settle_manifest(connection, manifest, result, context.now())
    except LeaseLost:
        return None
    except Transient as error:  # its lease expires, and it is written again
        log.warning("manifest_postponed", batch=manifest.batch_id, problem=str(error))
        return None
    return isinstance(result, ManifestWritten)


def _attempt(
    manifest: ManifestLease, context: Context, writers: Callable[[], int]
) -> ManifestWritten | ManifestProblem:
    if manifest.attempts > MAX_ATTEMPTS:
        return ManifestProblem("every process that wrote it was stopped", None)
    try:
        return write_manifest(manifest, context, writers)
    except LeaseLost:
        raise
    except Malformed as error:
        problem, retry_at = str(error), None
    except Transient as error:
        problem, retry_at = str(error), _next_attempt(manifest, context)
    except Exception as error:
        # The log is scrubbed. The producer reads the problem, which names only the type.
        log.exception("manifest_failed", batch=manifest.batch_id)
        problem = f"an unexpected error: {type(error).__name__}"
        retry_at = _next_attempt(manifest, context)
    return ManifestProblem(problem[:_MAX_PROBLEM_LENGTH], retry_at)


def _next_attempt(manifest: ManifestLease, context: Context) -> datetime | None:
    if manifest.attempts >= MAX_ATTEMPTS:
        return None
    delay = retry_delay(manifest.attempts, context.random())
    return None if delay is None else context.now() + delay


def next_decided_chunk(connection: Connection, batch_number: int, after: int) -> int | None:
    """Return the number of the next decided chunk after the given one, or None if there is none."""
    query = select(func.min(Chunk.chunk_number)).where(
        Chunk.batch_number == batch_number, Chunk.chunk_number > after
    )
    return connection.scalar(query)
