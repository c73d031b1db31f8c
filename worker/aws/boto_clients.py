"""Clients of boto3 for bucket profiles, and the way to sign the same URLs without them."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from botocore.config import Config
from botocore.exceptions import BotoCoreError

from worker.aws.boto_sessions import create_session
from worker.aws.boto_signer import BotoUrlSigner
from worker.aws.credentials import credential_errors
from worker.core.signing.forms import FormSigner
from worker.core.signing.sigv4 import PROBE_KEY, Credentials, Target, read_target
from worker.core.signing.urls import SupportsUrlSigning, UrlSigner
from worker.core.tenants.config import Bucket
from worker.errors import Malformed

_PROBE = Credentials("probe", "probe")
# The first signer that writes the same bytes as boto3 is used.
_SIGNERS: tuple[Callable[..., SupportsUrlSigning], ...] = (UrlSigner, BotoUrlSigner)


class CallLimits(NamedTuple):
    """The seconds that a call waits to connect and for each read, and how often it is sent."""

    connect: float
    read: float
    attempts: int


PATIENT = CallLimits(connect=3, read=10, attempts=2)
"""The limits of calls that a message or a job cannot do without."""

QUICK = CallLimits(connect=1, read=2, attempts=1)
"""The limits of calls that a message can do without, while its worker decides no others."""


class SigningMethod(NamedTuple):
    """The address of a bucket, and the signer that writes the same URLs as boto3."""

    target: Target
    signer: Callable[..., SupportsUrlSigning]


def find_signing_method(bucket: Bucket, endpoint: str | None) -> SigningMethod:
    """Find out how boto3 signs for a bucket, without credentials. endpoint None means AWS.

    Raises Malformed if boto3 rejects the profile, or signs in a way that no signer here does.
    """
    url, form_url = _probe(bucket, endpoint)
    query = dict(parse_qsl(urlsplit(url).query))
    target = read_target(url)
    issued_at = datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%S%z")
    form = FormSigner(_PROBE, target, bucket=bucket.bucket, issued_at=issued_at, expires_in=60)
    if form_url not in {None, form.sign(PROBE_KEY).url}:
        raise Malformed(
            f"boto3 makes no form for the bucket {bucket.bucket!r} itself: set post = false"
        )
    for signer in _SIGNERS:
        urls = signer(_PROBE, target, method="GET", issued_at=issued_at, expires_in=60)
        if urls.sign(PROBE_KEY).url == url:
            return SigningMethod(target, signer)
    raise Malformed(f"boto3 signs for the bucket {bucket.bucket!r} in an unknown way")


def _probe(bucket: Bucket, endpoint: str | None) -> tuple[str, str | None]:
    """Return boto3's signed URL and form URL for PROBE_KEY."""
    params = {"Bucket": bucket.bucket, "Key": PROBE_KEY}
    try:
        client = make_client(bucket, endpoint, _PROBE)
        url = client.generate_presigned_url("get_object", Params=params, ExpiresIn=60)
        form = client.generate_presigned_post(**params) if bucket.post else {}
    except (BotoCoreError, ValueError) as error:
        raise Malformed(f"boto3 cannot sign for bucket {bucket.bucket!r}: {error}") from error
    return url, form.get("url")


def make_client(
    bucket: Bucket, endpoint: str | None, credentials: Credentials, limits: CallLimits = PATIENT
) -> Any:
    """Create a boto3 client for a bucket profile. endpoint None leaves it to the AWS profile."""
    with credential_errors(bucket.profile):
        session = create_session(bucket.profile)
    return session.client(
        "s3",
        region_name=bucket.region,
        endpoint_url=endpoint,
        aws_access_key_id=credentials.access_key,
        aws_secret_access_key=credentials.secret_key,
        aws_session_token=credentials.token,
        config=_config(bucket, limits, is_aws=endpoint is None),
    )


def _config(bucket: Bucket, limits: CallLimits, *, is_aws: bool) -> Config:
    # Options that are not set here are left to the AWS profile.
    accelerate = {"use_accelerate_endpoint": True} if is_aws and bucket.accelerate else {}
    return Config(
        signature_version="s3v4",
        connect_timeout=limits.connect,
        read_timeout=limits.read,
        retries={"total_max_attempts": limits.attempts},
        use_fips_endpoint=(is_aws and bucket.fips) or None,
        use_dualstack_endpoint=(is_aws and bucket.dualstack) or None,
        s3={
            "addressing_style": bucket.addressing,
            "disable_s3_express_session_auth": True,  # creating a session is a request
            **accelerate,
        },
    )
