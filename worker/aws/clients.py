"""boto3's side of signing: whose credentials sign, where a bucket's keys live, and calls to S3."""

from collections.abc import Callable
from datetime import datetime, timedelta
from threading import Lock
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from worker.aws.boto_signer import BotoUrlSigner
from worker.aws.credentials import CredentialCache, credential_errors
from worker.core.policy.decisions import Validity
from worker.core.signing.forms import FormSigner
from worker.core.signing.session_policy import RoleSession, role_session
from worker.core.signing.signer import SigningContext
from worker.core.signing.sigv4 import Credentials, Target
from worker.core.signing.urls import SupportsUrlSigning, UrlSigner
from worker.core.tenants.config import Bucket
from worker.errors import Malformed

_PROBE = Credentials("probe", "probe")
_CALL = timedelta(minutes=5)  # credentials for a call to storage last at least this, if they can
# The first that writes boto3's own bytes is taken.
_SIGNERS: tuple[Callable[..., SupportsUrlSigning], ...] = (UrlSigner, BotoUrlSigner)


class _Found(NamedTuple):
    target: Target
    signs: Callable[..., SupportsUrlSigning]


class S3Clients:
    """boto3 in one process: make it after fork; threads may share it.

    endpoint is that of buckets that name none; without it, they are where the AWS profile says.
    sts_endpoint is where roles are assumed; without it, at AWS in the bucket's region.
    """

    def __init__(self, endpoint: str | None = None, sts_endpoint: str | None = None) -> None:
        self._endpoint = endpoint
        self._keyring = CredentialCache(sts_endpoint)
        self._lock = Lock()
        self._known: dict[Bucket, _Found] = {}
        self._clients: dict[tuple[Bucket, RoleSession | None], tuple[Credentials, Any]] = {}

    def credentials(
        self,
        bucket: Bucket,
        tenant: str,
        prefixes: tuple[str, ...],
        now: datetime,
        needed: timedelta,
    ) -> Credentials:
        """What signs for a tenant in a bucket profile, with its real end.

        Where the profile names a role, that is a session of it that can do nothing outside of the
        tenant's prefixes. Renewed first where it would end within `needed`; it may still end
        sooner. Raises Transient where there are no credentials.
        """
        role = role_session(bucket, tenant, prefixes)
        return self._keyring.credentials(bucket.profile, role, now, needed)

    def target(self, bucket: Bucket) -> Target:
        """Where boto3 itself puts this bucket's keys; found without credentials, and once.

        Malformed where boto3 refuses the profile, or signs for it in a way that is not SigV4.
        """
        return self._found(bucket).target

    def url_signer(self, bucket: Bucket) -> Callable[..., SupportsUrlSigning]:
        """What signs this bucket's URLs as boto3 does: ours, or where they differ boto3's own."""
        return self._found(bucket).signs

    def place(self, bucket: Bucket, credentials: Credentials, life: Validity) -> SigningContext:
        """Where a chunk's grants lead, and who signs them for how long; Malformed as target."""
        return SigningContext(
            bucket, self.target(bucket), credentials, life, self.url_signer(bucket)
        )

    def client(self, bucket: Bucket, tenant: str, prefixes: tuple[str, ...], now: datetime) -> Any:
        """A boto3 client for calls to the bucket, with the credentials that sign for the tenant.

        Raises Transient where there are no credentials.
        """
        credentials = self.credentials(bucket, tenant, prefixes, now, _CALL)
        key = bucket, role_session(bucket, tenant, prefixes)
        with self._lock:
            held, client = self._clients.get(key, (None, None))
            if held != credentials:
                endpoint = bucket.internal_endpoint or self._public(bucket)
                client = _client(bucket, endpoint, credentials)
                self._clients[key] = credentials, client
            return client

    def _found(self, bucket: Bucket) -> _Found:
        with self._lock:
            if bucket not in self._known:
                self._known[bucket] = _find(bucket, self._public(bucket))
            return self._known[bucket]

    def _public(self, bucket: Bucket) -> str | None:
        amazons = bucket.fips or bucket.dualstack or bucket.accelerate
        return bucket.endpoint or (None if amazons else self._endpoint)


def _find(bucket: Bucket, endpoint: str | None) -> _Found:
    url, form_url = _probe(bucket, endpoint)
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    region, service = query["X-Amz-Credential"].split("/")[2:4]
    prefix = parts.path.removesuffix("probe")
    target = Target(parts.scheme, parts.netloc, prefix, region, service)
    issued_at = datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%S%z")
    form = FormSigner(_PROBE, target, bucket=bucket.bucket, issued_at=issued_at, expires_in=60)
    if form_url not in {None, form.sign("probe").url}:
        raise Malformed(f"boto3 has no form for bucket {bucket.bucket!r} itself: post = false")
    for signs in _SIGNERS:
        ours = signs(_PROBE, target, method="GET", issued_at=issued_at, expires_in=60)
        if ours.sign("probe").url == url:
            return _Found(target, signs)
    raise Malformed(f"boto3 signs for bucket {bucket.bucket!r} in a way of its own")


def _probe(bucket: Bucket, endpoint: str | None) -> tuple[str, str | None]:
    """What boto3 says for the key "probe": a signed URL, and where it would send a form."""
    place = {"Bucket": bucket.bucket, "Key": "probe"}
    try:
        client = _client(bucket, endpoint, _PROBE)
        url = client.generate_presigned_url("get_object", Params=place, ExpiresIn=60)
        form = client.generate_presigned_post(**place) if bucket.post else {}
    except (BotoCoreError, ValueError) as error:
        raise Malformed(f"boto3 cannot sign for bucket {bucket.bucket!r}: {error}") from error
    return url, form.get("url")


def _client(bucket: Bucket, endpoint: str | None, credentials: Credentials) -> Any:
    with credential_errors(bucket.profile):
        session = boto3.Session(profile_name=bucket.profile)
    return session.client(
        "s3",
        region_name=bucket.region,
        endpoint_url=endpoint,
        aws_access_key_id=credentials.access_key,
        aws_secret_access_key=credentials.secret_key,
        aws_session_token=credentials.token,
        config=_config(bucket, amazons=endpoint is None),
    )


def _config(bucket: Bucket, *, amazons: bool) -> Config:
    # What is not chosen here is left to the AWS profile.
    accelerated = {"use_accelerate_endpoint": True} if amazons and bucket.accelerate else {}
    return Config(
        signature_version="s3v4",
        connect_timeout=3,
        read_timeout=10,
        retries={"total_max_attempts": 2},
        use_fips_endpoint=(amazons and bucket.fips) or None,
        use_dualstack_endpoint=(amazons and bucket.dualstack) or None,
        s3={
            "addressing_style": bucket.addressing,
            "disable_s3_express_session_auth": True,  # a session would be a request
            **accelerated,
        },
    )
