"""Writes one manifest: all results of a batch, signed again, as one compressed file."""

import gzip
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from tempfile import TemporaryFile
from typing import IO, Any, BinaryIO, cast

from pydantic_core import to_json

from valetkey.wire.refusals import Code
from worker.aws.objects import ObjectFile, put_object
from worker.context import Context
from worker.core.policy.decisions import ChunkDecision, refused_item_result
from worker.core.policy.request_rules import manifest_refusal, may_overwrite_manifest
from worker.core.tenants.config import TenantAccess
from worker.db.batch_history import next_decided_chunk
from worker.db.engine import read_transaction, write_transaction
from worker.db.manifests import LEASE_TIME, ManifestLease, ManifestWritten, renew_lease
from worker.errors import Malformed
from worker.usecases.reissue import read_recorded, reissue_chunk

_RENEWAL_INTERVAL = LEASE_TIME / 4
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
        file = _HashedFile(stream)
        issued, refused = _write_lines(file, _decisions(manifest, context, writers), keep_lease)
        stream.seek(0)
        client = context.s3.client(bucket, tenant.name, policy.prefixes, context.now())
        content = cast("BinaryIO", stream)
        may_replace = may_overwrite_manifest(policy)
        whole = ObjectFile(content, file.digest, "application/gzip", may_replace)
        answer = put_object(client, bucket, manifest.object_key, whole, keep_lease)
    if answer is not None:
        now = context.now()
        context.s3.check_rejection(answer, bucket, tenant.name, policy.prefixes, now)
        raise Malformed(f"storage refused it: {answer.words}")
    return ManifestWritten(issued, refused, file.size, file.digest.hex())


def _destination(manifest: ManifestLease, context: Context) -> TenantAccess:
    """Return the destination and policy of a manifest. Raises Malformed if it is not allowed."""
    access = context.config.current().find_access(manifest.tenant_id, manifest.bucket)
    if access is None or manifest_refusal(manifest.object_key, access.policy, access.bucket):
        raise Malformed("the tenant's policy no longer allows it to be stored")
    return access


def _write_lines(
    file: "_HashedFile", decisions: Iterator[ChunkDecision], keep_lease: "_LeaseKeeper"
) -> tuple[int, int]:
    """Write a line for each result, in the order of the request; count issued and refused ones."""
    issued = refused = 0
    # Without a time and a name in its header, a file that is written again is the same.
    with gzip.GzipFile("", "wb", _GZIP_LEVEL, cast("BinaryIO", file), mtime=0) as zipped:
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
                if not renew_lease(connection, self._manifest, now):
                    raise LeaseLost
            self._due = now + _RENEWAL_INTERVAL


class _HashedFile:
    """A file that is written once, and the SHA-256 of all its bytes."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._hash = sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self.size += len(data)
        return self._stream.write(data)

    def flush(self) -> None:
        self._stream.flush()

    @property
    def digest(self) -> bytes:
        return self._hash.digest()
