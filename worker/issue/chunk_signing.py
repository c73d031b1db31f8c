"""Finds the context in which a chunk is signed, and signs committed chunks again."""

from datetime import timedelta
from functools import partial

import structlog

from valetkey.signing.signing_context import SigningContext, Validity, apply_signing_limits
from valetkey.signing.sigv4 import Credentials
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import Parts
from worker import hooks
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import autocommit_read, write_transaction
from worker.context import Context
from worker.errors import Malformed, Transient
from worker.issue.multipart_uploads import find_upload
from worker.ledger.batches import insert_reissued_digests, read_recorded_chunk
from worker.ledger.multipart_rows import UploadRecord
from worker.rules.decisions import (
    ChunkDecision,
    RecordedChunk,
    admit_again,
    refuse_withdrawn,
    sign_again,
)
from worker.rules.policy_rules import BatchContext, RequestContext, refuse
from worker.rules.tenant_config import Bucket

_BUCKET_UNUSABLE = refuse(
    Code.BUCKET_UNUSABLE,
    "grant.bucket",
    "boto3 cannot sign for this bucket profile: its operator has to correct it",
)
_ROLE_DENIED = refuse(
    Code.BUCKET_UNUSABLE,
    "grant.bucket",
    "the role of this bucket profile denies the service: see its log",
)

log = structlog.get_logger()


def first_signing_context(
    admitted: RequestContext, upload: UploadRecord | None, s3: S3Clients
) -> SigningContext | Refusal:
    """Return the credentials, target and validity for signing an admitted chunk, or a refusal.

    upload is the multipart upload that requested parts belong to. Raises Transient if there are no
    credentials.
    """
    bucket, maximum = admitted.bucket, admitted.bucket.max_expires_in
    validity = admitted.validity
    if upload is not None:
        # The URL of a part does not outlive its upload. Earlier clients request parts for as long
        # as the upload, later, and without min_expires_in: they must not be refused.
        seconds = int((upload.expires_at - validity.issued_at).total_seconds())
        validity = validity.limit_to(seconds, "provider")
    min_validity = timedelta(seconds=min(validity.expires_in, maximum))
    try:
        credentials = _credentials(admitted, s3, min_validity)
    except Malformed as error:
        log.warning("bucket_unusable", bucket=bucket.name, problem=str(error))
        return _ROLE_DENIED
    limited = apply_signing_limits(validity, admitted.terms.min_expires_in, maximum, credentials)
    if isinstance(limited, Refusal):
        return limited
    return _signing_context(bucket, credentials, limited, s3)


def _credentials(admitted: BatchContext, s3: S3Clients, min_validity: timedelta) -> Credentials:
    tenant, prefixes = admitted.tenant.name, admitted.policy.prefixes
    return s3.credentials(admitted.bucket, tenant, prefixes, admitted.now, min_validity)


def _signing_context(
    bucket: Bucket, credentials: Credentials, validity: Validity, s3: S3Clients
) -> SigningContext | Refusal:
    try:
        return s3.signing_context(bucket, credentials, validity)
    except Malformed:
        return _BUCKET_UNUSABLE


def read_recorded(batch_number: int, chunk_number: int, context: Context) -> RecordedChunk:
    """Read a committed chunk; its items that were withdrawn since are refused."""
    config = context.config.current()
    with autocommit_read(context.engine) as connection:
        recorded = read_recorded_chunk(connection, batch_number, chunk_number)
        issued = connection, recorded.tenant_id, recorded.validity.issued_at
        return refuse_withdrawn(recorded, config, partial(hooks.withdrawn, *issued))


def reissue_chunk(recorded: RecordedChunk, context: Context) -> ChunkDecision:
    """Sign a committed chunk again.

    The bytes are the same unless the credentials or the bucket profile changed. A chunk whose rows
    were removed by `audit prune` is refused. What today's policy refuses is refused: the whole
    chunk, or some of its items. If the signatures differ, their digests are committed before the
    grants are returned. Raises Transient.
    """
    decision = _sign_again(recorded, context)
    if isinstance(decision, Refusal):
        return ChunkDecision(recorded.rows, [], recorded.validity, refusal=decision)
    if [row.digest for row in decision.rows] != [row.digest for row in recorded.rows]:
        with write_transaction(context.engine) as connection:
            insert_reissued_digests(connection, recorded, decision, context.now())
    return decision


def _sign_again(recorded: RecordedChunk, context: Context) -> ChunkDecision | Refusal:
    config = context.config.current()
    admitted = recorded.refusal or admit_again(recorded, config, context.now())
    if isinstance(admitted, Refusal):
        return admitted
    try:
        min_validity = recorded.validity.expires_at - admitted.now
        credentials = _credentials(admitted, context.s3, min_validity)
    except Malformed as error:
        # The grants were issued: a webhook or a manifest with a refusal of them would be final.
        raise Transient(str(error), "credentials") from None
    validity = recorded.validity.limit_to_credentials(credentials)
    signing = _signing_context(admitted.bucket, credentials, validity, context.s3)
    if isinstance(signing, Refusal):
        return signing
    upload = None
    if isinstance(admitted.terms, Parts):
        upload = find_upload(recorded.tenant_id, admitted.terms, context)
    if isinstance(upload, Refusal):
        return upload
    return sign_again(recorded, admitted, signing, upload and upload.upload)
