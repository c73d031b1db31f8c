"""What signing asks of boto3: whose credentials sign, and where a bucket's keys live."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

import boto3
from botocore.config import Config
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import BotoCoreError, NoCredentialsError

from worker.core.sigv4 import Credentials, Target
from worker.core.urls import UrlSigner
from worker.errors import Malformed, Transient

# Where a profile's longest life is below what is asked, every grant would ask STS for a new one.
# So a grant may get this much less life than it could have had.
BETWEEN_LOOKS = timedelta(minutes=1)

_PROBE = Credentials("probe", "probe")


class Bucket(Protocol):
    """A bucket profile; addressing is "virtual" or "path", profile is AWS's named one."""

    @property
    def bucket(self) -> str: ...  # noqa: D102 - the class says it, here and below
    @property
    def region(self) -> str: ...  # noqa: D102
    @property
    def endpoint(self) -> str | None: ...  # noqa: D102
    @property
    def addressing(self) -> str: ...  # noqa: D102
    @property
    def profile(self) -> str | None: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class _Source:
    """What boto3's chain found, which refreshes itself, and when it was looked for."""

    botocore: Any = field(repr=False)
    looked_at: datetime


class S3:
    """boto3's side of signing in one process: make it after fork; threads may share it.

    Nothing else touches the credentials it holds, and it lets one thread at a time do so, because
    botocore tells a key and its end apart. The price: a refresh makes other threads wait.
    endpoint is that of buckets that name none; without it, they are where the AWS profile says.
    """

    def __init__(self, endpoint: str | None = None) -> None:
        self._endpoint = endpoint
        self._lock = Lock()
        self._sources: dict[str | None, _Source] = {}
        self._targets: dict[tuple[str | None, ...], Target] = {}

    def credentials(self, profile: str | None, now: datetime, needed: timedelta) -> Credentials:
        """The credentials of a named profile, or of boto3's default chain, with their real end.

        They are refreshed first where they would end within `needed`, and may still end sooner.
        Transient where there are none.
        """
        with self._lock:
            source = self._sources.get(profile)
            if source is None:
                return self._look(profile, now)
            held = _read(source.botocore, profile)
            enough = held.expires_at is None or held.expires_at >= now + needed
            if enough or now - source.looked_at < BETWEEN_LOOKS:
                return held
            try:
                return self._look(profile, now)
            except Transient:  # no reason to refuse a shorter life
                self._sources[profile] = replace(source, looked_at=now)
                return held

    def target(self, bucket: Bucket) -> Target:
        """Where boto3 itself puts this bucket's keys; found without credentials, and once.

        Malformed where boto3 refuses the profile, or signs its URLs in another way than we do.
        """
        endpoint = bucket.endpoint or self._endpoint
        place = (bucket.profile, bucket.bucket, bucket.region, endpoint, bucket.addressing)
        with self._lock:
            if place not in self._targets:
                self._targets[place] = _probe(bucket, endpoint)
            return self._targets[place]

    def _look(self, profile: str | None, now: datetime) -> Credentials:
        with _naming(profile):
            found = boto3.Session(profile_name=profile).get_credentials()
        credentials = _read(found, profile)
        self._sources[profile] = _Source(found, looked_at=now)
        return credentials


def _read(found: Any, profile: str | None) -> Credentials:
    with _naming(profile):
        if found is None:
            raise NoCredentialsError
        frozen = found.get_frozen_credentials()
    return Credentials(frozen.access_key, frozen.secret_key, frozen.token, _end(found))


def _end(found: Any) -> datetime | None:
    """When credentials end; botocore keeps it to itself, and a test fails if it moves."""
    if not isinstance(found, RefreshableCredentials):
        return None
    end: datetime = found._expiry_time  # noqa: SLF001 - there is no public way
    return end.astimezone(UTC)


@contextmanager
def _naming(profile: str | None) -> Iterator[None]:
    """Say whose credentials cannot be had; not why, as providers quote what they read."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a provider may raise anything
        reason = type(error).__name__
        raise Transient(
            f"no credentials for AWS profile {profile or 'default'!r}: {reason}"
        ) from None


def _probe(bucket: Bucket, endpoint: str | None) -> Target:
    try:
        url = _client(bucket, endpoint).generate_presigned_url(
            "get_object", Params={"Bucket": bucket.bucket, "Key": "probe"}, ExpiresIn=60
        )
    except (BotoCoreError, ValueError) as error:
        raise Malformed(f"boto3 cannot sign for bucket {bucket.bucket!r}: {error}") from error
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    region = query["X-Amz-Credential"].split("/")[2]
    target = Target(parts.scheme, parts.netloc, parts.path.removesuffix("probe"), region)
    issued_at = datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%S%z")
    ours = UrlSigner(_PROBE, target, method="GET", issued_at=issued_at, expires_in=60)
    if ours.sign("probe").url != url:
        raise Malformed(f"boto3 signs for bucket {bucket.bucket!r} in a way of its own")
    return target


def _client(bucket: Bucket, endpoint: str | None) -> Any:
    with _naming(bucket.profile):
        session = boto3.Session(profile_name=bucket.profile)
    return session.client(
        "s3",
        region_name=bucket.region,
        endpoint_url=endpoint,
        aws_access_key_id=_PROBE.access_key,
        aws_secret_access_key=_PROBE.secret_key,
        config=Config(
            signature_version="s3v4",
            s3={
                "addressing_style": bucket.addressing,
                "disable_s3_express_session_auth": True,  # a session would be a request
            },
        ),
    )
