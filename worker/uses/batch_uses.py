"""Describes to a producer the uses of one of its batches."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime

from sqlalchemy import Connection

from valetkey.wire.messages import MAX_PROBED_ITEMS, StatusMessage
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.replies import Outcome, UseState, UseStates
from worker.audit.grant_states import grant_state
from worker.audit.state_facts import (
    count_state_facts,
    read_decided_chunks,
    read_item_uses,
)
from worker.base.database_engine import read_transaction
from worker.context import Context
from worker.ledger.batches import read_history
from worker.rules.authentication import AuthenticatedMessage
from worker.rules.decisions import Reply
from worker.rules.fingerprints import BATCH_UNKNOWN, RecordedBatch
from worker.rules.tenant_config import TenantConfig
from worker.uses.storage_probes import probe_items

_NO_CHUNK = -1  # a chunk number that no chunk has


def respond_to_status(
    message: StatusMessage, sender: AuthenticatedMessage, _config: TenantConfig, context: Context
) -> Reply:
    """Describe the uses of a batch to its tenant. Raises Transient."""
    return Reply.of(describe_uses(message, sender.tenant.id, context))


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
    found = read_item_uses(connection, batch.batch_number, items)
    decided = read_decided_chunks(connection, batch.batch_number)
    for item in items:
        if item not in found:
            is_pruned = item // batch.chunk_size in decided
            yield UseState(item=item, state="unknown" if is_pruned else _missing_state(batch))
            continue
        key, facts, uses, stored = found[item]
        if facts is None:
            yield UseState(item=item, state="refused", key=key)
        else:
            state, expires_at = grant_state(facts, now), facts.expires_at
            issued = UseState(item=item, state=state, key=key, expires_at=expires_at, uses=uses)
            yield issued.model_copy(update=stored)


def _refuse(message: StatusMessage, refusal: Refusal) -> Outcome:
    return Outcome(batch=message.batch, chunk=0, status="refused", refusal=refusal)
