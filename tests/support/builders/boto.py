"""URLs and forms signed by boto3 itself, for comparison with those of the service."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any
from urllib.parse import quote

import boto3
import pytest
from botocore.config import Config
from hypothesis import strategies as st

from valetkey.signing.sigv4 import Credentials, Target
from worker.aws.s3_clients import S3Clients
from worker.rules.tenant_config import Addressing, Bucket


def bucket_profile(
    bucket: str,
    region: str,
    addressing: Addressing = "virtual",
    endpoint: str | None = None,
    **fields: Any,
) -> Bucket:
    """Return a bucket profile; its own name makes no difference to signatures."""
    return Bucket("any", bucket, region, addressing, endpoint, **fields)


BUCKETS = (
    bucket_profile("reports", "eu-west-1"),
    bucket_profile("my.reports", "eu-west-1"),
    bucket_profile("reports", "us-east-1"),
    bucket_profile("reports", "us-east-1", "path"),
    bucket_profile("reports", "cn-north-1"),
    bucket_profile("reports", "us-gov-west-1", "path"),
    bucket_profile("reports", "eu-west-1", "path", "http://127.0.0.1:8333"),
    bucket_profile("reports", "auto", "virtual", "https://Storage.Example:443"),
    bucket_profile("reports", "eu-west-1", "virtual", "http://storage.example/s3"),
    bucket_profile("reports", "eu-west-1", "path", "http://[::1]:80/s3/"),
)
LONG_TERM = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
SESSION = Credentials("ASIAIOSFODNN7EXAMPLE", "secret/+=", "FwoGZXIvYXdzE//////+token==")
DATE_BOUNDARIES = ("2024-02-29T23:59:59Z", "2024-12-31T23:59:59.999999Z", "2025-01-01T00:00:00Z")


@dataclass(frozen=True)
class FrozenBoto:
    """boto3 with a clock that always shows issued_at. expires_in is in seconds."""

    bucket: Bucket = BUCKETS[0]
    credentials: Credentials = LONG_TERM
    issued_at: datetime = datetime(2026, 11, 24, 23, 0, 7, tzinfo=UTC)
    expires_in: int = 900

    @property
    def target(self) -> Target:
        """The address that boto3 uses for the bucket."""
        return _target(self.bucket)

    def url(self, operation: str, params: dict[str, Any], grant_id: str | None = None) -> str:
        """Return boto3's presigned URL, with x-grant-id appended before signing if it is set."""
        client = _client(self.bucket, self.credentials)
        with _freeze_clock(self.issued_at), _append_grant_id(client, grant_id):
            url: str = client.generate_presigned_url(
                operation,
                Params={"Bucket": self.bucket.bucket, **params},
                ExpiresIn=self.expires_in,
            )
        return url

    def form(self, key: str, fields: dict[str, str], conditions: list[Any]) -> dict[str, Any]:
        """Return boto3's presigned form: its URL and fields."""
        client = _client(self.bucket, self.credentials)
        with _freeze_clock(self.issued_at):
            form: dict[str, Any] = client.generate_presigned_post(
                self.bucket.bucket, key, fields, [*conditions], self.expires_in
            )
        return form


frozen_botos = st.builds(
    FrozenBoto,
    bucket=st.sampled_from(BUCKETS),
    credentials=st.sampled_from((LONG_TERM, SESSION)),
    issued_at=st.one_of(
        st.sampled_from([datetime.fromisoformat(boundary) for boundary in DATE_BOUNDARIES]),
        st.datetimes(datetime(2013, 1, 1), datetime(2099, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - hypothesis adds the zone
    ),
    expires_in=st.integers(1, 604_800),
)
texts = st.text(st.characters(codec="utf-8"), max_size=60)
object_keys = st.builds(
    lambda text, times: (text * times).encode()[:1_024].decode(errors="ignore"),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=40),
    st.sampled_from((1, 1, 1, 1_024)),
)


@cache
def _target(bucket: Bucket) -> Target:
    return S3Clients().target(bucket)


@cache
def _client(bucket: Bucket, credentials: Credentials) -> Any:
    return boto3.Session().client(
        "s3",
        region_name=bucket.region,
        endpoint_url=bucket.endpoint,
        aws_access_key_id=credentials.access_key,
        aws_secret_access_key=credentials.secret_key,
        aws_session_token=credentials.token,
        config=Config(
            signature_version="s3v4",
            use_fips_endpoint=bucket.fips,
            use_dualstack_endpoint=bucket.dualstack,
            s3={
                "addressing_style": bucket.addressing,
                "use_accelerate_endpoint": bucket.accelerate,
                "disable_s3_express_session_auth": True,
            },
        ),
    )


@contextmanager
def _freeze_clock(moment: datetime) -> Iterator[None]:
    naive = moment.replace(tzinfo=None)
    with pytest.MonkeyPatch.context() as patch:
        for module in ("auth", "signers"):
            patch.setattr(f"botocore.{module}.get_current_datetime", lambda: naive)
        yield


@contextmanager
def _append_grant_id(client: Any, grant_id: str | None) -> Iterator[None]:
    def append(request: Any, **_: Any) -> None:
        separator = "&" if "?" in request.url else "?"
        request.url += f"{separator}x-grant-id={quote(grant_id or '', safe='')}"

    if grant_id is None:
        yield
        return
    client.meta.events.register("before-sign.s3", append)
    yield
    client.meta.events.unregister("before-sign.s3", append)
