"""Where a chunk's grants lead and how long they live: all that is known before one is signed."""

from datetime import datetime, timedelta

from valetkey.wire.messages import ChunkMessage
from valetkey.wire.refusals import Code, Refusal
from worker.aws.clients import S3Clients
from worker.core.policy.admission import Admission
from worker.core.policy.decisions import RecordedChunk, Validity, limit_validity
from worker.core.signing.signer import SigningContext
from worker.core.signing.sigv4 import Credentials
from worker.core.tenants.config import Bucket, Policy
from worker.db.multiparts import UploadRecord
from worker.errors import Malformed

_UNUSABLE = Refusal(
    code=Code.BUCKET_UNUSABLE,
    field="grant.bucket",
    message="the bucket profile cannot be signed for: its operator has to look at it",
)


class SigningContextFinder:
    """Finds places; one in each process, over its credentials."""

    def __init__(self, s3: S3Clients) -> None:
        self._s3 = s3

    def place(
        self, message: ChunkMessage, admitted: Admission, upload: UploadRecord | None, now: datetime
    ) -> SigningContext | Refusal:
        """Find a place for a chunk that policy allows; upload is what its parts belong to.

        Raises Transient where there are no credentials.
        """
        seconds = admitted.expires_in
        if upload is not None:  # a part outlives its upload as little as a key its lock
            seconds = min(seconds, int((upload.expires_at - now).total_seconds()))
        bucket, longest = admitted.bucket, admitted.bucket.max_expires_in
        needed = timedelta(seconds=min(seconds, longest))
        who = (bucket, message.tenant, admitted.policy.prefixes)
        credentials = self._s3.credentials(*who, now, needed)
        asked = (seconds, admitted.limited_by)
        life = limit_validity(asked, admitted.terms.min_expires_in, longest, credentials, now)
        return life if isinstance(life, Refusal) else self._at(bucket, credentials, life)

    def again(
        self, recorded: RecordedChunk, bucket: Bucket, policy: Policy, now: datetime
    ) -> SigningContext | Refusal:
        """Find a place for a chunk that was granted before, by the policy of today.

        Raises Transient as place does.
        """
        life = recorded.life.at_most(policy.max_expires_in, "policy")
        left = life.expires_at - now
        who = (bucket, recorded.tenant, policy.prefixes)
        credentials = self._s3.credentials(*who, now, left)
        return self._at(bucket, credentials, life.within(credentials))

    def _at(
        self, bucket: Bucket, credentials: Credentials, life: Validity
    ) -> SigningContext | Refusal:
        try:
            return self._s3.place(bucket, credentials, life)
        except Malformed:
            return _UNUSABLE
