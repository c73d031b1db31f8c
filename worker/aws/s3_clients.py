"""Clients of boto3 for bucket profiles, and the addresses of their buckets.

A call that waits for storage that does not answer holds the worker, and with it the messages of
other tenants: such bucket profiles are remembered for a moment.
"""

from datetime import datetime, timedelta
from threading import Lock
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qsl, urlsplit

from botocore.config import Config
from botocore.exceptions import BotoCoreError

from valetkey.signing.signing_context import SigningContext, Validity
from valetkey.signing.sigv4 import (
    PROBE_KEY,
    Credentials,
    FormSigner,
    Target,
    UrlSigner,
    read_target,
)
from worker.aws.credentials import CredentialCache, create_session, credential_errors
from worker.aws.storage_calls import bound_responses
from worker.errors import Malformed, StorageSilent, Transient
from worker.rules.issued_grants import is_on_aws
from worker.rules.role_session import RoleSession, SessionLimit, role_session
from worker.rules.storage_errors import ErrorResponse
from worker.rules.tenant_config import Bucket, DefaultEndpoints
from worker.settings import Settings

SILENCE = timedelta(seconds=15)
"""The time in which storage that did not answer is not called again by the same process."""


class SilentBuckets:
    """The bucket profiles of one process whose storage was silent or slow. Threads may share it."""

    def __init__(self) -> None:
        self._until: dict[Bucket, datetime] = {}

    def add(self, bucket: Bucket, now: datetime) -> None:
        """Remember that the storage of a bucket profile did not answer in time."""
        self._until[bucket] = now + SILENCE

    def check(self, bucket: Bucket, now: datetime) -> None:
        """Raise StorageSilent if the storage of a bucket profile was silent or slow just now."""
        if now < self._until.get(bucket, now):
            raise StorageSilent("storage did not answer a moment ago")


_PROBE = Credentials("probe", "probe")


class CallLimits(NamedTuple):
    """The seconds that a call waits to connect and for each read, and how often it is sent."""

    connect: float
    read: float
    attempts: int


PATIENT = CallLimits(connect=3, read=10, attempts=2)
"""The limits of calls that a message or a job cannot do without."""


def find_target(bucket: Bucket, endpoint: str | None) -> Target:
    """Return the address at which boto3 signs for a bucket, without credentials.

    endpoint None means AWS. Raises Malformed if boto3 rejects the profile, or writes other bytes
    than the signers of this service.
    """
    params = {"Bucket": bucket.bucket, "Key": PROBE_KEY}
    try:
        client = make_client(bucket, endpoint, _PROBE)
        url = client.generate_presigned_url("get_object", Params=params, ExpiresIn=60)
        form_url = client.generate_presigned_post(**params)["url"] if bucket.post else None
    except (BotoCoreError, ValueError) as error:
        raise Malformed(f"boto3 cannot sign for bucket {bucket.bucket!r}: {error}") from error
    target = read_target(url)
    date = dict(parse_qsl(urlsplit(url).query))["X-Amz-Date"]
    issued_at = datetime.strptime(date, "%Y%m%dT%H%M%S%z")
    form = FormSigner(_PROBE, target, bucket=bucket.bucket, issued_at=issued_at, expires_in=60)
    if form_url not in {None, form.sign(PROBE_KEY).url}:
        raise Malformed(
            f"boto3 makes no form for the bucket {bucket.bucket!r} itself: set post = false"
        )
    urls = UrlSigner(_PROBE, target, method="GET", issued_at=issued_at, expires_in=60)
    if urls.sign(PROBE_KEY).url != url:
        raise Malformed(f"boto3 signs for the bucket {bucket.bucket!r} in an unknown way")
    return target


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
        config=_client_config(bucket, limits, is_aws=endpoint is None),
    )


def _client_config(bucket: Bucket, limits: CallLimits, *, is_aws: bool) -> Config:
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


_MIN_CALL_VALIDITY = timedelta(minutes=5)  # of credentials for calls to storage, if possible


class S3Clients:
    """Credentials, signing targets and boto3 clients of all bucket profiles.

    Create it after forking; threads may share it.

    endpoint is used for bucket profiles without one; None leaves it to the AWS profile.
    sts_endpoint is where roles are assumed; None means AWS in the bucket's region. Calls for such
    bucket profiles go to internal_endpoint, if it is set; URLs never contain it.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        sts_endpoint: str | None = None,
        internal_endpoint: str | None = None,
    ) -> None:
        self._endpoints = DefaultEndpoints(endpoint, internal_endpoint)
        self._credentials = CredentialCache(sts_endpoint)
        self.silent_buckets = SilentBuckets()
        self._lock = Lock()
        self._targets: dict[Bucket, Target] = {}
        # Of each client, the credentials as well: others make another client.
        self._clients: dict[
            tuple[Bucket, RoleSession | None, CallLimits], tuple[Credentials, Any]
        ] = {}

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Create it with the endpoints of the settings."""
        return cls(settings.s3_endpoint, settings.sts_endpoint, settings.s3_internal_endpoint)

    def credentials(
        self,
        bucket: Bucket,
        tenant: str,
        prefixes: tuple[str, ...],
        now: datetime,
        min_validity: timedelta,
    ) -> Credentials:
        """Return the credentials that sign for a tenant in a bucket profile, with their expiry.

        If the profile has a role, they are those of a session limited to the tenant's prefixes.
        They are renewed if they expire within min_validity, and may still expire sooner. Raises
        Transient if there are no credentials, and Malformed if the role cannot be assumed.
        """
        session = _role_session(bucket, tenant, prefixes)
        return self._credentials.get(bucket.profile, session, now, min_validity)

    def target(self, bucket: Bucket) -> Target:
        """Return the address that boto3 uses for a bucket; determined once, without credentials.

        Raises Malformed if boto3 rejects the profile, or does not sign with SigV4 for it.
        """
        with self._lock:
            if bucket not in self._targets:
                self._targets[bucket] = find_target(bucket, self._endpoints.public_of(bucket))
            return self._targets[bucket]

    def host(self, bucket: Bucket) -> str | None:
        """Return the host in links to a bucket, or None if boto3 rejects the profile."""
        address = self._address(bucket)
        return address and address.partition("://")[2]

    def is_aws(self, bucket: Bucket) -> bool:
        """Return whether a bucket is on AWS: boto3's configuration may name another server."""
        return is_on_aws(bucket, self._address(bucket))

    def _address(self, bucket: Bucket) -> str | None:
        try:
            target = self.target(bucket)
        except Malformed:
            return self._endpoints.public_of(bucket)
        return f"{target.scheme}://{target.host}"

    def internal_endpoint(self, bucket: Bucket) -> str | None:
        """Return the endpoint of calls to a bucket, or None if it is the one in URLs."""
        endpoint = self._endpoints.internal_of(bucket)
        return None if endpoint == self._endpoints.public_of(bucket) else endpoint

    def signing_context(
        self, bucket: Bucket, credentials: Credentials, validity: Validity
    ) -> SigningContext:
        """Return the context that signs a chunk. Raises Malformed as `target` does."""
        target = self.target(bucket)
        return SigningContext(bucket.bucket, bucket.owner, target, credentials, validity)

    def client(  # noqa: PLR0913 - what calls differ in
        self,
        bucket: Bucket,
        tenant: str,
        prefixes: tuple[str, ...],
        now: datetime,
        limit: SessionLimit | None = None,
        *,
        limits: CallLimits = PATIENT,
    ) -> Any:
        """Return a boto3 client for calls to a bucket; tenant may also name the service.

        With a limit, it is for calls that the sessions that sign grants may not make: a role has a
        session of its own for them, whose policy limit writes. Raises as `credentials` does.
        """
        session = _role_session(bucket, tenant, prefixes)
        if session and limit:
            session = limit(session, bucket.bucket, prefixes)
        return self._client(bucket, session, now, limits)

    def check_rejection(
        self,
        answer: ErrorResponse,
        bucket: Bucket,
        tenant: str,
        prefixes: tuple[str, ...],
        now: datetime,
    ) -> None:
        """Raise Transient if storage rejects the credentials, and others may be accepted.

        Credentials that are rejected are loaded again, at most once in REFRESH_INTERVAL.
        """
        if not answer.rejects_credentials:
            return
        session = _role_session(bucket, tenant, prefixes)
        if self._credentials.renew(bucket.profile, session, now) or answer.is_transient:
            raise Transient(f"storage rejects the credentials: {answer.code}", "credentials")

    def _client(
        self,
        bucket: Bucket,
        session: RoleSession | None,
        now: datetime,
        limits: CallLimits,
    ) -> Any:
        credentials = self._credentials.get(bucket.profile, session, now, _MIN_CALL_VALIDITY)
        key = bucket, session, limits
        with self._lock:
            used, client = self._clients.get(key, (None, None))
            if used != credentials:
                client = make_client(
                    bucket, self._endpoints.internal_of(bucket), credentials, limits
                )
                bound_responses(client)
                self._clients[key] = credentials, client
            return client


def _role_session(bucket: Bucket, tenant: str, prefixes: tuple[str, ...]) -> RoleSession | None:
    if bucket.role_arn is None:
        return None
    return role_session(bucket.role_arn, bucket, tenant, prefixes)
