"""Reads and writes checkpoints at their destinations: folders, buckets and webhooks."""

import io
import json
import os
import re
import stat
from collections.abc import Callable
from contextlib import closing, suppress
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar, cast

from worker.aws.storage_calls import call_storage
from worker.context import Context
from worker.errors import Malformed, Transient
from worker.proof.checkpoint_format import (
    MAX_NOTE_BYTES,
    CheckpointText,
    InvalidNote,
    VerifierKey,
    names_a_tree,
    open_checkpoint,
)
from worker.proof.checkpoint_rows import StoredCheckpoint
from worker.proof.proof_settings import (
    BucketDestination,
    Destination,
    FolderDestination,
    ProofSettings,
    WebhookDestination,
)
from worker.rules.role_session import SessionLimit
from worker.rules.storage_errors import ErrorResponse
from worker.rules.tenant_config import Bucket
from worker.shared.limited_sessions import listing_session
from worker.shared.object_files import ObjectFile, put_object
from worker.shared.whole_files import write_file
from worker.webhooks.webhook_client import webhook_client
from worker.webhooks.webhook_secrets import resolve_secrets, signature_headers

MAX_LISTINGS = 200
"""The most pages of names that are read from a bucket: more than 20 years of hourly checkpoints."""

EVENT = "audit.checkpoint"
_SERVICE = "valetkey-audit"  # in the name of a role's session, where tenants have theirs
_Result = TypeVar("_Result")
_match_name = re.compile(r"([0-9]{12})(-[0-9a-f]{64})?\.checkpoint").fullmatch


def names_of(checkpoint: StoredCheckpoint | CheckpointText) -> tuple[str, str]:
    """Return the two names that the file or object of a checkpoint can have; they sort by size.

    The second one is used if a checkpoint that a declared fork abandons has the first.
    """
    size = f"{checkpoint.size:012d}"
    return f"{size}.checkpoint", f"{size}-{checkpoint.root.hex()}.checkpoint"


class Destinations(NamedTuple):
    """Reads and writes checkpoints at destinations. Without keys, no signature is verified."""

    context: Context
    settings: ProofSettings
    keys: list[VerifierKey]

    def names(self, destination: Destination, tenant_id: str, size: int) -> list[str]:
        """Return the names of a tenant's checkpoints with at least size leaves, in order.

        A webhook has none. Raises Transient, Malformed and OSError; Malformed also if one of this
        size was published, and nothing is there.
        """
        if not names_a_tree(tenant_id):
            raise Malformed("no tenant can have this id")
        match destination:
            case FolderDestination(path):
                found = []
                with suppress(FileNotFoundError):  # it has nothing of this tenant yet
                    found = [file.name for file in (Path(path) / tenant_id).iterdir()]
            case BucketDestination():
                found = self._list(destination, tenant_id, f"{size:012d}")
            case WebhookDestination():
                return []
        names = sorted(name for name in found if _match_name(name) and name >= f"{size:012d}")
        if size and not names:
            raise Malformed(f"it lacks the checkpoint of {size:,} leaves that was published to it")
        return names

    def read(
        self, destination: Destination, tenant_id: str, name: str
    ) -> tuple[str, CheckpointText]:
        """Return the note of this name, and its text.

        Raises Transient, OSError, and Malformed unless it is a trusted one of this tree and size.
        """
        if isinstance(destination, BucketDestination):
            data = self._get(destination, f"{destination.prefix}{tenant_id}/{name}")
        else:
            data = _read_file(Path(destination.label) / tenant_id / name)
        try:
            text, owner = open_checkpoint(data.decode(errors="replace"), self.keys)
        except InvalidNote as error:
            raise Malformed(f"{name} is no checkpoint of this log: {error}") from None
        if owner != tenant_id or name not in names_of(text):
            raise Malformed(f"{name} is the checkpoint of {owner} with {text.size:,} leaves")
        return data.decode(), text

    def send(self, destination: Destination, checkpoint: StoredCheckpoint, name: str) -> None:
        """Publish one checkpoint under a name. Raises Transient, Malformed and OSError."""
        match destination:
            case FolderDestination(path):
                _write_file(Path(path) / checkpoint.tenant / name, checkpoint.note.encode())
            case BucketDestination():
                self._put(destination, f"{checkpoint.tenant}/{name}", checkpoint.note.encode())
            case WebhookDestination(url):
                self._post(url, checkpoint)

    def _list(self, destination: BucketDestination, tenant_id: str, first: str) -> list[str]:
        folder = f"{destination.prefix}{tenant_id}/"
        params = {"Prefix": folder, "StartAfter": f"{folder}{first}"}

        def list_names(client: Any, bucket: dict[str, str]) -> list[str] | None:
            pages = client.get_paginator("list_objects_v2").paginate(**params, **bucket)
            listing = list(islice(pages, MAX_LISTINGS + 1))
            keys = (item["Key"] for page in listing for item in page.get("Contents", ()))
            names = [key.removeprefix(folder) for key in keys]
            return names if len(listing) <= MAX_LISTINGS else None

        names = self._read(destination, list_names)
        if names is None:
            raise Malformed(f"its list of {folder} does not end")
        return names

    def _get(self, destination: BucketDestination, key: str) -> bytes:
        def get(client: Any, bucket: dict[str, str]) -> bytes:
            with closing(client.get_object(Key=key, **bucket)["Body"]) as body:
                return bytes(body.read(MAX_NOTE_BYTES + 1))

        return self._read(destination, get)

    def _read(
        self, destination: BucketDestination, call: Callable[[Any, dict[str, str]], _Result]
    ) -> _Result:
        """Return the result of a call. Raises Transient and Malformed."""
        bucket, client = self._client(destination, listing_session)
        owner = {"ExpectedBucketOwner": bucket.owner} if bucket.owner else {}
        result: Any = call_storage(lambda: call(client, {"Bucket": bucket.bucket, **owner}))
        if isinstance(result, ErrorResponse):
            self._refuse(destination, bucket, result)
        return cast("_Result", result)

    def _put(self, destination: BucketDestination, name: str, data: bytes) -> None:
        bucket, client = self._client(destination)
        file = ObjectFile(
            io.BytesIO(data), sha256(data).digest(), "text/plain; charset=utf-8", may_replace=False
        )
        error = put_object(client, bucket, f"{destination.prefix}{name}", file, lambda: None)
        if error is not None:
            self._refuse(destination, bucket, error)

    def _client(
        self, destination: BucketDestination, limit: SessionLimit | None = None
    ) -> tuple[Bucket, Any]:
        bucket = self.context.config.current().buckets.get(destination.profile)
        if bucket is None:
            raise Malformed(f"there is no bucket profile {destination.profile}")
        prefixes, now = (destination.prefix,), self.context.now()
        return bucket, self.context.s3.client(bucket, _SERVICE, prefixes, now, limit)

    def _refuse(
        self, destination: BucketDestination, bucket: Bucket, error: ErrorResponse
    ) -> NoReturn:
        prefixes, now = (destination.prefix,), self.context.now()
        self.context.s3.check_rejection(error, bucket, _SERVICE, prefixes, now)
        raise Malformed(f"storage refused it: {error.words}")

    def _post(self, url: str, checkpoint: StoredCheckpoint) -> None:
        reference = self.settings.audit_webhook_secret
        if reference is None:
            raise Malformed("VALETKEY_AUDIT_WEBHOOK_SECRET is not set")
        text, _ = open_checkpoint(checkpoint.note)
        values = {
            "type": EVENT,
            "timestamp": checkpoint.signed_at.isoformat(),
            "data": {
                "tenant": checkpoint.tenant,
                "origin": text.origin,
                "size": text.size,
                "root": text.root.hex(),
                "note": checkpoint.note,
            },
        }
        body, now = json.dumps(values).encode(), self.context.now()
        secrets = resolve_secrets(reference, self.context.environ, now)
        message_id = f"checkpoint-{sha256(checkpoint.note.encode()).hexdigest()[:32]}"
        headers = signature_headers(secrets, message_id, now, body)
        response = self.context.use(webhook_client).post(url, body, headers)
        if not response.is_success:
            raise Transient(f"it responded with {response.status}")


def _write_file(path: Path, data: bytes) -> None:
    """Write a file, complete or not at all; never replace another one.

    Raises Malformed if another checkpoint has the name, and OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        write_file(path, data, replace=False)
    if _read_file(path) != data:
        raise Malformed(f"another checkpoint is in {path}")


def _read_file(path: Path) -> bytes:
    """Return a file, or the first part of one that is too long. Raises Malformed and OSError.

    Others may write to the folder: a pipe there would be waited for without end.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise Malformed(f"{path.name} is no file")
        return file.read(MAX_NOTE_BYTES + 1)
