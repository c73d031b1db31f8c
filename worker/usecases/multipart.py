"""Multipart uploads: begun for a grant, continued by parts, aborted when the grant has ended."""

from datetime import datetime
from typing import Any

from valetkey.wire.messages import ChunkMessage, Item
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import Multipart, Parts
from worker.aws import objects
from worker.aws.clients import S3Clients
from worker.core.policy.admission import Admission
from worker.core.policy.decide import StartUpload
from worker.core.policy.decisions import NO_UPLOAD, ChunkDecision, StartedUpload
from worker.core.signing.multipart_plan import plan_parts
from worker.core.signing.storage_headers import create_multipart_params
from worker.db.history import BatchHistoryReader
from worker.db.ledger import Ledger
from worker.db.multiparts import MultipartStore, UploadRecord
from worker.errors import Transient

_AT_ONCE = 100


class MultipartUploads:
    """What storage has to be told of multipart uploads; one in each process."""

    def __init__(
        self, rows: MultipartStore, past: BatchHistoryReader, ledger: Ledger, s3: S3Clients
    ) -> None:
        self._rows = rows
        self._past = past
        self._ledger = ledger
        self._s3 = s3

    def are_settled(self, message: ChunkMessage) -> bool:
        """Whether nothing of a chunk is to be begun any more, as it is answered from the rows."""
        return isinstance(message.grant, Multipart) and self._past.earlier(message).settles

    def beginning(self, message: ChunkMessage, admitted: Admission, now: datetime) -> StartUpload:
        """Prepare to begin the uploads of a chunk; for other kinds, to begin nothing.

        Beginning raises Transient where storage does not.
        """
        terms, bucket = admitted.terms, admitted.bucket
        if not isinstance(terms, Multipart):
            return lambda _name, _item: NO_UPLOAD
        client = self._s3.client(bucket, message.tenant, admitted.policy.prefixes, now)

        def begin(name: str, item: Item) -> StartedUpload:
            planned = plan_parts(item.size or 0, terms.part_size)
            if planned is None:
                return NO_UPLOAD
            said = create_multipart_params(terms, name)
            return StartedUpload(
                objects.start_upload(client, bucket.bucket, item.key, said), planned
            )

        return begin

    def take_back(
        self, message: ChunkMessage, admitted: Admission, decided: ChunkDecision, now: datetime
    ) -> None:
        """Abort what was begun for a decision that was not committed.

        What is not reached here is left to the bucket's rule for incomplete multipart uploads.
        """
        if not decided.begun:
            return
        bucket = admitted.bucket
        client = self._s3.client(bucket, message.tenant, admitted.policy.prefixes, now)
        for row in decided.rows:
            if row.number in decided.begun:
                upload_id = decided.begun[row.number].upload_id
                objects.abort_upload(client, bucket.bucket, row.key, upload_id)

    def continued(self, message: ChunkMessage, now: datetime) -> UploadRecord | Refusal | None:
        """Find the upload that a request for parts goes on with: the tenant's own, still open."""
        if not isinstance(message.grant, Parts):
            return None
        found = self._rows.of_grant(message.tenant, message.grant.of)
        if found is None or not found.is_open or found.expires_at <= now:
            text = "no multipart upload of the tenant is open under this grant"
            return Refusal(code=Code.UPLOAD_UNKNOWN, field="grant.of", message=text)
        if found.bucket != message.grant.bucket:
            text = "the upload is in another bucket profile"
            return Refusal(code=Code.UPLOAD_UNKNOWN, field="grant.bucket", message=text)
        return found

    def begun(self, tenant: str, of: str) -> StartedUpload:
        """Find the upload of a grant whatever became of it, to sign its parts again."""
        found = self._rows.of_grant(tenant, of)
        return NO_UPLOAD if found is None else found.begun

    def abort_lapsed(self, now: datetime) -> dict[str, int]:
        """Abort uploads whose grants have ended; count those ended, and those still to be tried."""
        counts = {"ended": 0, "postponed": 0}
        for upload in self._rows.lapsed(now, _AT_ONCE):
            try:
                self._abort(upload, now)
            except Transient:
                counts["postponed"] += 1
            else:
                self._rows.close(upload)
                counts["ended"] += 1
        return counts

    def _abort(self, upload: UploadRecord, now: datetime) -> None:
        declared = self._ledger.declared()
        bucket, tenant = declared.buckets.get(upload.bucket), declared.tenants.get(upload.tenant)
        policy = None if tenant is None else tenant.policies.get(upload.bucket)
        if bucket is None or policy is None:
            return  # nobody to sign for any more: the bucket's own rule has to end it
        client: Any = self._s3.client(bucket, upload.tenant, policy.prefixes, now)
        objects.abort_upload(client, bucket.bucket, upload.key, upload.begun.upload_id)
