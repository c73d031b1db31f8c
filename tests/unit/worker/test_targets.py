"""Which bucket profiles the fast path signs, and which boto3 itself; all of them to the byte."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders.boto import PLACES, SESSION, Boto, place
from worker.aws.boto_signer import BotoUrlSigner
from worker.aws.clients import S3Clients
from worker.core.signing.forms import FormSigner
from worker.core.signing.sigv4 import Target
from worker.core.signing.urls import UrlSigner
from worker.core.tenants.config import Bucket
from worker.errors import Malformed

ARN = "arn:aws:s3:eu-west-1:111122223333:accesspoint/reports"
R2 = "https://0123456789abcdef.r2.cloudflarestorage.com"
FAST = {
    "AWS": place("reports", "eu-west-1"),
    "AWS in us-east-1": place("reports", "us-east-1"),
    "AWS in China": place("reports", "cn-north-1"),
    "AWS GovCloud": place("reports", "us-gov-west-1"),
    "FIPS": place("reports", "us-east-1", fips=True),
    "dual stack": place("reports", "eu-west-1", dualstack=True),
    "FIPS and dual stack": place("reports", "us-gov-west-1", fips=True, dualstack=True),
    "acceleration": place("reports", "eu-west-1", accelerate=True),
    "acceleration and dual stack": place("reports", "eu-west-1", accelerate=True, dualstack=True),
    "a dotted bucket": place("my.reports", "eu-west-1", "path"),
    "an access point": place(ARN, "eu-west-1", post=False),
    "S3 Object Lambda": place(ARN.replace(":s3:", ":s3-object-lambda:"), "eu-west-1", post=False),
    "S3 on Outposts": place(
        "arn:aws:s3-outposts:eu-west-1:111122223333:outpost/op-01234567890123456/accesspoint/ap",
        "eu-west-1",
        post=False,
    ),
    "a directory bucket": place("logs--use1-az4--x-s3", "us-east-1", post=False),
    "Cloudflare R2": place("reports", "auto", "path", R2, post=False),
    "MinIO by path": place("reports", "us-east-1", "path", "http://minio.example:9000"),
    "MinIO by host": place("reports", "us-east-1", "virtual", "http://minio.example:9000"),
    "an IPv6 endpoint": place("reports", "us-east-1", "path", "http://[2001:DB8::1]"),
    "an IPv6 endpoint with a port": place("reports", "us-east-1", "path", "http://[::1]:8333"),
    "an endpoint with the default port": place(
        "reports", "us-east-1", "path", "https://s3.example:443"
    ),
}
# All that is left for boto3: it writes these ports otherwise in the signature than in the URL.
BOTO = {
    "a port with a leading zero": place("reports", "us-east-1", "path", "http://s3.example:08333"),
    "a colon without a port": place("reports", "us-east-1", "path", "https://s3.example:"),
}
ALL = FAST | BOTO
KEY = "acme/ü 1+1=2.pdf"


@pytest.mark.parametrize("name", FAST)
def test_the_fast_path_takes(name: str) -> None:
    assert S3Clients().url_signer(FAST[name]) is UrlSigner


@pytest.mark.parametrize("name", BOTO)
def test_boto3_takes(name: str) -> None:
    assert S3Clients().url_signer(BOTO[name]) is BotoUrlSigner


@pytest.mark.parametrize("name", ALL)
def test_a_download_is_boto3s_to_the_byte(name: str) -> None:
    boto, own = Boto(ALL[name], SESSION), {"response-content-type": "text/a b", "x-grant-id": "b.7"}
    expected = boto.url("get_object", {"Key": KEY, "ResponseContentType": "text/a b"}, "b.7")
    assert signer(boto, "GET", query={"x-grant-id": "b.0"}).sign(KEY, own).url == expected


@pytest.mark.parametrize("name", ALL)
def test_a_put_is_boto3s_to_the_byte(name: str) -> None:
    boto = Boto(ALL[name])
    expected = boto.url("put_object", {"Key": KEY, "ContentLength": 7, "ContentType": "a/b"})
    ours = signer(boto, "PUT", headers={"content-type": "a/b"}).sign(
        KEY, {}, {"Content-Length": "7"}
    )
    assert ours.url == expected


@pytest.mark.parametrize("name", [name for name, bucket in ALL.items() if bucket.post])
def test_a_form_is_boto3s_to_the_byte(name: str) -> None:
    boto = Boto(ALL[name], SESSION)
    expected = boto.form(KEY, {}, [["content-length-range", 1, 9]])
    forms = FormSigner(
        boto.credentials,
        boto.target,
        bucket=boto.place.bucket,
        issued_at=boto.issued_at,
        expires_in=boto.expires_in,
        conditions=[["content-length-range", 1, 9]],
    )
    form = forms.sign(KEY)
    assert {"url": form.url, "fields": form.fields} == expected


def signer(boto: Boto, method: str, **common: Any) -> Any:
    return S3Clients().url_signer(boto.place)(
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
        (PLACES[0], Target("https", "reports.s3.eu-west-1.amazonaws.com", "/", "eu-west-1")),
        (PLACES[1], Target("https", "s3.eu-west-1.amazonaws.com", "/my.reports/", "eu-west-1")),
        (PLACES[3], Target("https", "s3.amazonaws.com", "/reports/", "us-east-1")),
        (PLACES[4], Target("https", "reports.s3.cn-north-1.amazonaws.com.cn", "/", "cn-north-1")),
        (PLACES[6], Target("http", "127.0.0.1:8333", "/reports/", "eu-west-1")),
        (
            FAST["a directory bucket"],
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
def test_a_bucket_is_where_boto3_puts_it_without_any_credentials(
    bucket: Bucket, target: Target
) -> None:
    assert S3Clients().target(bucket) == target


def test_an_endpoint_of_the_aws_profile_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config"
    config.write_text("[profile onsite]\nendpoint_url = https://s3.onsite.example:9000\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    bucket = place("reports", "eu-west-1", "path", profile="onsite")
    assert S3Clients().target(bucket).host == "s3.onsite.example:9000"


def test_a_bucket_without_an_endpoint_is_at_the_services_own() -> None:
    assert S3Clients("http://127.0.0.1:8333").target(PLACES[3]).host == "127.0.0.1:8333"


def test_a_bucket_that_chooses_among_amazons_endpoints_is_at_amazon() -> None:
    host = S3Clients("http://127.0.0.1:8333").target(FAST["FIPS"]).host
    assert host == "reports.s3-fips.us-east-1.amazonaws.com"


def test_a_target_is_found_once() -> None:
    s3 = S3Clients()
    assert s3.target(place("reports", "eu-west-1")) is s3.target(place("reports", "eu-west-1"))


@pytest.mark.parametrize(
    "wrong",
    [
        place("a b", "eu-west-1"),
        place("reports", "x y"),
        place("reports", "eu-west-1", "virtual", "ftp"),
        place("reports", "cn-north-1", accelerate=True),
        place(ARN, "eu-west-1"),
    ],
)
def test_a_profile_that_boto3_refuses_is_malformed(wrong: Bucket) -> None:
    with pytest.raises(Malformed, match="cannot sign"):
        S3Clients().target(wrong)


def test_a_form_that_would_not_go_to_the_bucket_is_malformed() -> None:
    with pytest.raises(Malformed, match="post = false"):
        S3Clients().target(place("logs--use1-az4--x-s3", "us-east-1"))


def test_boto3s_own_signer_signs_for_the_moment_it_is_given() -> None:
    moments = [datetime(2026, 11, 24, 12, 0, second, tzinfo=UTC) for second in (0, 0, 1)]
    boto = Boto(BOTO["a colon without a port"])
    first, again, later = (
        signer(Boto(boto.place, issued_at=moment), "GET").sign(KEY).url for moment in moments
    )
    assert first == again
    assert "X-Amz-Date=20261124T120001Z" in later
