"""The checks of `doctor` that contact storage: requests for each bucket profile."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import NamedTuple

from worker import clock
from worker.aws.clients import S3Clients
from worker.aws.storage_calls import call_storage
from worker.commands.failures.storage_failures import storage_cause, unreachable_cause
from worker.commands.health.checks import Check, State
from worker.core.apply.conflicts import may_store
from worker.core.kinds.role_session import versioning_session
from worker.core.policy.error_responses import ErrorResponse
from worker.core.tenants.config import Bucket, TenantConfig
from worker.core.tenants.storage_names import is_ordinary_bucket
from worker.errors import Malformed, Transient
from worker.jobs.timeouts import call_with_timeout
from worker.net.storage_requests import StorageConnection, StorageRequest
from worker.settings import Settings
from worker.usecases.signed_probe import TENANT, ProbeResult, send_probe, sign_probe

_SIGN_SECONDS = 8.0  # with the request that assumes a role
_SEND_SECONDS, _IDLE_SECONDS = 5.0, 3.0
_TOTAL_SECONDS = 30.0
_PARALLEL = 8
_PROFILE_HINT = "correct the bucket profile in the tenants file, and apply the file"
_CREDENTIALS_HINT = "run doctor with the AWS configuration of the workers, or give them credentials"


class _Probe(NamedTuple):
    settings: Settings
    s3: S3Clients
    connection: StorageConnection
    end: float  # of all probes, by time.monotonic
    counted: frozenset[str]  # profiles of ordinary buckets whose stored bytes a quota counts


def bucket_checks(config: TenantConfig, settings: Settings, *, offline: bool) -> Iterator[Check]:
    """Check that boto3 signs for each profile and, unless offline, that storage accepts it.

    The requests are sent in parallel, in bounded time.
    """
    s3 = S3Clients.from_settings(settings)
    if offline:
        for bucket in config.buckets.values():
            yield _check_target(s3, bucket) or _signs(bucket)
        return
    with closing(StorageConnection()) as connection, ThreadPoolExecutor(_PARALLEL) as threads:
        probe = _Probe(
            settings, s3, connection, time.monotonic() + _TOTAL_SECONDS, _counted_profiles(config)
        )
        yield from threads.map(lambda bucket: _check(probe, bucket), config.buckets.values())


def _counted_profiles(config: TenantConfig) -> frozenset[str]:
    return frozenset(
        policy.bucket
        for tenant in config.tenants.values()
        if any(quota.metric == "stored_bytes" for quota in tenant.quotas)
        for policy in tenant.policies.values()
        if may_store(policy) and is_ordinary_bucket(config.buckets[policy.bucket].bucket)
    )


def _check_target(s3: S3Clients, bucket: Bucket) -> Check | None:
    try:
        s3.target(bucket)
    except Malformed as error:
        return Check("buckets", "fail", f"{bucket.name}: {error}", _PROFILE_HINT)
    except Transient as error:
        return Check("buckets", "warn", f"{bucket.name}: {error}", _CREDENTIALS_HINT)
    return None


def _check(probe: _Probe, bucket: Bucket) -> Check:
    problem = _check_target(probe.s3, bucket)
    if problem is not None:
        return problem
    if time.monotonic() >= probe.end:
        text = f"{bucket.name}: not tried, as other profiles took {_TOTAL_SECONDS:g} s"
        return Check("buckets", "warn", text, f"python -m worker doctor --live {bucket.name}")
    try:
        request = call_with_timeout(
            _SIGN_SECONDS, lambda: sign_probe(probe.s3, bucket, clock.now())
        )
    except Malformed as error:
        hint = "correct the role, its trust policy, or the credentials that assume it"
        return Check("buckets", "fail", f"{bucket.name}: {error}", hint)
    except (Transient, TimeoutError) as error:
        text = str(error) or "no credentials in time"
        return Check("buckets", "fail", f"{bucket.name}: {text}", _CREDENTIALS_HINT)
    return _send(probe, bucket, request)


def _send(probe: _Probe, bucket: Bucket, request: StorageRequest) -> Check:
    try:
        result = call_with_timeout(
            _SEND_SECONDS, lambda: send_probe(request, probe.connection, clock.now, _IDLE_SECONDS)
        )
    except (Transient, TimeoutError) as error:
        cause = unreachable_cause(error, bucket, probe.settings)
        text = f"{bucket.name}: storage does not answer, though grants are signed: {cause.text}"
        return Check("buckets", "warn", text, cause.hint)
    wrong = storage_cause(bucket, result)
    if wrong is None:
        return _accepted(probe, bucket, result)
    state: State = "warn" if wrong.is_away else "fail"
    return Check("buckets", state, f"{bucket.name}: {wrong.text}", wrong.hint)


def _accepted(probe: _Probe, bucket: Bucket, result: ProbeResult) -> Check:
    if bucket.name in probe.counted:
        try:
            problem = call_with_timeout(_SIGN_SECONDS, lambda: _versioning_problem(probe, bucket))
        except TimeoutError:
            problem = _unknown_versioning(bucket, "it does not answer in time")
        if problem is not None:
            return problem
    text = f"{bucket.name}: storage accepts the credentials for {bucket.bucket} "
    if result.error is not None:
        text += "; it denies a read, which is right if no tenant may download"
    return Check("buckets", "ok", f"{text}; `doctor --live {bucket.name}` tries its grants")


def _signs(bucket: Bucket) -> Check:
    text = f"{bucket.name}: boto3 signs for {bucket.bucket} (storage was not asked: --offline)"
    return Check("buckets", "ok", text)


def _versioning_problem(probe: _Probe, bucket: Bucket) -> Check | None:
    """Fail for a versioned bucket in which tenants with a quota of stored_bytes store objects."""
    try:
        client = probe.s3.limited_client(bucket, TENANT, (), clock.now(), versioning_session)
        response = call_storage(client.get_bucket_versioning, Bucket=bucket.bucket)
    except (Malformed, Transient) as error:
        return _unknown_versioning(bucket, str(error))
    if isinstance(response, ErrorResponse):
        return _unknown_versioning(bucket, response.words)
    if response.get("Status") != "Enabled":  # suspended: a new object replaces the last one
        return None
    text = (
        f"{bucket.name}: the bucket is versioned, and stored_bytes counts the newest objects only"
    )
    hint = f"write versioned = true in [buckets.{bucket.name}]: apply names the quotas to remove"
    return Check("buckets", "fail", text, hint)


def _unknown_versioning(bucket: Bucket, problem: str) -> Check:
    text = f"{bucket.name}: storage does not show whether the bucket is versioned: {problem}"
    hint = "allow s3:GetBucketVersioning: stored_bytes counts no earlier versions (docs/usage.md)"
    return Check("buckets", "warn", text, hint)
