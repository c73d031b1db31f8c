"""Signs the heads of the trees, stores them as checkpoints, and publishes these.

The table of checkpoints has them all, so a destination that fails loses none: it gets what it lacks
next time.
"""

import io
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import structlog
from sqlalchemy import Connection

from worker.aws.object_calls import ObjectFile, put_object
from worker.base.database_engine import read_transaction, write_transaction
from worker.base.jobs import JobRun
from worker.base.private_files import write_file
from worker.context import Context
from worker.errors import Malformed, Transient
from worker.ledger.merkle import NO_LEAVES, RightEdge
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
    edge_of_checkpoint,
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
from worker.settings import (
    BucketDestination,
    Destination,
    FolderDestination,
    Settings,
    WebhookDestination,
    destination_id,
    parse_destinations,
)
from worker.webhooks.webhook_rules import resolve_secrets, signature_headers


class InconsistentLog(Exception):
    """The log does not continue its last checkpoint: rows were changed or removed."""


class SigningResult(NamedTuple):
    """A tenant's newest checkpoint, or the problem for which its head is not signed.

    is_new is false if the tree has not grown since the last checkpoint.
    """

    tenant_id: str
    checkpoint: StoredCheckpoint | None
    is_new: bool = False
    problem: str | None = None


def sign_checkpoints(
    context: Context, keys: CheckpointKeys, tenant_ids: Sequence[str] | None = None
) -> Iterator[SigningResult]:
    """Sign and store the head of each tree that has grown; tenant_ids None means all trees.

    A head that does not continue the tenant's last checkpoint is not signed: a signature would make
    a rewritten log look right. Any number of processes may do this at once. Raises Transient.
    """
    with read_transaction(context.engine) as connection:
        signings = [row for row in read_publications(connection) if row.destination == SIGNING]
        if tenant_ids is None:
            # Those with a checkpoint as well: their tree may have been removed.
            tenant_ids = sorted({*read_trees(connection), *newest_checkpoint_sizes(connection)})
    failed = {row.tenant for row in signings if row.problem is not None}
    for tenant_id in tenant_ids:
        result = _sign(context, keys, tenant_id)
        if result.problem is not None or tenant_id in failed:
            _store_problem(context, result)
        yield result


def _sign(context: Context, keys: CheckpointKeys, tenant_id: str) -> SigningResult:
    if not names_a_tree(tenant_id):
        return SigningResult(tenant_id, None, problem="no tenant can have this id")
    try:
        with read_transaction(context.engine) as connection:
            last = read_last_checkpoint(connection, tenant_id)
            edge = _continue_log(connection, keys, tenant_id, last)
    except InconsistentLog as error:
        return SigningResult(tenant_id, None, problem=str(error))
    if last is not None and last.size == edge.size:
        return SigningResult(tenant_id, last)
    checkpoint = _sign_edge(keys, tenant_id, edge, context.now())
    with write_transaction(context.engine) as connection:
        is_new = insert_checkpoint(connection, checkpoint)
    return SigningResult(tenant_id, checkpoint, is_new)


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
    signed = NO_LEAVES if last is None else _edge_at(connection, last)
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


def _edge_at(connection: Connection, last: StoredCheckpoint) -> RightEdge:
    """Return the right edge at the last checkpoint, from its row or else from all its leaves."""
    leaves = leaf_hashes(connection, last.tenant, 0, last.size)
    edge = edge_of_checkpoint(last) or NO_LEAVES.extend(leaves)
    if (edge.size, edge.root()) != (last.size, last.root):
        raise InconsistentLog(
            f"the first {last.size:,} leaves are not those of the last checkpoint: they were"
            " changed or removed"
        )
    return edge


def _store_problem(context: Context, result: SigningResult) -> None:
    size = 0 if result.checkpoint is None else result.checkpoint.size
    row = Publication(SIGNING, result.tenant_id, "", size, result.problem, context.now())
    with write_transaction(context.engine) as connection:
        store_publication(connection, row)


MAX_CHECKPOINTS = 100
"""The largest number of checkpoints of a tenant that a run sends to one destination."""

MAX_LOST_SECONDS = 60.0
"""The time that a destination's failures may take in a run. Other destinations wait meanwhile."""

EVENT = "audit.checkpoint"
_SERVICE = "valetkey-audit"  # in the name of a role's session, where tenants have theirs
_SUCCESS = 2  # the first digit of a successful status


class _Publisher(NamedTuple):
    context: Context
    settings: Settings
    keys: list[VerifierKey]

    def send(self, destination: Destination, checkpoint: StoredCheckpoint) -> None:
        """Publish one checkpoint. Raises Transient, Malformed and OSError."""
        # Whoever writes to the table may not have the key.
        if problem := _wrong_note(checkpoint, self.keys):
            raise Malformed(f"the stored checkpoint of size {checkpoint.size} {problem}")
        match destination:
            case FolderDestination(path):
                _write_file(Path(path) / checkpoint.tenant, checkpoint)
            case BucketDestination():
                self._put(destination, checkpoint)
            case WebhookDestination(url):
                self._post(url, checkpoint)

    def _put(self, destination: BucketDestination, checkpoint: StoredCheckpoint) -> None:
        context, now = self.context, self.context.now()
        bucket = context.config.current().buckets.get(destination.profile)
        if bucket is None:
            raise Malformed(f"there is no bucket profile {destination.profile}")
        data = checkpoint.note.encode()
        key = f"{destination.prefix}{checkpoint.tenant}/{_file_name(checkpoint)}"
        prefixes = (destination.prefix,)
        client = context.s3.client(bucket, _SERVICE, prefixes, now)
        file = ObjectFile(
            io.BytesIO(data), sha256(data).digest(), "text/plain; charset=utf-8", may_replace=False
        )
        answer = put_object(client, bucket, key, file, lambda: None)
        if answer is not None:
            context.s3.check_rejection(answer, bucket, _SERVICE, prefixes, now)
            raise Malformed(f"storage refused it: {answer.words}")

    def _post(self, url: str, checkpoint: StoredCheckpoint) -> None:
        reference = self.settings.audit_webhook_secret
        if reference is None:
            raise Malformed("VALETKEY_AUDIT_WEBHOOK_SECRET is not set")
        text, _ = open_checkpoint(checkpoint.note)
        values = {
            "type": EVENT,
            "tenant": checkpoint.tenant,
            "origin": text.origin,
            "size": text.size,
            "root": text.root.hex(),
            "note": checkpoint.note,
        }
        body = json.dumps(values).encode()
        secrets = resolve_secrets(reference, self.context.environ)
        message_id = f"checkpoint-{sha256(checkpoint.note.encode()).hexdigest()[:32]}"
        headers = signature_headers(secrets, message_id, self.context.now(), body)
        headers |= {"content-type": "application/json"}
        response = self.context.webhook_client().post(url, body, headers)
        if response.status // 100 != _SUCCESS:
            raise Transient(f"it responded with {response.status}")


def configured_destinations(settings: Settings) -> list[Destination]:
    """Return the destinations of the settings."""
    setting = settings.audit_checkpoints
    return [] if setting is None else parse_destinations(setting.get_secret_value())


def publish_checkpoints(
    context: Context,
    settings: Settings,
    tenant_ids: list[str] | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> Iterator[Publication]:
    """Send each destination the checkpoints that it lacks; yield what was sent or failed.

    A new destination gets the newest checkpoint of each tenant. One that does not respond is given
    up for this run. tenant_ids None means all. Raises Transient if the database is away.
    """
    destinations = configured_destinations(settings)
    if not destinations:
        return
    with read_transaction(context.engine) as connection:
        newest = newest_checkpoint_sizes(connection)
        rows = read_publications(connection)
    published = {(row.destination, row.tenant): row for row in rows}
    publisher = _Publisher(context, settings, _trusted_keys(settings))
    lost_seconds: defaultdict[Destination, float] = defaultdict(float)
    for tenant_id, size in sorted(newest.items()):
        for destination in destinations if tenant_ids is None or tenant_id in tenant_ids else ():
            row = published.get((destination_id(destination), tenant_id))
            # Of a destination without a row, only the newest is due.
            sent = size - 1 if row is None else row.size
            if sent < size and lost_seconds[destination] < MAX_LOST_SECONDS:
                started = monotonic()
                result = _publish(publisher, destination, tenant_id, sent)
                if result.problem is not None:
                    lost_seconds[destination] += monotonic() - started
                yield result


def _publish(
    publisher: _Publisher, destination: Destination, tenant_id: str, sent: int
) -> Publication:
    context = publisher.context
    with read_transaction(context.engine) as connection:
        due = read_checkpoints_after(connection, tenant_id, sent, MAX_CHECKPOINTS)
    problem = None
    try:
        for checkpoint in due:
            publisher.send(destination, checkpoint)
            sent = checkpoint.size
    except (Transient, Malformed) as error:
        problem = str(error)
    except OSError as error:
        problem = error.strerror or type(error).__name__
    key = destination_id(destination), tenant_id
    row = Publication(*key, destination.label, sent, problem, context.now())
    with write_transaction(context.engine) as connection:
        store_publication(connection, row)
    return row


def _trusted_keys(settings: Settings) -> list[VerifierKey]:
    try:
        return configured_keys(settings).trusted
    except KeyUnusable:
        return []


def _file_name(checkpoint: StoredCheckpoint) -> str:
    """Return the name of a checkpoint's file or object, in the order of the sizes."""
    return f"{checkpoint.size:012d}.checkpoint"


def _write_file(folder: Path, checkpoint: StoredCheckpoint) -> None:
    """Write a checkpoint under its own name, complete or not at all; never replace another one.

    Raises Malformed if another checkpoint has the name, and OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, data = folder / _file_name(checkpoint), checkpoint.note.encode()
    with suppress(FileExistsError):
        write_file(path, data, replace=False)
    if path.read_bytes() != data:
        raise Malformed(f"another checkpoint is in {path}")


log = structlog.get_logger()

RETRY_SECONDS = 60.0
"""The time after which the job runs again if the database was away, or the key was unusable."""

REPUBLISH_SECONDS = 300.0
"""The time after which a destination that failed gets what it lacks."""


class CheckpointJob:
    """Signs and publishes checkpoints at most once in the interval of the settings.

    What fails is logged, stored for `doctor`, and tried again, at the latest after the interval.
    """

    def __init__(
        self, settings: Callable[[], Settings], monotonic: Callable[[], float] = time.monotonic
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
            counts = _sign_and_count(context, keys, run) if is_signing else {}
            counts |= _publish_and_count(context, settings, run)
        except NoKey:
            return {}
        except KeyUnusable as error:
            self._sign_at = min(self._sign_at, now + RETRY_SECONDS)
            raise Transient(str(error)) from None
        except Transient:  # the database is away
            self._sign_at = min(self._sign_at, now + RETRY_SECONDS)
            raise
        if counts["failed"]:
            self._publish_at = now + min(interval, REPUBLISH_SECONDS)
        return counts


def _sign_and_count(context: Context, keys: CheckpointKeys, run: JobRun) -> dict[str, int]:
    signed = refused = 0
    for result in sign_checkpoints(context, keys):
        run.progress()
        signed += result.is_new
        if result.problem is not None:
            refused += 1
            log.error("checkpoint_refused", tenant=result.tenant_id, problem=result.problem)
        if run.is_stopping:
            break
    return {"signed": signed, "refused": refused}


def _publish_and_count(context: Context, settings: Settings, run: JobRun) -> dict[str, int]:
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
