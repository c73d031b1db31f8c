"""boto3 in one process: the credentials and targets that sign, and clients for calls to S3."""

from datetime import datetime, timedelta
from threading import Lock
from typing import Any, NamedTuple, Self

from worker.aws.boto_clients import (
    PATIENT,
    CallLimits,
    SigningMethod,
    find_signing_method,
    make_client,
)
from worker.aws.credentials import CredentialCache
from worker.aws.silent_buckets import SilentBuckets
from worker.aws.storage_calls import bound_responses
from worker.aws.stored_files import FileReader
from worker.core.kinds.role_session import RoleSession, SessionLimit, role_session
from worker.core.policy.error_responses import ErrorResponse
from worker.core.signing.context import SigningContext
from worker.core.signing.sigv4 import Credentials, Target
from worker.core.signing.validity import Validity
from worker.core.tenants.config import Bucket
from worker.core.tenants.endpoints import DefaultEndpoints
from worker.core.tenants.storage_names import storage_host
from worker.errors import Malformed, Transient
from worker.settings import Settings

_MIN_CALL_VALIDITY = timedelta(minutes=5)  # of credentials for calls to storage, if possible


class _Client(NamedTuple):
    credentials: Credentials
    boto: Any
    files: FileReader


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
        self._signing_methods: dict[Bucket, SigningMethod] = {}
        self._clients: dict[tuple[Bucket, RoleSession | None, CallLimits], _Client] = {}

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
        session = _session(bucket, tenant, prefixes)
        return self._credentials.get(bucket.profile, session, now, min_validity)

    def target(self, bucket: Bucket) -> Target:
        """Return the address that boto3 uses for a bucket; determined once, without credentials.

        Raises Malformed if boto3 rejects the profile, or does not sign with SigV4 for it.
        """
        return self._signing_method(bucket).target

    def host(self, bucket: Bucket) -> str | None:
        """Return the host in links to a bucket, or None if boto3 rejects the profile."""
        address = self._address(bucket)
        return address and address.partition("://")[2]

    def is_aws(self, bucket: Bucket) -> bool:
        """Return whether a bucket is on AWS. A profile without an endpoint need not be.

        The default endpoint may be another server, and so may the one in boto3's configuration.
        """
        if bucket.endpoint is not None:
            return bucket.provider == "aws"
        return bucket.provider == "aws" and storage_host(self._address(bucket)) is None

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
        target, signer = self._signing_method(bucket)
        return SigningContext(bucket.bucket, bucket.owner, target, credentials, validity, signer)

    def client(self, bucket: Bucket, tenant: str, prefixes: tuple[str, ...], now: datetime) -> Any:
        """Return a boto3 client for calls to a bucket, with a tenant's credentials.

        Raises as `credentials` does.
        """
        return self._client(bucket, _session(bucket, tenant, prefixes), now).boto

    def file_reader(
        self,
        bucket: Bucket,
        tenant: str,
        prefixes: tuple[str, ...],
        now: datetime,
        limits: CallLimits = PATIENT,
    ) -> FileReader:
        """Return what looks for objects in a bucket, with a tenant's credentials.

        Raises as `credentials` does.
        """
        return self._client(bucket, _session(bucket, tenant, prefixes), now, limits).files

    def limited_client(
        self,
        bucket: Bucket,
        name: str,
        prefixes: tuple[str, ...],
        now: datetime,
        limit: SessionLimit,
    ) -> Any:
        """Return a boto3 client for calls that the sessions that sign grants may not make.

        A role has a session of its own for them, whose policy limit writes. name is that of the
        tenant or the service. Raises as `credentials` does.
        """
        session = _session(bucket, name, prefixes)
        limited = session and limit(session, bucket.bucket, prefixes)
        return self._client(bucket, limited, now).boto

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
        session = _session(bucket, tenant, prefixes)
        if self._credentials.renew(bucket.profile, session, now) or answer.is_transient:
            raise Transient(f"storage rejects the credentials: {answer.code}", "credentials")

    def _client(
        self,
        bucket: Bucket,
        session: RoleSession | None,
        now: datetime,
        limits: CallLimits = PATIENT,
    ) -> _Client:
        credentials = self._credentials.get(bucket.profile, session, now, _MIN_CALL_VALIDITY)
        key = bucket, session, limits
        with self._lock:
            client = self._clients.get(key)
            if client is None or client.credentials != credentials:
                endpoint = self._endpoints.internal_of(bucket)
                boto = make_client(bucket, endpoint, credentials, limits)
                bound_responses(boto)
                client = _Client(credentials, boto, FileReader(boto, bucket, credentials))
                self._clients[key] = client
            return client

    def _signing_method(self, bucket: Bucket) -> SigningMethod:
        with self._lock:
            if bucket not in self._signing_methods:
                self._signing_methods[bucket] = find_signing_method(
                    bucket, self._endpoints.public_of(bucket)
                )
            return self._signing_methods[bucket]


def _session(bucket: Bucket, tenant: str, prefixes: tuple[str, ...]) -> RoleSession | None:
    if bucket.role_arn is None:
        return None
    return role_session(bucket.role_arn, bucket, tenant, prefixes)
