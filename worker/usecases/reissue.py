"""Signs committed chunks again: for messages that arrive twice, webhooks, manifests, reopening."""

from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import Parts
from worker.context import Context
from worker.core.policy.decide import sign_again
from worker.core.policy.decisions import ChunkDecision, RecordedChunk
from worker.core.policy.reissue_rules import admit_again
from worker.core.revocation.refusals import refuse_revoked
from worker.db.batch_history import read_recorded_chunk
from worker.db.batches import insert_reissued_digests
from worker.db.engine import read_transaction, write_transaction
from worker.db.revocation.recorded import revocations_since
from worker.usecases.multipart import find_parts_upload
from worker.usecases.signing_context import repeated_signing_context

_PRUNED = Refusal(
    code=Code.BATCH_CLOSED,
    field="batch",
    message="its rows were removed after the time for which they are kept: it is not signed again",
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

    The bytes are the same unless the credentials or the bucket profile changed. A chunk whose rows
    were removed by `audit prune` is refused, and so are items that were revoked. What today's
    policy refuses is refused: the whole chunk, or some of its items. If the signatures differ,
    their digests are committed before the grants are returned. Raises Transient.
    """
    now = context.now()
    recorded = _refuse_revoked(recorded, context)
    if not recorded.rows:  # every chunk has items
        return _refuse_chunk(recorded, recorded.refusal or _PRUNED)
    admitted = recorded.refusal or admit_again(recorded, context.config.current(), now)
    if isinstance(admitted, Refusal):
        return _refuse_chunk(recorded, admitted)
    terms, policy = admitted.terms, admitted.policy
    signing = repeated_signing_context(recorded, admitted, context.s3, now)
    if isinstance(signing, Refusal):
        return _refuse_chunk(recorded, signing)
    upload = None
    if isinstance(terms, Parts):
        upload = find_parts_upload(recorded.tenant_id, terms, context)
    if isinstance(upload, Refusal):
        return _refuse_chunk(recorded, upload)
    decision = sign_again(recorded, terms, policy, signing, upload)
    if [row.digest for row in decision.rows] != [row.digest for row in recorded.rows]:
        with write_transaction(context.engine) as connection:
            insert_reissued_digests(connection, recorded, decision, context.now())
    return decision


def _refuse_revoked(recorded: RecordedChunk, context: Context) -> RecordedChunk:
    with read_transaction(context.engine) as connection:
        targets = revocations_since(connection, recorded.tenant_id, recorded.validity.issued_at)
    return refuse_revoked(recorded, targets, context.config.current()) if targets else recorded


def _refuse_chunk(recorded: RecordedChunk, refusal: Refusal) -> ChunkDecision:
    return ChunkDecision(recorded.rows, [], recorded.validity, refusal=refusal)
