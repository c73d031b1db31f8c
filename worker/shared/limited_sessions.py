"""Sessions of roles that may do one task of the service, instead of signing grants."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from worker.rules.role_session import (
    KMS_STATEMENT,
    RoleSession,
    SessionLimit,
    allow,
    object_arns,
    policy_text,
    prefix_patterns,
    session_bucket_arn,
)

PRESIGNED = ["REST-QUERY-STRING", "POST"]
"""The values of s3:authType that links and forms have."""


def cleanup_session(session: RoleSession, bucket: str, prefixes: tuple[str, ...]) -> RoleSession:
    """Return a session of the same role that may only list and abort multipart uploads.

    Listing has no condition on the prefix: the session may see the keys of other tenants' uploads.
    """
    arn = session_bucket_arn(session.role_arn, bucket)
    listing = allow("s3:ListBucketMultipartUploads", arn)
    aborting = allow("s3:AbortMultipartUpload", object_arns(arn, prefixes))
    return replace(session, policy=policy_text(listing, aborting))


def _bucket_session(*actions: str) -> SessionLimit:
    def limit(session: RoleSession, bucket: str, _prefixes: tuple[str, ...]) -> RoleSession:
        statement = allow(actions, session_bucket_arn(session.role_arn, bucket))
        return replace(session, policy=policy_text(statement))

    return limit


policy_session = _bucket_session(
    "s3:DeleteBucketPolicy", "s3:GetBucketPolicy", "s3:PutBucketPolicy"
)
"""Gives a session of the same role that may only read and change the bucket's policy."""


versioning_session = _bucket_session("s3:GetBucketVersioning")
"""Gives a session of the same role that may only read whether the bucket is versioned."""


def listing_session(session: RoleSession, bucket: str, prefixes: tuple[str, ...]) -> RoleSession:
    """Return a session of the same role that may only list and read objects under prefixes."""
    arn = session_bucket_arn(session.role_arn, bucket)
    listing = allow("s3:ListBucket", arn) | {"Condition": below(prefixes)}
    reading = allow("s3:GetObject", object_arns(arn, prefixes))
    return replace(session, policy=policy_text(listing, reading, KMS_STATEMENT))


def below(prefixes: Sequence[str]) -> dict[str, Any]:
    """Return the condition that a listing is of names below prefixes."""
    return {"StringLike": {"s3:prefix": prefix_patterns(prefixes)}}
