"""Why storage does not accept the credentials or the bucket of a profile."""

from datetime import timedelta
from http import HTTPStatus

from valetkey.units import format_duration
from worker.commands.failures.cause import Cause, network_cause, silent
from worker.core.tenants.config import Bucket
from worker.settings import Settings
from worker.usecases.signed_probe import ProbeResult

MAX_SKEW = timedelta(minutes=1)
"""The difference of clocks from which it is a failure: short grants are then void or too long."""

_REGION_CODES = frozenset(
    {
        "AuthorizationHeaderMalformed",
        "AuthorizationQueryParametersError",
        "IllegalLocationConstraintException",
        "PermanentRedirect",
        "TemporaryRedirect",
    }
)
_REDIRECTS = frozenset(
    {
        HTTPStatus.MOVED_PERMANENTLY,
        HTTPStatus.TEMPORARY_REDIRECT,
        HTTPStatus.PERMANENT_REDIRECT,
    }
)
_EXPIRED_CODES = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
_RESTART = "where the workers run, and restart them"


def storage_cause(bucket: Bucket, result: ProbeResult) -> Cause | None:
    """Return what is wrong according to storage's answer; None if it accepts the credentials.

    Storage that answers AccessDenied knows the credentials and the signature.
    """
    if result.skew is not None and abs(result.skew) >= MAX_SKEW:
        side = "ahead of" if result.skew > timedelta(0) else "behind"
        text = f"this machine's clock is {format_duration(abs(result.skew))} {side} storage's"
        return Cause(text, "synchronize the clock with NTP")
    if result.error is None or result.error.code == "AccessDenied":
        return None
    return _credentials_cause(bucket, result.error.code) or _bucket_cause(bucket, result)


def _credentials_cause(bucket: Bucket, code: str) -> Cause | None:
    owner = f"AWS profile {bucket.profile or 'default'!r}"
    match code:
        case "InvalidAccessKeyId" | "InvalidClientTokenId":
            text = f"storage does not know the access key of {owner} (InvalidAccessKeyId)"
            return Cause(text, f"replace the keys {_RESTART}")
        case "SignatureDoesNotMatch":
            text = f"the secret key of {owner} is wrong (SignatureDoesNotMatch)"
            hint = f"correct AWS_SECRET_ACCESS_KEY or the AWS profile {_RESTART}; a proxy that "
            return Cause(text, f"{hint}changes the Host header has the same effect")
        case "InvalidToken":
            text = f"the session token of {owner} is wrong (InvalidToken)"
            return Cause(text, f"replace access key, secret key and token together {_RESTART}")
        case "RequestTimeTooSkewed":
            text = "this machine's clock differs from storage's (RequestTimeTooSkewed)"
            return Cause(text, "synchronize the clock with NTP")
    if code in _EXPIRED_CODES:
        return Cause(f"the session token of {owner} has expired", f"get new credentials {_RESTART}")
    return None


def _bucket_cause(bucket: Bucket, result: ProbeResult) -> Cause:
    error = result.error
    table = f"[buckets.{bucket.name}]"
    if error is None:
        raise ValueError("there is no error")
    if error.code == "NoSuchBucket":
        text = f"storage has no bucket {bucket.bucket}"
        return Cause(text, f"create it, or correct `bucket` in {table}, and apply the file")
    if error.code in _REGION_CODES or error.status in _REDIRECTS:
        text = f"the bucket {bucket.bucket} is not in the region {bucket.region} ({error.words})"
        region = f'"{result.region}"' if result.region else "the bucket's region"
        return Cause(text, f"write region = {region} in {table}, and apply the file")
    hint = f"check the endpoint and the bucket in {table}"
    if error.is_transient:
        return Cause(f"storage cannot answer now: {error.words}", hint, is_away=True)
    return Cause(f"storage refuses the request: {error.words}", hint)


def unreachable_cause(error: BaseException, bucket: Bucket, settings: Settings) -> Cause:
    """Return why storage did not answer."""
    setting = f"the endpoint of [buckets.{bucket.name}]"
    if bucket.endpoint is None and bucket.internal_endpoint is None:
        if settings.s3_internal_endpoint:
            setting = "VALETKEY_S3_INTERNAL_ENDPOINT"
        else:
            has_endpoint = settings.s3_endpoint is not None
            setting = "VALETKEY_S3_ENDPOINT" if has_endpoint else "the region of the bucket profile"
    return (network_cause(error, setting) or silent(setting))._replace(is_away=True)
