"""Where a chunk's grants lead and how long they live: all that is known before one is signed."""

from datetime import datetime, timedelta

from valetkey.messages import Message
from valetkey.refusals import Code, Refusal
from worker.adapters.multiparts import Open
from worker.adapters.s3 import S3
from worker.core.admission import Admitted
from worker.core.decisions import Life, Recorded, lifetime
from worker.core.signing import Place
from worker.core.sigv4 import Credentials
from worker.core.tenancy import Bucket, Policy
from worker.errors import Malformed

_UNUSABLE = Refusal(
    code=Code.BUCKET_UNUSABLE,
    field="grant.bucket",
    message="the bucket profile cannot be signed for: its operator has to look at it",
)


class Placer:
    """Finds places; one in each process, over its credentials."""

    def __init__(self, s3: S3) -> None:
        self._s3 = s3

    def place(
        self, message: Message, admitted: Admitted, upload: Open | None, now: datetime
    ) -> Place | Refusal:
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
        life = lifetime(asked, admitted.terms.min_expires_in, longest, credentials, now)
        return life if isinstance(life, Refusal) else self._at(bucket, credentials, life)

    def again(
        self, recorded: Recorded, bucket: Bucket, policy: Policy, now: datetime
    ) -> Place | Refusal:
        """Find a place for a chunk that was granted before, by the policy of today.

        Raises Transient as place does.
        """
        life = recorded.life.at_most(policy.max_expires_in, "policy")
        left = life.expires_at - now
        who = (bucket, recorded.tenant, policy.prefixes)
        credentials = self._s3.credentials(*who, now, left)
        return self._at(bucket, credentials, life.within(credentials))

    def _at(self, bucket: Bucket, credentials: Credentials, life: Life) -> Place | Refusal:
        try:
            return self._s3.place(bucket, credentials, life)
        except Malformed:
            return _UNUSABLE
