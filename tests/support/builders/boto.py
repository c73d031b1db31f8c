"""What boto3 itself signs, with a given place, credentials and second."""

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

from worker.aws.clients import S3Clients
from worker.core.signing.sigv4 import Credentials, Target
from worker.core.tenants.config import Addressing, Bucket


def place(
    bucket: str,
    region: str,
    addressing: Addressing = "virtual",
    endpoint: str | None = None,
    **more: Any,
) -> Bucket:
    """A bucket profile of any name."""
    return Bucket("any", bucket, region, addressing, endpoint, **more)


PLACES = (
    place("reports", "eu-west-1"),
    place("my.reports", "eu-west-1"),
    place("reports", "us-east-1"),
    place("reports", "us-east-1", "path"),
    place("reports", "cn-north-1"),
    place("reports", "us-gov-west-1", "path"),
    place("reports", "eu-west-1", "path", "http://127.0.0.1:8333"),
    place("reports", "auto", "virtual", "https://Storage.Example:443"),
    place("reports", "eu-west-1", "virtual", "http://storage.example/s3"),
    place("reports", "eu-west-1", "path", "http://[::1]:80/s3/"),
)
LONG_TERM = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
SESSION = Credentials("ASIAIOSFODNN7EXAMPLE", "secret/+=", "FwoGZXIvYXdzE//////+token==")
BOUNDARIES = ("2024-02-29T23:59:59Z", "2024-12-31T23:59:59.999999Z", "2025-01-01T00:00:00Z")


@dataclass(frozen=True)
class Boto:
    """boto3 with its clock stopped."""

    place: Bucket = PLACES[0]
    credentials: Credentials = LONG_TERM
    issued_at: datetime = datetime(2026, 11, 24, 23, 0, 7, tzinfo=UTC)
    expires_in: int = 900

    @property
    def target(self) -> Target:
        return _target(self.place)

    def url(self, operation: str, params: dict[str, Any], grant_id: str | None = None) -> str:
        client = _client(self.place, self.credentials)
        with _clock_at(self.issued_at), _grant_id_in_urls(client, grant_id):
            url: str = client.generate_presigned_url(
                operation,
                Params={"Bucket": self.place.bucket, **params},
                ExpiresIn=self.expires_in,
            )
        return url

    def form(self, key: str, fields: dict[str, str], conditions: list[Any]) -> dict[str, Any]:
        client = _client(self.place, self.credentials)
        with _clock_at(self.issued_at):
            form: dict[str, Any] = client.generate_presigned_post(
                self.place.bucket, key, fields, [*conditions], self.expires_in
            )
        return form


botos = st.builds(
    Boto,
    place=st.sampled_from(PLACES),
    credentials=st.sampled_from((LONG_TERM, SESSION)),
    issued_at=st.one_of(
        st.sampled_from([datetime.fromisoformat(boundary) for boundary in BOUNDARIES]),
        st.datetimes(datetime(2013, 1, 1), datetime(2099, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - hypothesis adds the zone
    ),
    expires_in=st.integers(1, 604_800),
)
texts = st.text(st.characters(codec="utf-8"), max_size=60)
keys = st.builds(
    lambda text, times: (text * times).encode()[:1_024].decode(errors="ignore"),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=40),
    st.sampled_from((1, 1, 1, 1_024)),
)


@cache
def _target(place: Bucket) -> Target:
    return S3Clients().target(place)


@cache
def _client(place: Bucket, credentials: Credentials) -> Any:
    return boto3.Session().client(
        "s3",
        region_name=place.region,
        endpoint_url=place.endpoint,
        aws_access_key_id=credentials.access_key,
        aws_secret_access_key=credentials.secret_key,
        aws_session_token=credentials.token,
        config=Config(
            signature_version="s3v4",
            use_fips_endpoint=place.fips,
            use_dualstack_endpoint=place.dualstack,
            s3={
                "addressing_style": place.addressing,
                "use_accelerate_endpoint": place.accelerate,
                "disable_s3_express_session_auth": True,
            },
        ),
    )


@contextmanager
def _clock_at(moment: datetime) -> Iterator[None]:
    naive = moment.replace(tzinfo=None)
    with pytest.MonkeyPatch.context() as patch:
        for module in ("auth", "signers"):
            patch.setattr(f"botocore.{module}.get_current_datetime", lambda: naive)
        yield


@contextmanager
def _grant_id_in_urls(client: Any, grant_id: str | None) -> Iterator[None]:
    def append(request: Any, **_: Any) -> None:
        separator = "&" if "?" in request.url else "?"
        request.url += f"{separator}x-grant-id={quote(grant_id or '', safe='')}"

    if grant_id is None:
        yield
        return
    client.meta.events.register("before-sign.s3", append)
    yield
    client.meta.events.unregister("before-sign.s3", append)
