"""Publishes checkpoints to folders, buckets and webhooks.

The table of checkpoints has them all, so a destination that fails loses none: it gets what it lacks
next time.
"""

import io
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from worker.aws.objects import ObjectFile, put_object
from worker.checkpoint_destinations import (
    BucketDestination,
    Destination,
    FolderDestination,
    WebhookDestination,
    destination_id,
    parse_destinations,
)
from worker.context import Context
from worker.core.tree.checkpoint_text import CheckpointText, names_a_tree, tree_origin
from worker.core.tree.signed_note import InvalidNote, Note, VerifierKey, verify_note
from worker.core.webhooks.signature import signature_headers
from worker.db.engine import read_transaction, write_transaction
from worker.db.tree.checkpoints import (
    Publication,
    StoredCheckpoint,
    newest_checkpoint_sizes,
    read_checkpoints_after,
    read_publications,
    store_publication,
)
from worker.errors import Malformed, Transient
from worker.net.webhook_secrets import resolve_secrets
from worker.settings import Settings
from worker.usecases.checkpoints.signing_key import KeyUnusable, configured_keys

MAX_CHECKPOINTS = 100
"""The largest number of checkpoints of a tenant that a run sends to one destination."""

MAX_LOST_SECONDS = 60.0
"""The time that a destination's failures may take in a run. Other destinations wait meanwhile."""

EVENT = "audit.checkpoint"
_SERVICE = "valetkey-audit"  # in the name of a role's session, where tenants have theirs
_SUCCESS = 2  # the first digit of a successful status
_MODE = 0o644


class _Publisher(NamedTuple):
    context: Context
    settings: Settings
    keys: list[VerifierKey]

    def send(self, destination: Destination, checkpoint: StoredCheckpoint) -> None:
        """Publish one checkpoint. Raises Transient, Malformed and OSError."""
        _check_signed(checkpoint, self.keys)
        match destination:
            case FolderDestination(path):
                _write_file(Path(path) / checkpoint.tenant_id, checkpoint)
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
        key = f"{destination.prefix}{checkpoint.tenant_id}/{checkpoint_file_name(checkpoint)}"
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
        body = json.dumps(webhook_values(checkpoint)).encode()
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
    published = {(row.destination, row.tenant_id): row for row in rows}
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


def _check_signed(checkpoint: StoredCheckpoint, keys: list[VerifierKey]) -> None:
    """Raise Malformed unless this service signed it: whoever writes to the table may not."""
    stored = f"the stored checkpoint of size {checkpoint.size}"
    if not names_a_tree(checkpoint.tenant_id):
        raise Malformed(f"{stored} is of no possible tenant")
    try:
        note = verify_note(checkpoint.note, keys) if keys else Note.parse(checkpoint.note).text
        text = CheckpointText.parse(note)
    except InvalidNote as error:
        raise Malformed(f"{stored} is not trusted: {error}") from None
    names = [key.name for key in keys] or [text.origin.rpartition("/")[0]]
    origins = {tree_origin(name, checkpoint.tenant_id) for name in names}
    if text.origin not in origins or (text.size, text.root) != (checkpoint.size, checkpoint.root):
        raise Malformed(f"{stored} was changed: its note says something else")


def webhook_values(checkpoint: StoredCheckpoint) -> Mapping[str, object]:
    """Return the values of the webhook of a checkpoint."""
    return {"type": EVENT} | checkpoint_values(checkpoint)


def checkpoint_values(checkpoint: StoredCheckpoint) -> dict[str, object]:
    """Return what a checkpoint says, and its note."""
    text = CheckpointText.parse(Note.parse(checkpoint.note).text)
    return {
        "tenant": checkpoint.tenant_id,
        "origin": text.origin,
        "size": text.size,
        "root": text.root.hex(),
        "note": checkpoint.note,
    }


def checkpoint_file_name(checkpoint: StoredCheckpoint) -> str:
    """Return the name of a checkpoint's file or object, in the order of the sizes."""
    return f"{checkpoint.size:012d}.checkpoint"


def _write_file(folder: Path, checkpoint: StoredCheckpoint) -> None:
    """Write a checkpoint under its own name, complete or not at all; never replace another one.

    Raises Malformed if another checkpoint has the name, and OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, data = folder / checkpoint_file_name(checkpoint), checkpoint.note.encode()
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".", delete=False) as file:
        temporary = Path(file.name)
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), _MODE)
            with suppress(FileExistsError):  # a link, unlike a renamed file, replaces nothing
                path.hardlink_to(temporary)
        finally:
            temporary.unlink()
    if path.read_bytes() != data:
        raise Malformed(f"another checkpoint is in {path}")
