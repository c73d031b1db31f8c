"""The boto3 clients with which the worker itself calls storage."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ProfileNotFound

from tests.support.builders.boto import SESSION, FrozenBoto, bucket_profile
from tests.support.fakes.credential_process import CredentialProcess
from valetkey.signing.signing_context import Validity
from valetkey.signing.sigv4 import FormSigner, UrlSigner
from worker.aws.credentials import create_session, load_service_files
from worker.aws.s3_clients import S3Clients
from worker.errors import Malformed
from worker.rules.tenant_config import Bucket

MINUTE = timedelta(minutes=1)
LOOPBACK, MINIO, SEAWEED = "http://127.0.0.1:8333", "http://minio:9000", "http://seaweedfs:8333"
BUCKET = bucket_profile("reports", "us-east-1", "path", "https://s3.example.com", profile="vault")


@pytest.fixture(autouse=True)
def vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CredentialProcess:
    vault = CredentialProcess(tmp_path, monkeypatch)
    vault.write_credentials("ASIA1", datetime.now(UTC) + 12 * MINUTE)
    return vault


def get_client(
    s3: S3Clients, bucket: Bucket = BUCKET, tenant: str = "acme", delay: timedelta = timedelta()
) -> Any:
    return s3.client(bucket, tenant, ("acme/",), datetime.now(UTC) + delay)


@pytest.mark.parametrize(
    ("settings", "changes", "endpoint"),
    [
        ((LOOPBACK,), {"internal_endpoint": MINIO}, MINIO),
        ((LOOPBACK,), {}, "https://s3.example.com"),
        ((LOOPBACK,), {"endpoint": None}, LOOPBACK),
        ((LOOPBACK, None, SEAWEED), {"endpoint": None}, SEAWEED),
        ((LOOPBACK, None, SEAWEED), {"endpoint": None, "internal_endpoint": MINIO}, MINIO),
        ((LOOPBACK, None, SEAWEED), {}, "https://s3.example.com"),
        ((LOOPBACK, None, SEAWEED), {"endpoint": None, "fips": True}, "https://s3-fips."),
    ],
)
def test_the_worker_calls_the_internal_endpoint_that_belongs_to_the_public_one_or_else_that(
    settings: tuple[str | None, ...], changes: dict[str, Any], endpoint: str
) -> None:
    client = get_client(S3Clients(*settings), replace(BUCKET, **changes))
    assert client.meta.endpoint_url.startswith(endpoint)


def test_links_have_the_address_of_aws_if_only_calls_have_another() -> None:
    s3 = S3Clients(internal_endpoint="https://bucket.vpce-1.s3.us-east-1.vpce.amazonaws.com")
    bucket = replace(BUCKET, endpoint=None)
    assert get_client(s3, bucket).meta.endpoint_url.startswith("https://bucket.vpce-1.s3.")
    assert s3.target(bucket).host == "s3.amazonaws.com"


@pytest.mark.parametrize(
    ("s3", "bucket"),
    [
        (S3Clients(), replace(BUCKET, internal_endpoint=MINIO)),
        (S3Clients("https://s3.example.com", None, MINIO), replace(BUCKET, endpoint=None)),
    ],
)
def test_signed_urls_never_have_the_internal_endpoint(s3: S3Clients, bucket: Bucket) -> None:
    assert s3.target(bucket).host == "s3.example.com"


def test_a_client_is_cached_and_without_a_role_shared_by_all_tenants() -> None:
    s3 = S3Clients()
    assert get_client(s3) is get_client(s3, tenant="globex")


def test_a_client_is_replaced_when_its_credentials_are_renewed(vault: CredentialProcess) -> None:
    s3 = S3Clients()
    first = get_client(s3)
    vault.write_credentials("ASIA2", datetime.now(UTC) + 120 * MINUTE)
    second = get_client(s3, delay=8 * MINUTE)
    assert second is not first
    assert second._get_credentials().access_key == "ASIA2"


@pytest.mark.parametrize(
    ("changes", "endpoint", "is_aws"),
    [
        ({"endpoint": None}, None, True),
        ({"endpoint": None}, "https://s3.eu-central-1.amazonaws.com", True),
        ({"endpoint": None}, "https://s3.example.com", False),
        ({"endpoint": None, "fips": True}, "https://s3.example.com", True),
        ({"endpoint": "https://s3.example.com", "provider": "other"}, None, False),
        ({"endpoint": "https://s3.example.com", "provider": "aws"}, None, True),
    ],
)
def test_a_profile_is_on_aws_if_its_endpoint_is_or_it_says_so_beside_one(
    changes: dict[str, Any],
    endpoint: str | None,
    is_aws: bool,  # noqa: FBT001 - a parameter
) -> None:
    assert S3Clients(endpoint).is_aws(replace(BUCKET, **changes)) is is_aws


def test_sessions_share_the_files_of_botocore_and_grow_no_list() -> None:
    first, second = create_session("vault"), create_session("vault")
    loaders = [session._session.get_component("data_loader") for session in (first, second)]
    assert loaders[0] is loaders[1]
    assert len(set(loaders[0].search_paths)) == len(loaders[0].search_paths) == 2


def test_a_profile_that_does_not_exist_is_found_when_its_session_is_created() -> None:
    with pytest.raises(ProfileNotFound):
        create_session("none")


@pytest.mark.parametrize(
    ("variable", "value"),
    [("AWS_PROFILE", "none"), ("AWS_ENDPOINT_URL_S3", "example.com"), ("AWS_MAX_ATTEMPTS", "many")],
)
def test_wrong_settings_of_aws_keep_no_worker_from_starting(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    load_service_files()


ARN = "arn:aws:s3:eu-west-1:111122223333:accesspoint/reports"
LAMBDA_ARN = ARN.replace(":s3:", ":s3-object-lambda:")
OUTPOST_ARN = (
    "arn:aws:s3-outposts:eu-west-1:111122223333:outpost/op-01234567890123456/accesspoint/ap"
)
R2 = "https://0123456789abcdef.r2.cloudflarestorage.com"


def at_endpoint(endpoint: str) -> Bucket:
    return bucket_profile("reports", "us-east-1", "path", endpoint)


BUCKETS = {
    "AWS": bucket_profile("reports", "eu-west-1"),
    "AWS in us-east-1": bucket_profile("reports", "us-east-1"),
    "AWS in China": bucket_profile("reports", "cn-north-1"),
    "AWS GovCloud": bucket_profile("reports", "us-gov-west-1"),
    "FIPS": bucket_profile("reports", "us-east-1", fips=True),
    "dual stack": bucket_profile("reports", "eu-west-1", dualstack=True),
    "FIPS and dual stack": bucket_profile("reports", "us-gov-west-1", fips=True, dualstack=True),
    "acceleration": bucket_profile("reports", "eu-west-1", accelerate=True),
    "both of them": bucket_profile("reports", "eu-west-1", accelerate=True, dualstack=True),
    "a dotted bucket": bucket_profile("my.reports", "eu-west-1", "path"),
    "an access point": bucket_profile(ARN, "eu-west-1", post=False),
    "S3 Object Lambda": bucket_profile(LAMBDA_ARN, "eu-west-1", post=False),
    "S3 on Outposts": bucket_profile(OUTPOST_ARN, "eu-west-1", post=False),
    "a directory bucket": bucket_profile("logs--use1-az4--x-s3", "us-east-1", post=False),
    "Cloudflare R2": bucket_profile("reports", "auto", "path", R2, post=False),
    "MinIO by host": bucket_profile("reports", "us-east-1", "virtual", "http://minio.example:9000"),
    "MinIO by path": at_endpoint("http://minio.example:9000"),
    "an IPv6 endpoint": at_endpoint("http://[2001:DB8::1]"),
    "an IPv6 endpoint with a port": at_endpoint("http://[::1]:8333"),
    "an endpoint with the default port": at_endpoint("https://s3.example:443"),
    # For these, boto3 writes the port in the signature differently than in the URL.
    "a port with a leading zero": at_endpoint("http://s3.example:08333"),
    "a colon without a port": at_endpoint("https://s3.example:"),
}
KEY = "acme/ü 1+1=2.pdf"


@pytest.mark.parametrize("name", BUCKETS)
def test_a_download_is_byte_equal_to_boto3s(name: str) -> None:
    boto = FrozenBoto(BUCKETS[name], SESSION)
    query = {"response-content-type": "text/a b", "x-grant-id": "b.7"}
    expected = boto.url("get_object", {"Key": KEY, "ResponseContentType": "text/a b"}, "b.7")
    assert signer_of(boto, "GET", query={"x-grant-id": "b.0"}).sign(KEY, query).url == expected


@pytest.mark.parametrize("name", ["AWS", "a colon without a port"])
def test_a_plain_link_is_byte_equal_to_boto3s(name: str) -> None:
    boto = FrozenBoto(BUCKETS[name], SESSION)
    assert signer_of(boto, "GET").sign(KEY).url == boto.url("get_object", {"Key": KEY})


@pytest.mark.parametrize("name", BUCKETS)
def test_a_put_is_byte_equal_to_boto3s(name: str) -> None:
    boto = FrozenBoto(BUCKETS[name])
    expected = boto.url("put_object", {"Key": KEY, "ContentLength": 7, "ContentType": "a/b"})
    signer = signer_of(boto, "PUT", headers={"content-type": "a/b"})
    assert signer.sign(KEY, {}, {"Content-Length": "7"}).url == expected


@pytest.mark.parametrize("name", [name for name, bucket in BUCKETS.items() if bucket.post])
def test_a_form_is_byte_equal_to_boto3s(name: str) -> None:
    boto = FrozenBoto(BUCKETS[name], SESSION)
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


def signer_of(boto: FrozenBoto, method: str, **common: Any) -> UrlSigner:
    validity = Validity(boto.issued_at, boto.expires_in, "request")
    context = S3Clients().signing_context(boto.bucket, boto.credentials, validity)
    return context.signer_for(method, **common)


def test_the_endpoint_of_the_aws_profile_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config"
    config.write_text("[profile onsite]\nendpoint_url = https://s3.onsite.example:9000\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    bucket = bucket_profile("reports", "eu-west-1", "path", profile="onsite")
    assert S3Clients().target(bucket).host == "s3.onsite.example:9000"


@pytest.mark.parametrize(
    ("name", "host"),
    [("AWS", "127.0.0.1:8333"), ("FIPS", "reports.s3-fips.us-east-1.amazonaws.com")],
)
def test_a_bucket_is_at_the_services_endpoint_unless_it_has_an_option_of_aws(
    name: str, host: str
) -> None:
    assert S3Clients("http://127.0.0.1:8333").target(BUCKETS[name]).host == host


def test_a_target_is_determined_once() -> None:
    s3 = S3Clients()
    first, second = (s3.target(bucket_profile("reports", "eu-west-1")) for _ in range(2))
    assert first is second


@pytest.mark.parametrize(
    ("bucket", "problem"),
    [
        (bucket_profile("a b", "eu-west-1"), "cannot sign"),
        (bucket_profile("reports", "x y"), "cannot sign"),
        (bucket_profile("reports", "eu-west-1", "virtual", "ftp"), "cannot sign"),
        (bucket_profile("reports", "cn-north-1", accelerate=True), "cannot sign"),
        (bucket_profile(ARN, "eu-west-1"), "cannot sign"),
        (bucket_profile("logs--use1-az4--x-s3", "us-east-1"), "post = false"),
    ],
)
def test_a_bucket_profile_that_boto3_does_not_sign_for_is_malformed(
    bucket: Bucket, problem: str
) -> None:
    with pytest.raises(Malformed, match=problem):
        S3Clients().target(bucket)
