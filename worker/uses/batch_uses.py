"""Describes to a producer the uses of one of its batches, after a bounded probe of storage.

A worker that waits for storage decides no requests. So a message asks for few objects and no longer
than a moment, and a tenant that asks all the time takes at most half of what a bucket profile has.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime

from sqlalchemy import Connection

from valetkey.wire.grant_ids import grant_id
from valetkey.wire.messages import MAX_PROBED_ITEMS, StatusMessage
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.replies import Outcome, UseState, UseStates
from worker.base.database_engine import read_transaction
from worker.context import Context
from worker.core.fingerprints import BATCH_UNKNOWN, RecordedBatch
from worker.core.issued_grants import SLOT_KINDS, UsedGrant
from worker.core.tenant_config import Bucket
from worker.errors import StorageSilent, Transient
from worker.ledger.batches import read_history
from worker.uses.state_facts import (
    ItemUses,
    count_state_facts,
    read_decided_chunks,
    read_item_uses,
    read_state_facts,
)
from worker.uses.use_recorder import probe_grants
from worker.uses.use_rows import find_used_grants
from worker.uses.use_rules import StateFacts, grant_state

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


_NO_CHUNK = -1  # a chunk number that no chunk has


def describe_uses(message: StatusMessage, tenant_id: str, context: Context) -> UseStates | Outcome:
    """Return the states of items of a batch of the tenant, or the counts of all of them.

    If the message asks for it, storage is asked first, within bounds: see `probe_items`. Storage
    that does not answer changes no reply. Charges nothing. Raises Transient.
    """
    with read_transaction(context.engine) as connection:
        history = read_history(connection, tenant_id, message.batch, _NO_CHUNK, context.now())
    batch = history.batch
    if batch is None:
        return _refuse(message, BATCH_UNKNOWN)
    refusal = _item_refusal(message, batch)
    if refusal is not None:
        return _refuse(message, refusal)
    if message.probe:
        probe_items(message.batch, batch, tenant_id, _items_to_probe(message, batch), context)
    states = UseStates(batch=message.batch, kind=batch.kind, bucket=batch.bucket, total=batch.total)
    now = context.now()
    with read_transaction(context.engine) as connection:
        if message.items is None:
            counts = _count_states(connection, batch, now)
            return states.model_copy(update={"counts": counts})
        items = list(_read_states(connection, batch, message.items, now))
    return states.model_copy(update={"items": items})


def _item_refusal(message: StatusMessage, batch: RecordedBatch) -> Refusal | None:
    for index, item in enumerate(message.items or ()):
        if item >= batch.total:
            limit = batch.total - 1
            text = f"the batch has no item of this number: its items are 0 to {limit:,}"
            field = f"items[{index}]"
            return Refusal(code=Code.GRANT_UNKNOWN, field=field, message=text, limit=limit)
    return None


def _items_to_probe(message: StatusMessage, batch: RecordedBatch) -> Sequence[int]:
    if message.items is not None:
        return message.items
    return range(batch.total if batch.total <= MAX_PROBED_ITEMS else 0)


def _count_states(connection: Connection, batch: RecordedBatch, now: datetime) -> dict[str, int]:
    facts = count_state_facts(connection, batch.batch_number, batch.chunk_size)
    counts: Counter[str] = Counter()
    for fact, number in facts.issued.items():
        counts[grant_state(fact, now)] += number
    counts["refused"] += facts.refused
    counts[_missing_state(batch)] += batch.total - counts.total()
    return dict(sorted((+counts).items()))


def _missing_state(batch: RecordedBatch) -> str:
    """Return the state of the items whose chunk is not decided."""
    return "undecided" if batch.later_refusal is None else "refused"


def _read_states(
    connection: Connection, batch: RecordedBatch, items: Sequence[int], now: datetime
) -> Iterator[UseState]:
    uses = read_item_uses(connection, batch.batch_number, items)
    facts = read_state_facts(connection, batch.batch_number, items)
    decided = read_decided_chunks(connection, batch.batch_number)
    for item in items:
        row = uses.rows.get(item)
        if row is None:
            is_pruned = item // batch.chunk_size in decided
            yield UseState(item=item, state="unknown" if is_pruned else _missing_state(batch))
        elif row.code is not None:
            yield UseState(item=item, state="refused", key=row.object_key)
        else:
            yield _issued_state(item, facts[item], uses, now)


def _issued_state(item: int, facts: StateFacts, uses: ItemUses, now: datetime) -> UseState:
    state = UseState(
        item=item,
        state=grant_state(facts, now),
        key=uses.keys.get(item, uses.rows[item].object_key),
        expires_at=facts.expires_at,
        uses=uses.counts.get(item, 0),
    )
    newest = uses.objects.get(item)
    if newest is None:
        return state
    values = newest._asdict()
    return state.model_copy(update={"stored_at": values.pop("occurred_at"), **values})


def _refuse(message: StatusMessage, refusal: Refusal) -> Outcome:
    return Outcome(batch=message.batch, chunk=0, status="refused", refusal=refusal)
