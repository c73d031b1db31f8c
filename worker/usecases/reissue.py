"""From committed rows to grants again: for a message that came twice, and for every webhook."""

from collections.abc import Callable
from datetime import datetime

from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import Parts
from worker.aws.clients import S3Clients
from worker.core.policy import grant_rules
from worker.core.policy.decide import sign_again
from worker.core.policy.decisions import ChunkDecision, RecordedChunk
from worker.core.policy.provider_fallback import terms_for_provider
from worker.core.policy.rules import PolicyContext, first_refusal
from worker.db.ledger import Ledger
from worker.usecases.multipart import MultipartUploads
from worker.usecases.signing_context import SigningContextFinder

_NO_LONGER = Refusal(
    code=Code.BUCKET_NOT_ALLOWED,
    field="grant.bucket",
    message="it was granted, and is no longer allowed",
)


class Reissuer:
    """Signs committed chunks again; one in each process."""

    def __init__(
        self, ledger: Ledger, uploads: MultipartUploads, s3: S3Clients, now: Callable[[], datetime]
    ) -> None:
        self._ledger = ledger
        self._uploads = uploads
        self._placer = SigningContextFinder(s3)
        self._now = now

    def reissue(self, recorded: RecordedChunk) -> ChunkDecision:
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
        decided = sign_again(recorded, terms, held.policy, place, of)
        if _digests(decided) != _digests(recorded):
            self._ledger.reissued(recorded, decided, self._now())
        return decided

    def _held(self, recorded: RecordedChunk) -> PolicyContext | Refusal:
        """What is signed, by the policy of today; or why that refuses it."""
        declared = self._ledger.declared()
        tenant = declared.tenants.get(recorded.tenant)
        policy = None if tenant is None else tenant.policies.get(recorded.terms.bucket)
        if policy is None:
            return _NO_LONGER
        bucket = declared.buckets[policy.bucket]
        refusal = first_refusal(grant_rules.RULES, PolicyContext(recorded.terms, bucket, policy))
        terms = refusal or terms_for_provider(recorded.terms, bucket, policy.kinds)
        return terms if isinstance(terms, Refusal) else PolicyContext(terms, bucket, policy)


def _refused(recorded: RecordedChunk, refusal: Refusal) -> ChunkDecision:
    return ChunkDecision(recorded.rows, [], recorded.life, refusal=refusal)


def _digests(chunk: RecordedChunk | ChunkDecision) -> list[bytes | None]:
    return [row.digest for row in chunk.rows]
