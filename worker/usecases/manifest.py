"""From a batch's rows to one file of all its answers, in its tenant's own bucket."""

import gzip
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from hashlib import sha256
from tempfile import TemporaryFile
from typing import IO, Any, BinaryIO, cast

from pydantic_core import to_json

from valetkey.wire.refusals import Code
from worker.aws.clients import S3Clients
from worker.aws.objects import ObjectFile, put_object
from worker.core.policy.decisions import ChunkDecision, item_refusal_values
from worker.core.policy.request_rules import manifest_refusal, may_overwrite_manifest
from worker.core.tenants.config import Bucket, Policy
from worker.core.webhooks.retry import retry_delay
from worker.db.ledger import Ledger
from worker.db.manifests import (
    LEASE_TIME,
    ManifestLease,
    ManifestNotWritten,
    ManifestQueue,
    ManifestWritten,
)
from worker.errors import Malformed, Transient
from worker.usecases.reissue import Reissuer

BUDGET = timedelta(seconds=30)  # until no further file is begun
MOST_ATTEMPTS = 4  # over some six minutes
_RENEWAL = LEASE_TIME / 4
_LEVEL = 6  # of gzip: the higher ones take much longer and save little


class _Lost(Exception):
    """The lease ran out and passed on: somebody else writes the file."""


class ManifestWriter:
    """Writes the files that are due; any number of these may run at once."""

    def __init__(  # noqa: PLR0913 - everything a file touches, and named
        self,
        *,
        manifests: ManifestQueue,
        ledger: Ledger,
        reissuer: Reissuer,
        s3: S3Clients,
        now: Callable[[], datetime],
        jitter: Callable[[], float],
    ) -> None:
        self._manifests = manifests
        self._ledger = ledger
        self._reissuer = reissuer
        self._s3 = s3
        self._now = now
        self._jitter = jitter

    def write_due(self) -> dict[str, int]:
        """Write what is due, longest first, until nothing is or the time is up; count it."""
        counts = {"written": 0, "unwritten": 0}
        end = self._now() + BUDGET
        while self._now() < end and (job := self._manifests.take(self._now())) is not None:
            try:
                result = self._attempt(job)
            except _Lost:
                continue
            self._manifests.settle(job, result, self._now())
            counts["written" if isinstance(result, ManifestWritten) else "unwritten"] += 1
        return counts

    def _attempt(self, job: ManifestLease) -> ManifestWritten | ManifestNotWritten:
        if job.attempts > MOST_ATTEMPTS:
            return ManifestNotWritten("whoever wrote it was stopped each time", None)
        try:
            return self._write(job)
        except Malformed as error:
            return ManifestNotWritten(str(error)[:200], None)
        except Transient as error:
            return ManifestNotWritten(str(error)[:200], self._next(job))

    def _next(self, job: ManifestLease) -> datetime | None:
        wait = retry_delay(job.attempts, self._jitter()) if job.attempts < MOST_ATTEMPTS else None
        return None if wait is None else self._now() + wait

    def _write(self, job: ManifestLease) -> ManifestWritten:
        bucket, policy = self._place(job)
        hold = _Hold(self._manifests, job, self._now)
        # Nobody finds it by a name, and nothing of it is left where this process dies.
        with TemporaryFile() as stream:
            file = _Hashed(stream)
            issued, refused = self._fill(file, job, hold)
            stream.seek(0)
            client = self._s3.client(bucket, job.tenant, policy.prefixes, self._now())
            content = cast("BinaryIO", stream)
            whole = ObjectFile(
                content, file.digest, "application/gzip", may_overwrite_manifest(policy)
            )
            put_object(client, bucket, job.key, whole, hold)
        return ManifestWritten(issued, refused, file.size, file.digest.hex())

    def _place(self, job: ManifestLease) -> tuple[Bucket, Policy]:
        """Where it goes, if that is allowed still. Raises Malformed."""
        declared = self._ledger.declared()
        tenant = declared.tenants.get(job.tenant)
        policy = None if tenant is None else tenant.policies.get(job.bucket)
        if policy is None or manifest_refusal(job.key, policy) is not None:
            raise Malformed("the tenant may no longer store it")
        return declared.buckets[policy.bucket], policy

    def _fill(self, file: "_Hashed", job: ManifestLease, hold: "_Hold") -> tuple[int, int]:
        """Write a line for each answer, in the order asked; count those issued and refused."""
        issued = refused = 0
        # Without a time and a name in it, what is written again is the same.
        with gzip.GzipFile("", "wb", _LEVEL, cast("BinaryIO", file), mtime=0) as zipped:
            for decided in self._decided(job):
                zipped.write(b"".join(to_json(answer) + b"\n" for answer in _answers(decided)))
                granted = 0 if decided.refusal else decided.issued
                issued, refused = issued + granted, refused + len(decided.rows) - granted
                hold()
        return issued, refused

    def _decided(self, job: ManifestLease) -> Iterator[ChunkDecision]:
        chunk = self._manifests.next_chunk(job.batch, -1)
        while chunk is not None:
            recorded = self._ledger.recorded(job.batch, chunk)
            # What came after the batch was closed is left out: it might still be coming.
            if recorded.refusal is None or recorded.refusal.code is not Code.BATCH_CLOSED:
                yield self._reissuer.reissue(recorded)
            chunk = self._manifests.next_chunk(job.batch, chunk)


class _Hold:
    """Keeps a lease for as long as it is called now and then. Raises _Lost."""

    def __init__(
        self, manifests: ManifestQueue, job: ManifestLease, now: Callable[[], datetime]
    ) -> None:
        self._manifests = manifests
        self._job = job
        self._now = now
        self._due = now() + _RENEWAL

    def __call__(self) -> None:
        now = self._now()
        if now >= self._due:
            if not self._manifests.renew(self._job, now):
                raise _Lost
            self._due = now + _RENEWAL


class _Hashed:
    """A file that is written once, and the digest of all its bytes."""

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


def _answers(decided: ChunkDecision) -> Iterator[dict[str, Any]]:
    """The answers to a chunk's items; where it is refused as a whole, each gets that refusal."""
    if decided.refusal is None:
        yield from decided.answers
    else:
        yield from (item_refusal_values(decided.refusal, row.key) for row in decided.rows)
