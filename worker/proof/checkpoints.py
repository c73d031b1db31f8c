"""Signs the heads of the trees, stores them as checkpoints, and publishes these.

The table of checkpoints has them all, so a destination that fails loses none: it gets what it lacks
next time.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import cache
from typing import NamedTuple

import structlog
from sqlalchemy import Connection

from worker.base.database_engine import read_transaction, write_transaction
from worker.base.jobs import JobRun
from worker.context import Context
from worker.errors import Malformed, Transient
from worker.ledger.merkle import NO_LEAVES, RightEdge
from worker.proof.checkpoint_destinations import Destinations, names_of
from worker.proof.checkpoint_forks import (
    FAILURES,
    MAX_LOST_SECONDS,
    Comparison,
    InconsistentLog,
    abandoned_names,
    describe_contradiction,
    describe_failure,
    edge_at,
    find_contradictions,
)
from worker.proof.checkpoint_format import (
    CheckpointText,
    InvalidNote,
    VerifierKey,
    names_a_tree,
    open_checkpoint,
    tree_origin,
)
from worker.proof.checkpoint_key import CheckpointKeys, KeyUnusable, NoKey, configured_keys
from worker.proof.checkpoint_rows import (
    SIGNING,
    Publication,
    StoredCheckpoint,
    insert_checkpoint,
    leaf_hashes,
    newest_checkpoint_sizes,
    read_checkpoints_after,
    read_head,
    read_last_checkpoint,
    read_publications,
    read_trees,
    store_publication,
)
from worker.proof.proof_settings import (
    Destination,
    ProofSettings,
    configured_destinations,
    destination_id,
)


class SigningResult(NamedTuple):
    """A tenant's newest checkpoint, or the problem for which its head is not signed.

    is_new is false if the tree has not grown since the last checkpoint.
    """

    tenant_id: str
    checkpoint: StoredCheckpoint | None
    is_new: bool = False
    problem: str | None = None


def sign_checkpoints(
    context: Context,
    keys: CheckpointKeys,
    settings: ProofSettings,
    tenant_ids: Sequence[str] | None = None,
) -> Iterator[SigningResult]:
    """Sign and store the head of each tree that has grown; tenant_ids None means all trees.

    A head that does not continue the newest checkpoint in the database and at each destination is
    not signed: a signature would make a rewritten log look right. Any number of processes may do
    this at once. Raises Transient.
    """
    comparison = Comparison(Destinations(context, settings, keys.trusted))
    failed = {
        row.tenant for row in comparison.rows.values() if row.problem and row.destination == SIGNING
    }
    for tenant_id in all_trees(context) if tenant_ids is None else tenant_ids:
        result = _sign(context, keys, tenant_id, comparison)
        if result.problem is not None or tenant_id in failed:
            _store_problem(context, result)
        yield result


def all_trees(context: Context) -> list[str]:
    """Return the trees with leaves or a checkpoint. One without leaves may have been removed."""
    with read_transaction(context.engine) as connection:
        return sorted({*read_trees(connection), *newest_checkpoint_sizes(connection)})


def _sign(
    context: Context, keys: CheckpointKeys, tenant_id: str, comparison: Comparison
) -> SigningResult:
    if not names_a_tree(tenant_id):
        return SigningResult(tenant_id, None, problem="no tenant can have this id")
    try:
        last, edge = _read_tree(context, keys, tenant_id)
        if last is None or last.size < edge.size:
            if problem := comparison.find_problem(tenant_id):
                return SigningResult(tenant_id, None, problem=problem)
            last, edge = _read_tree(context, keys, tenant_id)  # others may have signed meanwhile
    except InconsistentLog as error:
        return SigningResult(tenant_id, None, problem=str(error))
    if last is not None and last.size == edge.size:
        return SigningResult(tenant_id, last)
    checkpoint = _sign_edge(keys, tenant_id, edge, context.now())
    with write_transaction(context.engine) as connection:
        is_new = insert_checkpoint(connection, checkpoint)
    return SigningResult(tenant_id, checkpoint, is_new)


def _read_tree(
    context: Context, keys: CheckpointKeys, tenant_id: str
) -> tuple[StoredCheckpoint | None, RightEdge]:
    """Return the last checkpoint of a tree, and its right edge. Raises InconsistentLog."""
    with read_transaction(context.engine) as connection:
        last = read_last_checkpoint(connection, tenant_id)
        return last, _continue_log(connection, keys, tenant_id, last)


def _sign_edge(
    keys: CheckpointKeys, tenant_id: str, edge: RightEdge, now: datetime
) -> StoredCheckpoint:
    root = edge.root()
    text = CheckpointText(tree_origin(keys.signer.name, tenant_id), edge.size, root)
    note = keys.signer.sign(str(text))
    return StoredCheckpoint(tenant_id, edge.size, root, now, note, edge.to_bytes())


def _continue_log(
    connection: Connection, keys: CheckpointKeys, tenant_id: str, last: StoredCheckpoint | None
) -> RightEdge:
    """Return the right edge of a tree, computed from the leaves after its last checkpoint.

    Raises InconsistentLog.
    """
    head = read_head(connection, tenant_id)
    if last is not None and (problem := _wrong_note(last, keys.trusted)):
        raise InconsistentLog(f"the last checkpoint, of {last.size:,} leaves, {problem}")
    if head is None or (last is not None and head.size < last.size):
        size, signed_size = head.size if head else 0, last.size if last else 0
        raise InconsistentLog(
            f"the tree has {size:,} leaves, and its last checkpoint signs {signed_size:,}: leaves"
            " were removed"
        )
    signed = NO_LEAVES if last is None else edge_at(connection, last)
    edge = signed.extend(leaf_hashes(connection, tenant_id, signed.size, head.size))
    if edge.size != head.size:
        raise InconsistentLog(f"leaf {edge.size} is missing, of a tree with {head.size:,} leaves")
    if edge.to_bytes() != head.edge:
        text = f"the head of the tree does not follow from its leaves from {signed.size:,} on"
        raise InconsistentLog(text)
    return edge


def _wrong_note(checkpoint: StoredCheckpoint, keys: Sequence[VerifierKey]) -> str | None:
    """Return why this service did not sign a checkpoint as it is stored, or None if it did.

    Without keys, no signature is verified.
    """
    if not names_a_tree(checkpoint.tenant):
        return "is of no possible tenant"
    try:
        text, tenant_id = open_checkpoint(checkpoint.note, keys)
    except InvalidNote as error:
        return f"is not trusted: {error}"
    if (tenant_id, text.size, text.root) != (checkpoint.tenant, checkpoint.size, checkpoint.root):
        return "was changed: its note says something else"
    return None


def _store_problem(context: Context, result: SigningResult) -> None:
    size = 0 if result.checkpoint is None else result.checkpoint.size
    row = Publication(SIGNING, result.tenant_id, "", size, result.problem, context.now())
    with write_transaction(context.engine) as connection:
        store_publication(connection, row)


MAX_CHECKPOINTS = 100
"""The largest number of checkpoints of a tenant that a run sends to one destination."""


def publish_checkpoints(
    context: Context,
    settings: ProofSettings,
    tenant_ids: list[str] | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> Iterator[Publication]:
    """Send each destination the checkpoints that it lacks; yield what was sent or failed.

    A new destination gets the newest checkpoint of each tenant. One that does not respond is given
    up for this run. tenant_ids None means all. Raises Transient if the database is
    unreachable.
    """
    destinations = configured_destinations(settings)
    if not destinations:
        return
    with read_transaction(context.engine) as connection:
        newest = newest_checkpoint_sizes(connection)
        rows = read_publications(connection)
    published = {(row.destination, row.tenant): row for row in rows}
    run = Destinations(context, settings, _trusted_keys(settings))
    lost_seconds: defaultdict[Destination, float] = defaultdict(float)
    for tenant_id, size in sorted(newest.items()):
        for destination in destinations if tenant_ids is None or tenant_id in tenant_ids else ():
            row = published.get((destination_id(destination), tenant_id))
            if (row is None or row.size < size) and lost_seconds[destination] < MAX_LOST_SECONDS:
                started = monotonic()
                result = _publish(run, destination, (tenant_id, size), row)
                if result.problem is not None:
                    lost_seconds[destination] += monotonic() - started
                yield result


def _publish(
    run: Destinations, destination: Destination, newest: tuple[str, int], row: Publication | None
) -> Publication:
    (tenant_id, size), sent = newest, row.size if row else 0
    engine = run.context.engine
    with read_transaction(engine) as connection:
        # Of a destination that has none, only the newest is due.
        due = read_checkpoints_after(connection, tenant_id, sent or size - 1, MAX_CHECKPOINTS)
    problem = None
    try:
        if row is None or row.problem is not None:  # the others were compared for signing
            for _, text in find_contradictions(run, destination, tenant_id, sent):
                raise Malformed(describe_contradiction(text))
        for checkpoint in due:
            _send(run, destination, checkpoint)
            sent = checkpoint.size
    except FAILURES as error:
        problem = describe_failure(error)
    key = destination_id(destination), tenant_id
    row = Publication(*key, destination.label, sent, problem, run.context.now())
    with write_transaction(engine) as connection:
        store_publication(connection, row)
    return row


def _send(run: Destinations, destination: Destination, checkpoint: StoredCheckpoint) -> None:
    """Publish one checkpoint, under its second name if an abandoned one has the first."""
    # Whoever writes to the table may not have the key.
    if problem := _wrong_note(checkpoint, run.keys):
        raise Malformed(f"the stored checkpoint of size {checkpoint.size} {problem}")
    name, second_name = names_of(checkpoint)
    try:
        run.send(destination, checkpoint, name)
    except Malformed:
        with read_transaction(run.context.engine) as connection:
            if name not in abandoned_names(connection, checkpoint.tenant):
                raise
        run.send(destination, checkpoint, second_name)


def _trusted_keys(settings: ProofSettings) -> list[VerifierKey]:
    try:
        return configured_keys(settings).trusted
    except KeyUnusable:
        return []


log = structlog.get_logger()

RETRY_SECONDS = 60.0
"""The seconds until the job runs again if the database was unreachable or the key unusable."""

REPUBLISH_SECONDS = 300.0
"""The time after which a destination that failed gets what it lacks."""


class CheckpointJob:
    """Signs and publishes checkpoints at most once in the interval of the settings.

    What fails is logged, stored for `doctor`, and tried again, at the latest after the interval.
    """

    def __init__(
        self, settings: Callable[[], ProofSettings], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._monotonic = monotonic
        self._sign_at = self._publish_at = 0.0

    def __call__(self, context: Context, run: JobRun | None = None) -> dict[str, int]:
        """Run if it is due. Returns counts. Raises Transient."""
        settings, now = self._settings(), self._monotonic()
        if now < min(self._sign_at, self._publish_at):
            return {}
        is_signing, interval = now >= self._sign_at, settings.audit_checkpoint_seconds
        self._sign_at = now + interval if is_signing else self._sign_at
        self._publish_at = self._sign_at
        run = run or JobRun()
        try:
            keys = configured_keys(settings)
            counts = _sign_and_count(context, keys, settings, run) if is_signing else {}
            counts |= _publish_and_count(context, settings, run)
        except NoKey:
            return {}
        except KeyUnusable as error:
            self._sign_at = min(self._sign_at, now + RETRY_SECONDS)
            raise Transient(str(error)) from None
        except Transient:  # the database is unreachable
            self._sign_at = min(self._sign_at, now + RETRY_SECONDS)
            raise
        retry_at = now + min(interval, REPUBLISH_SECONDS)
        if counts["failed"]:
            self._publish_at = retry_at
        if counts.get("refused"):  # a destination may answer by then
            self._sign_at = min(self._sign_at, retry_at)
        return counts


def _sign_and_count(
    context: Context, keys: CheckpointKeys, settings: ProofSettings, run: JobRun
) -> dict[str, int]:
    signed = refused = 0
    for result in sign_checkpoints(context, keys, settings):
        run.progress()
        signed += result.is_new
        if result.problem is not None:
            refused += 1
            log.error("checkpoint_refused", tenant=result.tenant_id, problem=result.problem)
        if run.is_stopping:
            break
    return {"signed": signed, "refused": refused}


def _publish_and_count(context: Context, settings: ProofSettings, run: JobRun) -> dict[str, int]:
    published = failed = 0
    for row in publish_checkpoints(context, settings):
        run.progress()
        published += row.problem is None
        if row.problem is not None:
            failed += 1
            fields = {"tenant": row.tenant, "destination": row.label}
            log.warning("checkpoint_not_published", problem=row.problem, **fields)
        if run.is_stopping:
            break
    return {"published": published, "failed": failed}


publish_on_time = CheckpointJob(cache(ProofSettings))
