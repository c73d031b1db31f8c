"""From committed rows to grants again: for a message that came twice, and for every webhook."""

from collections.abc import Callable
from datetime import datetime

from valetkey.refusals import Code, Refusal
from valetkey.terms import Parts
from worker.adapters.ledger import Ledger
from worker.adapters.s3 import S3
from worker.core import conditions
from worker.core.deciding import decide_again
from worker.core.decisions import Decided, Recorded
from worker.core.offers import offered
from worker.core.rules import Held, first
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

        What its tenant's policy would refuse by now is refused. Where the credentials are not the
        same, what came out instead is committed before it is returned. Raises Transient.
        """
        held = recorded.refusal or self._held(recorded)
        if isinstance(held, Refusal):
            return _refused(recorded, held)
        place = self._placer.again(recorded, held.bucket, held.policy, self._now())
        if isinstance(place, Refusal):
            return _refused(recorded, place)
        terms = held.terms
        of = self._uploads.begun(recorded.tenant, terms.of) if isinstance(terms, Parts) else None
        decided = decide_again(recorded, terms, held.policy, place, of)
        if _digests(decided) != _digests(recorded):
            self._ledger.reissued(recorded, decided, self._now())
        return decided

    def _held(self, recorded: Recorded) -> Held | Refusal:
        """What is signed, by the policy of today; or why that refuses it."""
        declared = self._ledger.declared()
        tenant = declared.tenants.get(recorded.tenant)
        policy = None if tenant is None else tenant.policies.get(recorded.terms.bucket)
        if policy is None:
            return _NO_LONGER
        bucket = declared.buckets[policy.bucket]
        refusal = first(conditions.RULES, Held(recorded.terms, bucket, policy))
        terms = refusal or offered(recorded.terms, bucket, policy.kinds)
        return terms if isinstance(terms, Refusal) else Held(terms, bucket, policy)


def _refused(recorded: Recorded, refusal: Refusal) -> Decided:
    return Decided(recorded.rows, [], recorded.life, refusal=refusal)


def _digests(chunk: Recorded | Decided) -> list[bytes | None]:
    return [row.digest for row in chunk.rows]
