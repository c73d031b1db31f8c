"""Signs committed chunks again: for messages that arrive twice, webhooks, manifests, reopening."""

from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import Parts
from worker.context import Context
from worker.core.kinds.registry import adapt_terms_to_provider, grant_kind
from worker.core.kinds.rules import PolicyContext, first_refusal
from worker.core.policy.decide import sign_again
from worker.core.policy.decisions import ChunkDecision, RecordedChunk
from worker.core.tenants.config import Tenant, TenantConfig
from worker.db.batch_history import read_recorded_chunk
from worker.db.batches import insert_reissued_digests
from worker.db.engine import read_transaction, write_transaction
from worker.usecases.multipart import find_parts_upload
from worker.usecases.signing_context import repeated_signing_context

_NO_LONGER_ALLOWED = Refusal(
    code=Code.BUCKET_NOT_ALLOWED,
    field="grant.bucket",
    message="it was issued, but the tenant's policy no longer allows it",
)


def reissue_chunk_by_number(
    batch_number: int, chunk_number: int, context: Context
) -> ChunkDecision:
    """Read a committed chunk and sign it again, as `reissue_chunk` does."""
    return reissue_chunk(read_recorded(batch_number, chunk_number, context), context)


def read_recorded(batch_number: int, chunk_number: int, context: Context) -> RecordedChunk:
    """Read a committed chunk."""
    with read_transaction(context.engine) as connection:
        return read_recorded_chunk(connection, batch_number, chunk_number)


def reissue_chunk(recorded: RecordedChunk, context: Context) -> ChunkDecision:
    """Sign a committed chunk again.

    The bytes are the same unless the credentials or the bucket profile changed. Items that the
    current policy refuses are refused. If the signatures differ, their digests are
    committed before the grants are returned. Raises Transient.
    """
    admitted = recorded.refusal or _policy_context(recorded, context.config.current())
    if isinstance(admitted, Refusal):
        return _refuse_chunk(recorded, admitted)
    tenant, policy_context = admitted
    terms, bucket, policy = policy_context.terms, policy_context.bucket, policy_context.policy
    signing = repeated_signing_context(recorded, bucket, tenant, context.s3, context.now())
    if isinstance(signing, Refusal):
        return _refuse_chunk(recorded, signing)
    continued_upload = None
    if isinstance(terms, Parts):
        continued_upload = find_parts_upload(recorded.tenant_id, terms, context)
    decision = sign_again(recorded, terms, policy, signing, continued_upload)
    if [row.digest for row in decision.rows] != [row.digest for row in recorded.rows]:
        with write_transaction(context.engine) as connection:
            insert_reissued_digests(connection, recorded, decision, context.now())
    return decision


def _policy_context(
    recorded: RecordedChunk, config: TenantConfig
) -> tuple[Tenant, PolicyContext] | Refusal:
    """Return the tenant, terms, bucket and policy to sign with today, or the policy's refusal."""
    tenant = config.tenant_by_id(recorded.tenant_id)
    policy = None if tenant is None else tenant.policies.get(recorded.terms.bucket)
    if tenant is None or policy is None:
        return _NO_LONGER_ALLOWED
    bucket = config.buckets[policy.bucket]
    context = PolicyContext(recorded.terms, bucket, policy)
    refusal = first_refusal(grant_kind(recorded.terms).rules, context)
    terms = refusal or adapt_terms_to_provider(recorded.terms, bucket, policy)
    return terms if isinstance(terms, Refusal) else (tenant, PolicyContext(terms, bucket, policy))


def _refuse_chunk(recorded: RecordedChunk, refusal: Refusal) -> ChunkDecision:
    return ChunkDecision(recorded.rows, [], recorded.validity, refusal=refusal)
