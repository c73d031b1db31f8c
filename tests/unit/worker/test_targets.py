"""Signing for every kind of bucket profile, by UrlSigner or by boto3's own signer."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders.boto import BUCKETS, SESSION, FrozenBoto, bucket_profile
from worker.aws.boto_signer import BotoUrlSigner
from worker.aws.clients import S3Clients
from worker.core.signing.forms import FormSigner
from worker.core.signing.sigv4 import Target
from worker.core.signing.urls import UrlSigner
from worker.core.signing.validity import Validity
from worker.core.tenants.config import Bucket
from worker.errors import Malformed

ARN = "arn:aws:s3:eu-west-1:111122223333:accesspoint/reports"
R2 = "https://0123456789abcdef.r2.cloudflarestorage.com"
URL_SIGNER_BUCKETS = {
    "AWS": bucket_profile("reports", "eu-west-1"),
    "AWS in us-east-1": bucket_profile("reports", "us-east-1"),
    "AWS in China": bucket_profile("reports", "cn-north-1"),
    "AWS GovCloud": bucket_profile("reports", "us-gov-west-1"),
    "FIPS": bucket_profile("reports", "us-east-1", fips=True),
    "dual stack": bucket_profile("reports", "eu-west-1", dualstack=True),
    "FIPS and dual stack": bucket_profile("reports", "us-gov-west-1", fips=True, dualstack=True),
    "acceleration": bucket_profile("reports", "eu-west-1", accelerate=True),
    "acceleration and dual stack": bucket_profile(
        "reports", "eu-west-1", accelerate=True, dualstack=True
    ),
    "a dotted bucket": bucket_profile("my.reports", "eu-west-1", "path"),
    "an access point": bucket_profile(ARN, "eu-west-1", post=False),
    "S3 Object Lambda": bucket_profile(
        ARN.replace(":s3:", ":s3-object-lambda:"), "eu-west-1", post=False
    ),
    "S3 on Outposts": bucket_profile(
        "arn:aws:s3-outposts:eu-west-1:111122223333:outpost/op-01234567890123456/accesspoint/ap",
        "eu-west-1",
        post=False,
    ),
    "a directory bucket": bucket_profile("logs--use1-az4--x-s3", "us-east-1", post=False),
    "Cloudflare R2": bucket_profile("reports", "auto", "path", R2, post=False),
    "MinIO by path": bucket_profile("reports", "us-east-1", "path", "http://minio.example:9000"),
    "MinIO by host": bucket_profile("reports", "us-east-1", "virtual", "http://minio.example:9000"),
    "an IPv6 endpoint": bucket_profile("reports", "us-east-1", "path", "http://[2001:DB8::1]"),
    "an IPv6 endpoint with a port": bucket_profile(
        "reports", "us-east-1", "path", "http://[::1]:8333"
    ),
    "an endpoint with the default port": bucket_profile(
        "reports", "us-east-1", "path", "https://s3.example:443"
    ),
}
# For these, boto3 writes the port in the signature differently than in the URL.
BOTO_SIGNER_BUCKETS = {
    "a port with a leading zero": bucket_profile(
        "reports", "us-east-1", "path", "http://s3.example:08333"
    ),
    "a colon without a port": bucket_profile("reports", "us-east-1", "path", "https://s3.example:"),
}
ALL_BUCKETS = URL_SIGNER_BUCKETS | BOTO_SIGNER_BUCKETS
KEY = "acme/ü 1+1=2.pdf"


@pytest.mark.parametrize("name", URL_SIGNER_BUCKETS)
def test_url_signer_signs_for_this_bucket(name: str) -> None:
    assert signer_class(URL_SIGNER_BUCKETS[name]) is UrlSigner


@pytest.mark.parametrize("name", BOTO_SIGNER_BUCKETS)
def test_boto3s_own_signer_signs_for_this_bucket(name: str) -> None:
    assert signer_class(BOTO_SIGNER_BUCKETS[name]) is BotoUrlSigner


@pytest.mark.parametrize("name", ALL_BUCKETS)
def test_a_download_is_byte_equal_to_boto3s(name: str) -> None:
    boto = FrozenBoto(ALL_BUCKETS[name], SESSION)
    query = {"response-content-type": "text/a b", "x-grant-id": "b.7"}
    expected = boto.url("get_object", {"Key": KEY, "ResponseContentType": "text/a b"}, "b.7")
    assert signer_of(boto, "GET", query={"x-grant-id": "b.0"}).sign(KEY, query).url == expected


# One bucket for each signer: the links with parameters are compared for all.
@pytest.mark.parametrize("name", ["AWS", "a colon without a port"])
def test_a_plain_link_is_byte_equal_to_boto3s(name: str) -> None:
    boto = FrozenBoto(ALL_BUCKETS[name], SESSION)
    assert signer_of(boto, "GET").sign(KEY).url == boto.url("get_object", {"Key": KEY})


@pytest.mark.parametrize("name", ALL_BUCKETS)
def test_a_put_is_byte_equal_to_boto3s(name: str) -> None:
    boto = FrozenBoto(ALL_BUCKETS[name])
    expected = boto.url("put_object", {"Key": KEY, "ContentLength": 7, "ContentType": "a/b"})
    signed = signer_of(boto, "PUT", headers={"content-type": "a/b"}).sign(
        KEY, {}, {"Content-Length": "7"}
    )
    assert signed.url == expected


@pytest.mark.parametrize("name", [name for name, bucket in ALL_BUCKETS.items() if bucket.post])
def test_a_form_is_byte_equal_to_boto3s(name: str) -> None:
    boto = FrozenBoto(ALL_BUCKETS[name], SESSION)
    expected = boto.form(KEY, {}, [["content-length-range", 1, 9]])
    forms = FormSigner(
        boto.credentials,
        boto.target,
        bucket=boto.bucket.bucket,
        issued_at=boto.issued_at,
        expires_in=boto.expires_in,
        conditions=[["content-length-range", 1, 9]],
    )
    form = forms.sign(KEY)
    assert {"url": form.url, "fields": form.fields} == expected


def signer_class(bucket: Bucket) -> Any:
    validity = Validity(datetime(2026, 11, 24, tzinfo=UTC), 60, "request")
    return S3Clients().signing_context(bucket, SESSION, validity).url_signer


def signer_of(boto: FrozenBoto, method: str, **common: Any) -> Any:
    return signer_class(boto.bucket)(
        boto.credentials,
        boto.target,
        method=method,
        issued_at=boto.issued_at,
        expires_in=boto.expires_in,
        **common,
    )


@pytest.mark.parametrize(
    ("bucket", "target"),
    [
        (BUCKETS[0], Target("https", "reports.s3.eu-west-1.amazonaws.com", "/", "eu-west-1")),
        (BUCKETS[1], Target("https", "s3.eu-west-1.amazonaws.com", "/my.reports/", "eu-west-1")),
        (BUCKETS[3], Target("https", "s3.amazonaws.com", "/reports/", "us-east-1")),
        (BUCKETS[4], Target("https", "reports.s3.cn-north-1.amazonaws.com.cn", "/", "cn-north-1")),
        (BUCKETS[6], Target("http", "127.0.0.1:8333", "/reports/", "eu-west-1")),
        (
            URL_SIGNER_BUCKETS["a directory bucket"],
            Target(
                "https",
                "logs--use1-az4--x-s3.s3express-use1-az4.us-east-1.amazonaws.com",
                "/",
                "us-east-1",
                "s3express",
            ),
        ),
    ],
)
def test_the_target_is_boto3s_and_needs_no_credentials(bucket: Bucket, target: Target) -> None:
    assert S3Clients().target(bucket) == target


def test_the_endpoint_of_the_aws_profile_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config"
    config.write_text("[profile onsite]\nendpoint_url = https://s3.onsite.example:9000\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    bucket = bucket_profile("reports", "eu-west-1", "path", profile="onsite")
    assert S3Clients().target(bucket).host == "s3.onsite.example:9000"


def test_a_bucket_without_an_endpoint_is_at_the_services_endpoint() -> None:
    assert S3Clients("http://127.0.0.1:8333").target(BUCKETS[3]).host == "127.0.0.1:8333"


def test_a_bucket_with_an_option_of_aws_ignores_the_services_endpoint() -> None:
    host = S3Clients("http://127.0.0.1:8333").target(URL_SIGNER_BUCKETS["FIPS"]).host
    assert host == "reports.s3-fips.us-east-1.amazonaws.com"


def test_a_target_is_determined_once() -> None:
    s3 = S3Clients()
    assert s3.target(bucket_profile("reports", "eu-west-1")) is s3.target(
        bucket_profile("reports", "eu-west-1")
    )


@pytest.mark.parametrize(
    "bucket",
    [
        bucket_profile("a b", "eu-west-1"),
        bucket_profile("reports", "x y"),
        bucket_profile("reports", "eu-west-1", "virtual", "ftp"),
        bucket_profile("reports", "cn-north-1", accelerate=True),
        bucket_profile(ARN, "eu-west-1"),
    ],
)
def test_a_bucket_profile_that_boto3_rejects_is_malformed(bucket: Bucket) -> None:
    with pytest.raises(Malformed, match="cannot sign"):
        S3Clients().target(bucket)


def test_a_bucket_that_boto3_makes_no_form_for_is_malformed() -> None:
    with pytest.raises(Malformed, match="post = false"):
        S3Clients().target(bucket_profile("logs--use1-az4--x-s3", "us-east-1"))


def test_boto3s_own_signer_signs_for_issued_at_and_not_for_the_current_time() -> None:
    moments = [datetime(2026, 11, 24, 12, 0, second, tzinfo=UTC) for second in (0, 0, 1)]
    boto = FrozenBoto(BOTO_SIGNER_BUCKETS["a colon without a port"])
    first, again, later = (
        signer_of(FrozenBoto(boto.bucket, issued_at=moment), "GET").sign(KEY).url
        for moment in moments
    )
    assert first == again
    assert "X-Amz-Date=20261124T120001Z" in later
