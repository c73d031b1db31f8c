"""Writes the manifests that are due: all results of a batch, as one file in the tenant's bucket."""

from collections.abc import Callable
from datetime import datetime
from functools import partial

import structlog

from worker.context import Context
from worker.core.webhooks.retry import retry_delay
from worker.db.engine import read_transaction, write_transaction
from worker.db.manifests import (
    ManifestLease,
    ManifestProblem,
    ManifestWritten,
    lease_manifest,
    settle_manifest,
    tenants_with_due_manifests,
)
from worker.errors import Malformed, Transient
from worker.jobs.single_flight import JobRun
from worker.jobs.thread_group import ThreadGroup
from worker.jobs.turns import Limits, TurnKey, Turns
from worker.usecases.upkeep.manifest_file import LeaseLost, write_manifest

LIMITS = Limits(total=4, per_owner=2, per_key=2, suspects=4)
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
        return ManifestProblem(str(error)[:_MAX_PROBLEM_LENGTH], None)
    except Transient as error:
        retry_at = _next_attempt(manifest, context)
        return ManifestProblem(str(error)[:_MAX_PROBLEM_LENGTH], retry_at)
    except Exception as error:
        # The log is scrubbed. The producer reads the problem, which names only the type.
        log.exception("manifest_failed", batch=manifest.batch_id)
        problem = f"an unexpected error: {type(error).__name__}"
        return ManifestProblem(problem, _next_attempt(manifest, context))


def _next_attempt(manifest: ManifestLease, context: Context) -> datetime | None:
    if manifest.attempts >= MAX_ATTEMPTS:
        return None
    delay = retry_delay(manifest.attempts, context.random())
    return None if delay is None else context.now() + delay
