"""Signs and sends one request to a bucket, which shows whether storage accepts the credentials."""

import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from worker.aws.clients import S3Clients
from worker.core.policy.error_responses import ErrorResponse
from worker.core.signing.validity import Validity
from worker.core.tenants.config import Bucket
from worker.net.storage_requests import StorageConnection, StorageRequest

PREFIX = "valetkey-doctor/"
REGION_HEADER = "x-amz-bucket-region"
TENANT = "doctor"
"""The name of the session if the profile has a role."""
_VALID_SECONDS = 60
_FIRST_ERROR = 300


class ProbeResult(NamedTuple):
    """Storage's answer to a signed GET of an object that does not exist.

    error is None if it is the expected one. skew is how far this machine's clock is ahead of
    storage's; region is that of the bucket, if storage names it.
    """

    error: ErrorResponse | None
    skew: timedelta | None = None
    region: str | None = None


def sign_probe(s3: S3Clients, bucket: Bucket, now: datetime) -> StorageRequest:
    """Sign a GET as a grant is signed. It needs no permission in the bucket.

    A HEAD would get 403 without a code for wrong credentials and for missing permissions alike. A
    profile with an internal endpoint is tried there. Raises Malformed if boto3 cannot sign for the
    profile or its role cannot be assumed, and Transient if there are no credentials.
    """
    endpoint = s3.internal_endpoint(bucket)
    if endpoint:
        bucket = replace(bucket, endpoint=endpoint)
    now = now.replace(microsecond=0)
    credentials = s3.credentials(bucket, TENANT, (PREFIX,), now, timedelta(0))
    validity = Validity(now, _VALID_SECONDS, "request")
    signer = s3.signing_context(bucket, credentials, validity).signer_for("GET")
    return StorageRequest("GET", signer.sign(f"{PREFIX}{secrets.token_hex(16)}").url)


def send_probe(
    request: StorageRequest,
    connection: StorageConnection,
    now: Callable[[], datetime],
    seconds: float,
) -> ProbeResult:
    """Send the request once. Raises Transient if there is no response."""
    response = connection.send(request, seconds)
    error = ErrorResponse(response.status, response.code, response.message)
    is_expected = response.status < _FIRST_ERROR or error.code == "NoSuchKey"
    return ProbeResult(
        None if is_expected else error,
        _skew(response.headers.get("date"), now()),
        response.headers.get(REGION_HEADER),
    )


def _skew(date: str | None, now: datetime) -> timedelta | None:
    try:
        moment = parsedate_to_datetime(date or "")
    except ValueError:
        return None
    return now - (moment if moment.tzinfo else moment.replace(tzinfo=UTC))
