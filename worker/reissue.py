"""From committed rows to grants again: for a message that came twice, and for every webhook."""

from collections.abc import Callable
from datetime import datetime

from valetkey.refusals import Code, Refusal
from valetkey.terms import Parts
from worker.adapters.ledger import Ledger
from worker.adapters.s3 import S3
from worker.core.deciding import decide_again
from worker.core.decisions import Decided, Recorded
from worker.core.offers import offered
from worker.core.tenancy import Bucket, Policy
from worker.multipart import Uploads
from worker.placing import Placer

_NO_LONGER = Refusal(
    code=Code.BUCKET_NOT_ALLOWED,
    field="grant.bucket",
    message="it was granted, and is no longer allowed",
)


class Reissuer:
    """Signs committed chunks again; one in each process."""

    def __init__(
        self, ledger: Ledger, uploads: Uploads, s3: S3, now: Callable[[], datetime]
    ) -> None:
        self._ledger = ledger
        self._uploads = uploads
        self._placer = Placer(s3)
        self._now = now

    def reissue(self, recorded: Recorded) -> Decided:
        """Sign a committed chunk again, to the byte while its credentials and bucket are the same.

        Where they are not, what came out instead is committed before it is returned. Raises
        Transient.
        """
        allowed = self._allowed(recorded)
        refusal = recorded.refusal or (None if allowed else _NO_LONGER)
        if allowed is None or refusal is not None:
            return Decided(recorded.rows, [], recorded.life, refusal=refusal)
        bucket, policy = allowed
        terms = offered(recorded.terms, bucket, policy.kinds)
        if isinstance(terms, Refusal):
            return Decided(recorded.rows, [], recorded.life, refusal=terms)
        place = self._placer.again(recorded, bucket, policy, self._now())
        if isinstance(place, Refusal):
            return Decided(recorded.rows, [], recorded.life, refusal=place)
        of = self._uploads.begun(recorded.tenant, terms.of) if isinstance(terms, Parts) else None
        decided = decide_again(recorded, terms, place, of)
        if decided.rows != recorded.rows:
            self._ledger.reissued(recorded, decided, self._now())
        return decided

    def _allowed(self, recorded: Recorded) -> tuple[Bucket, Policy] | None:
        declared = self._ledger.declared()
        tenant = declared.tenants.get(recorded.tenant)
        policy = None if tenant is None else tenant.policies.get(recorded.terms.bucket)
        return None if policy is None else (declared.buckets[policy.bucket], policy)
