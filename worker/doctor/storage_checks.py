"""The checks of `doctor` that contact storage: a signed request to each bucket profile."""

import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import NamedTuple

from valetkey.delivery.causes import TIMEOUT
from valetkey.signing.signing_context import Validity
from valetkey.units import format_duration
from worker import clock
from worker.aws.s3_clients import S3Clients
from worker.aws.storage_calls import call_storage
from worker.base.database_errors import Cause
from worker.cli.service_failures import cause_of_kind, network_cause
from worker.doctor.permission_checks import check_permissions
from worker.errors import Malformed, Transient
from worker.rules.storage_errors import ErrorResponse
from worker.rules.tenant_config import Bucket, TenantConfig
from worker.settings import Settings
from worker.shared.aws_permissions import DOCTOR_PREFIX, ProfileUse, profile_uses
from worker.shared.limited_sessions import versioning_session
from worker.shared.monitoring import Check, State
from worker.shared.storage_requests import StorageConnection, StorageRequest
from worker.shared.threads import call_with_timeout

REGION_HEADER = "x-amz-bucket-region"
PROBE_TENANT = "doctor"
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


def _sign_probe(s3: S3Clients, bucket: Bucket) -> StorageRequest:
    """Sign a GET as a grant is signed. It needs no permission in the bucket.

    A HEAD would get 403 without a code for wrong credentials and for missing permissions alike. A
    profile with an internal endpoint is tried there. Raises Malformed if boto3 cannot sign for the
    profile or its role cannot be assumed, and Transient if there are no credentials.
    """
    endpoint = s3.internal_endpoint(bucket)
    if endpoint:
        bucket = replace(bucket, endpoint=endpoint)
    now = clock.now().replace(microsecond=0)
    credentials = s3.credentials(bucket, PROBE_TENANT, (DOCTOR_PREFIX,), now, timedelta(0))
    validity = Validity(now, _VALID_SECONDS, "request")
    signer = s3.signing_context(bucket, credentials, validity).signer_for("GET")
    return StorageRequest("GET", signer.sign(f"{DOCTOR_PREFIX}{secrets.token_hex(16)}").url)


def _send_probe(request: StorageRequest, connection: StorageConnection) -> ProbeResult:
    """Send the request once. Raises Transient if there is no response."""
    response = connection.send(request, _IDLE_SECONDS)
    error = ErrorResponse(response.status, response.code, response.message)
    is_expected = response.status < _FIRST_ERROR or error.code == "NoSuchKey"
    return ProbeResult(
        None if is_expected else error,
        _skew(response.headers.get("date"), clock.now()),
        response.headers.get(REGION_HEADER),
    )


def _skew(date: str | None, now: datetime) -> timedelta | None:
    try:
        moment = parsedate_to_datetime(date or "")
    except ValueError:
        return None
    return now - (moment if moment.tzinfo else moment.replace(tzinfo=UTC))


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
    {HTTPStatus.MOVED_PERMANENTLY, HTTPStatus.TEMPORARY_REDIRECT, HTTPStatus.PERMANENT_REDIRECT}
)
_RESTART = "where the workers run, and restart them"
_PROXY = "a proxy that changes the Host header has the same effect"
_UNKNOWN_KEY = (
    "storage does not know the access key of {owner} (InvalidAccessKeyId)",
    f"replace the keys {_RESTART}",
)
_EXPIRED = ("the session token of {owner} has expired", f"get new credentials {_RESTART}")
# The cause, in which {owner} is the AWS profile, and the hint, by storage's code.
_CREDENTIALS_CAUSES = {
    "InvalidAccessKeyId": _UNKNOWN_KEY,
    "InvalidClientTokenId": _UNKNOWN_KEY,
    "SignatureDoesNotMatch": (
        "the secret key of {owner} is wrong (SignatureDoesNotMatch)",
        f"correct AWS_SECRET_ACCESS_KEY or the AWS profile {_RESTART}; {_PROXY}",
    ),
    "InvalidToken": (
        "the session token of {owner} is wrong (InvalidToken)",
        f"replace access key, secret key and token together {_RESTART}",
    ),
    "RequestTimeTooSkewed": (
        "this machine's clock differs from storage's (RequestTimeTooSkewed)",
        "synchronize the clock with NTP",
    ),
    **dict.fromkeys(("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"), _EXPIRED),
}


def storage_cause(bucket: Bucket, result: ProbeResult) -> Cause | None:
    """Return what is wrong according to storage's answer; None if it accepts the credentials.

    Storage that answers AccessDenied knows the credentials and the signature.
    """
    if result.skew is not None and abs(result.skew) >= MAX_SKEW:
        side = "ahead of" if result.skew > timedelta(0) else "behind"
        text = f"this machine's clock is {format_duration(abs(result.skew))} {side} storage's"
        return Cause(text, "synchronize the clock with NTP")
    error = result.error
    if error is None or error.code == "AccessDenied":
        return None
    if error.code in _CREDENTIALS_CAUSES:
        text, hint = _CREDENTIALS_CAUSES[error.code]
        return Cause(text.format(owner=f"AWS profile {bucket.profile or 'default'!r}"), hint)
    return _bucket_cause(bucket, error, result.region)


def _bucket_cause(bucket: Bucket, error: ErrorResponse, region: str | None) -> Cause:
    table = f"[buckets.{bucket.name}]"
    if error.code == "NoSuchBucket":
        text = f"storage has no bucket {bucket.bucket}"
        return Cause(text, f"create it, or correct `bucket` in {table}, and apply the file")
    if error.code in _REGION_CODES or error.status in _REDIRECTS:
        text = f"the bucket {bucket.bucket} is not in the region {bucket.region} ({error.words})"
        value = f'"{region}"' if region else "the bucket's region"
        return Cause(text, f"write region = {value} in {table}, and apply the file")
    hint = f"check the endpoint and the bucket in {table}"
    if error.is_transient:
        return Cause(f"storage cannot answer now: {error.words}", hint, is_temporary=True)
    return Cause(f"storage refuses the request: {error.words}", hint)


def _unreachable_cause(error: BaseException, bucket: Bucket, settings: Settings) -> Cause:
    """Return why storage did not answer."""
    if bucket.endpoint or bucket.internal_endpoint:
        setting = f"the endpoint of [buckets.{bucket.name}]"
    elif settings.s3_internal_endpoint:
        setting = "VALETKEY_S3_INTERNAL_ENDPOINT"
    elif settings.s3_endpoint:
        setting = "VALETKEY_S3_ENDPOINT"
    else:
        setting = "the region of the bucket profile"
    cause = network_cause(error, setting) or cause_of_kind(TIMEOUT, setting)
    return cause._replace(is_temporary=True)


_SIGN_SECONDS = 8.0  # with the request that assumes a role
_SEND_SECONDS, _IDLE_SECONDS = 5.0, 3.0
_TRIALS_SECONDS = 15.0
_TOTAL_SECONDS = 30.0
_PARALLEL = 8
_PROFILE_HINT = "correct the bucket profile in the tenants file, and apply the file"
_CREDENTIALS_HINT = "run doctor with the AWS configuration of the workers, or give them credentials"


class _Probe(NamedTuple):
    settings: Settings
    s3: S3Clients
    connection: StorageConnection
    end: float  # of all probes, by time.monotonic


def bucket_checks(config: TenantConfig, settings: Settings, *, offline: bool) -> Iterator[Check]:
    """Check that boto3 signs for each profile and, unless offline, that storage accepts it.

    The requests are sent in parallel, in bounded time.
    """
    s3 = S3Clients.from_settings(settings)
    if offline:
        for bucket in config.buckets.values():
            text = f"boto3 signs for {bucket.bucket} (storage was not asked: --offline)"
            yield _check_target(s3, bucket) or _bucket_check(bucket, "ok", text)
        return
    with closing(StorageConnection()) as connection, ThreadPoolExecutor(_PARALLEL) as threads:
        probe = _Probe(settings, s3, connection, time.monotonic() + _TOTAL_SECONDS)
        uses = profile_uses(config, {})
        for checks in threads.map(lambda use: list(_profile_checks(probe, use)), uses):
            yield from checks


def _bucket_check(bucket: Bucket, state: State, text: str, hint: str | None = None) -> Check:
    return Check("buckets", state, f"{bucket.name}: {text}", hint)


def _check_target(s3: S3Clients, bucket: Bucket) -> Check | None:
    try:
        s3.target(bucket)
    except Malformed as error:
        return _bucket_check(bucket, "fail", str(error), _PROFILE_HINT)
    except Transient as error:
        return _bucket_check(bucket, "warn", str(error), _CREDENTIALS_HINT)
    return None


def _profile_checks(probe: _Probe, use: ProfileUse) -> Iterator[Check]:
    check = _check(probe, use)
    yield check
    if check.state == "ok":
        try:
            tried = call_with_timeout(_TRIALS_SECONDS, lambda: check_permissions(probe.s3, use))
        except TimeoutError:
            text = f"{use.bucket.name}: not tried, as storage does not answer in time"
            tried = Check("permissions", "warn", text, "repeat doctor when storage answers")
        if tried is not None:
            yield tried


def _check(probe: _Probe, use: ProfileUse) -> Check:
    bucket = use.bucket
    problem = _check_target(probe.s3, bucket)
    if problem is not None:
        return problem
    if time.monotonic() >= probe.end:
        text = f"not tried, as other profiles took {_TOTAL_SECONDS:g} s"
        return _bucket_check(bucket, "warn", text, f"python -m worker doctor --live {bucket.name}")
    try:
        request = call_with_timeout(_SIGN_SECONDS, lambda: _sign_probe(probe.s3, bucket))
    except Malformed as error:
        hint = (
            "correct the role, its trust policy, or the credentials that assume it: permissions iam"
        )
        return _bucket_check(bucket, "fail", str(error), hint)
    except (Transient, TimeoutError) as error:
        text = str(error) or "no credentials in time"
        return _bucket_check(bucket, "fail", text, _CREDENTIALS_HINT)
    return _send(probe, use, request)


def _send(probe: _Probe, use: ProfileUse, request: StorageRequest) -> Check:
    bucket = use.bucket
    try:
        result = call_with_timeout(_SEND_SECONDS, lambda: _send_probe(request, probe.connection))
    except (Transient, TimeoutError) as error:
        cause = _unreachable_cause(error, bucket, probe.settings)
        text = f"storage does not answer, though grants are signed: {cause.text}"
        return _bucket_check(bucket, "warn", text, cause.hint)
    wrong = storage_cause(bucket, result)
    if wrong is None:
        return _accepted(probe, use, result)
    state: State = "warn" if wrong.is_temporary else "fail"
    return _bucket_check(bucket, state, wrong.text, wrong.hint)


def _accepted(probe: _Probe, use: ProfileUse, result: ProbeResult) -> Check:
    bucket = use.bucket
    if use.counts_stored:
        try:
            problem = call_with_timeout(_SIGN_SECONDS, lambda: _versioning_problem(probe, bucket))
        except TimeoutError:
            problem = _unknown_versioning(bucket, "it does not answer in time")
        if problem is not None:
            return problem
    text = f"storage accepts the credentials for {bucket.bucket}"
    if result.error is not None:
        text += "; it denies a read, which is right if no tenant may download"
    return _bucket_check(bucket, "ok", f"{text}; `doctor --live {bucket.name}` tries its grants")


def _versioning_problem(probe: _Probe, bucket: Bucket) -> Check | None:
    """Fail for a versioned bucket in which tenants with a quota of stored_bytes store objects."""
    try:
        client = probe.s3.client(bucket, PROBE_TENANT, (), clock.now(), versioning_session)
        response = call_storage(client.get_bucket_versioning, Bucket=bucket.bucket)
    except (Malformed, Transient) as error:
        return _unknown_versioning(bucket, str(error))
    if isinstance(response, ErrorResponse):
        return _unknown_versioning(bucket, response.words)
    if response.get("Status") != "Enabled":  # suspended: a new object replaces the last one
        return None
    text = "the bucket is versioned, and stored_bytes counts the newest objects only"
    hint = f"write versioned = true in [buckets.{bucket.name}]: apply names the quotas to remove"
    return _bucket_check(bucket, "fail", text, hint)


def _unknown_versioning(bucket: Bucket, problem: str) -> Check:
    text = f"storage does not show whether the bucket is versioned: {problem}"
    hint = f"allow s3:GetBucketVersioning: python -m worker permissions iam --profile {bucket.name}"
    return _bucket_check(bucket, "warn", text, hint)
