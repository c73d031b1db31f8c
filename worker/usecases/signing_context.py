"""Finds the credentials, target and validity with which a chunk is signed."""

from datetime import datetime, timedelta

import structlog

from valetkey.wire.refusals import Code, Refusal
from worker.aws.clients import S3Clients
from worker.core.policy.admission import Admission
from worker.core.policy.decisions import ChunkRequest, RecordedChunk
from worker.core.policy.reissue_rules import ReissueContext
from worker.core.signing.context import SigningContext
from worker.core.signing.sigv4 import Credentials
from worker.core.signing.validity import Validity, apply_signing_limits
from worker.core.tenants.config import Bucket
from worker.db.multiparts import UploadRecord
from worker.errors import Malformed, Transient

_BUCKET_UNUSABLE = Refusal(
    code=Code.BUCKET_UNUSABLE,
    field="grant.bucket",
    message="boto3 cannot sign for this bucket profile: its operator has to correct it",
)

_ROLE_DENIED = _BUCKET_UNUSABLE.model_copy(
    update={"message": "the role of this bucket profile denies the service: see its log"}
)

log = structlog.get_logger()


def first_signing_context(
    request: ChunkRequest,
    admission: Admission,
    upload: UploadRecord | None,
    s3: S3Clients,
    now: datetime,
) -> SigningContext | Refusal:
    """Return the credentials, target and validity for signing an admitted chunk, or a refusal.

    upload is the multipart upload that requested parts belong to. Raises Transient if there are no
    credentials.
    """
    bucket, maximum = admission.bucket, admission.bucket.max_expires_in
    issued_at = now.replace(microsecond=0)
    validity = Validity(issued_at, admission.expires_in, admission.limited_by)
    if upload is not None:
        # The URL of a part does not outlive its upload. Earlier clients request parts for as long
        # as the upload, later, and without min_expires_in: they must not be refused.
        validity = validity.limit_to(
            int((upload.expires_at - issued_at).total_seconds()), "provider"
        )
    min_validity = timedelta(seconds=min(validity.expires_in, maximum))
    prefixes = admission.policy.prefixes
    try:
        credentials = s3.credentials(bucket, request.tenant.name, prefixes, now, min_validity)
    except Malformed as error:
        log.warning("bucket_unusable", bucket=bucket.name, problem=str(error))
        return _ROLE_DENIED
    limited = apply_signing_limits(validity, admission.terms.min_expires_in, maximum, credentials)
    return limited if isinstance(limited, Refusal) else _context(bucket, credentials, limited, s3)


def repeated_signing_context(
    recorded: RecordedChunk, admitted: ReissueContext, s3: S3Clients, now: datetime
) -> SigningContext | Refusal:
    """Find the context that signs a recorded chunk again, after today's policy admitted it.

    Raises Transient if there are no credentials.
    """
    validity, bucket, prefixes = recorded.validity, admitted.bucket, admitted.policy.prefixes
    min_validity = validity.expires_at - now
    try:
        credentials = s3.credentials(bucket, admitted.tenant.name, prefixes, now, min_validity)
    except Malformed as error:
        # The grants were issued: a webhook or a manifest with a refusal of them would be final.
        raise Transient(str(error), "credentials") from None
    return _context(bucket, credentials, validity.limit_to_credentials(credentials), s3)


def _context(
    bucket: Bucket, credentials: Credentials, validity: Validity, s3: S3Clients
) -> SigningContext | Refusal:
    try:
        return s3.signing_context(bucket, credentials, validity)
    except Malformed:
        return _BUCKET_UNUSABLE
