"""Asks storage for the objects of upload slots because a producer wants to know, within bounds.

A worker that waits for storage decides no requests. So a message asks for few objects and no longer
than a moment, and a tenant that asks all the time takes at most half of what a bucket profile has.
"""

import time
from collections.abc import Iterator, Sequence

from valetkey.wire.grant_ids import grant_id
from valetkey.wire.messages import MAX_PROBED_ITEMS
from worker.context import Context
from worker.core.policy.history import RecordedBatch
from worker.core.tenants.config import Bucket
from worker.core.uses.used_grant import SLOT_KINDS, UsedGrant
from worker.db.engine import read_transaction
from worker.db.uses.states import read_state_facts
from worker.db.uses.used_grants import find_used_grants
from worker.errors import StorageSilent, Transient
from worker.usecases.uses.probe import probe_grants

_MAX_SECONDS = 2.0  # after which no further object is asked for
_PER_GRANT = 1.0  # probes a second


def probe_items(
    batch_id: str, batch: RecordedBatch, tenant_id: str, items: Sequence[int], context: Context
) -> None:
    """Ask storage for the objects of a batch's items, unless one is known.

    At most MAX_PROBED_ITEMS are asked for, each once a second, by this process. Storage that does
    not answer is left alone for a while. Raises Transient only if the database is unreachable.
    """
    bucket = context.config.current().buckets.get(batch.bucket)
    if batch.kind not in SLOT_KINDS or bucket is None or not bucket.probe_rate:
        return
    try:
        context.s3.silent_buckets.check(bucket, context.now())
    except StorageSilent:
        return
    grants = _find_unknown(batch_id, batch, tenant_id, items, context)
    due = _due(grants, bucket, tenant_id, context)
    if due:
        problem = _probe(due, bucket, context)
        context.problems.note("probe_unanswered", bucket.name, problem, bucket=bucket.name)


def _probe(grants: Sequence[UsedGrant], bucket: Bucket, context: Context) -> str | None:
    """Ask for objects, and return why storage did not answer, or None."""
    begin = time.monotonic()
    try:
        probe_grants(_in_time(grants, bucket, context), context)
    except Transient as error:
        if error.part == "database":
            raise
        if isinstance(error, StorageSilent) or time.monotonic() > begin + _MAX_SECONDS:
            context.s3.silent_buckets.add(bucket, context.now())
        return str(error)
    return None


def _in_time(grants: Sequence[UsedGrant], bucket: Bucket, context: Context) -> Iterator[UsedGrant]:
    """Yield grants until the time is up. Storage that takes as long for one is left alone."""
    end = time.monotonic() + _MAX_SECONDS
    for grant in grants:
        asked_at = time.monotonic()
        yield grant
        answered_at = time.monotonic()
        if answered_at > asked_at + _MAX_SECONDS:
            context.s3.silent_buckets.add(bucket, context.now())
        if answered_at > end:
            return


def _find_unknown(
    batch_id: str, batch: RecordedBatch, tenant_id: str, items: Sequence[int], context: Context
) -> list[UsedGrant]:
    """Return the first issued grants without a known object."""
    with read_transaction(context.engine) as connection:
        facts = read_state_facts(connection, batch.batch_number, items)
        unknown = {item for item, each in facts.items() if each.stored_verdict is None}
        asked = [item for item in dict.fromkeys(items) if item in unknown][:MAX_PROBED_ITEMS]
        ids = [grant_id(batch_id, item) for item in asked]
        found = find_used_grants(connection, ids, context.config.current())
    return [grant for name in ids for grant in found[name] if grant.tenant == tenant_id]


def _due(
    grants: Sequence[UsedGrant], bucket: Bucket, tenant_id: str, context: Context
) -> Sequence[UsedGrant]:
    """Return the grants that may be probed now, by the rates of each grant, tenant and profile."""
    take, now = context.probe_limits.take, context.now()
    due = [
        grant
        for grant in grants
        if take((grant.batch_number, grant.item_number), _PER_GRANT, 1, now)
    ]
    allowed = take((bucket.name, tenant_id), bucket.probe_rate / 2, len(due), now)
    return due[: take(bucket.name, bucket.probe_rate, allowed, now)]
