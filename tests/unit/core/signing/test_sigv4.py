"""Presigned URLs are boto3's to the byte, and AWS's own example comes out."""

import string
from datetime import UTC, datetime, timedelta, timezone
from random import Random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.builders.boto import LONG_TERM, SESSION, Boto, botos, keys, texts
from worker.core.signing.sigv4 import Target
from worker.core.signing.urls import UrlSigner

OVERRIDES = {
    "ResponseCacheControl": "response-cache-control",
    "ResponseContentDisposition": "response-content-disposition",
    "ResponseContentEncoding": "response-content-encoding",
    "ResponseContentLanguage": "response-content-language",
    "ResponseContentType": "response-content-type",
    "VersionId": "versionId",
}
HEADERS = {
    "CacheControl": "Cache-Control",
    "ContentDisposition": "Content-Disposition",
    "ContentType": "Content-Type",
    "ExpectedBucketOwner": "x-amz-expected-bucket-owner",
    "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id",
    "Tagging": "x-amz-tagging",
}
sent = st.text(string.ascii_letters + string.digits + " \t{}/;=%\"'+", min_size=1, max_size=40)
often = settings(max_examples=1_000)


def signer(boto: Boto, method: str, **common: Any) -> UrlSigner:
    return UrlSigner(
        boto.credentials,
        boto.target,
        method=method,
        issued_at=boto.issued_at,
        expires_in=boto.expires_in,
        **common,
    )


def test_the_get_example_of_aws_comes_out() -> None:
    # AWS: sigv4-query-string-auth.html, "An example of a presigned URL"
    signed = UrlSigner(
        LONG_TERM,
        Target("https", "examplebucket.s3.amazonaws.com", "/", "us-east-1"),
        method="GET",
        issued_at=datetime(2013, 5, 24, tzinfo=UTC),
        expires_in=86_400,
    ).sign("test.txt")
    expected = "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    assert signed.signature == expected
    assert signed.url == (
        "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256"
        "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
        "&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
        f"&X-Amz-Signature={expected}"
    )


@often
@given(boto=botos, key=keys)
@example(boto=Boto(), key="a b+c~d/é/../%2e%2E//?#&=\x00\n\u202e😀")
def test_a_get_is_boto3s_for_any_key_place_credentials_and_second(boto: Boto, key: str) -> None:
    assert signer(boto, "GET").sign(key).url == boto.url("get_object", {"Key": key})


@often
@given(boto=botos, key=keys, overrides=st.dictionaries(st.sampled_from([*OVERRIDES]), texts),
       own=st.integers(0, 6), grant_id=texts)  # fmt: skip
def test_overrides_of_the_batch_or_the_item_are_boto3s(
    boto: Boto, key: str, overrides: dict[str, str], own: int, grant_id: str
) -> None:
    query = [(OVERRIDES[name], value) for name, value in overrides.items()]
    urls = signer(boto, "GET", query=dict(query[own:]))
    signed = urls.sign(key, {"x-grant-id": grant_id, **dict(query[:own])})
    params = {name: overrides[name] for name in sorted(overrides)}
    assert signed.url == boto.url("get_object", {"Key": key, **params}, grant_id)


@often
@given(boto=botos, key=keys, common=texts, own=texts)
def test_a_parameter_prepared_for_signs_to_the_same_bytes(
    boto: Boto, key: str, common: str, own: str
) -> None:
    urls = signer(boto, "GET", query={"response-content-type": common})
    signed = urls.sign(key, {"x-grant-id": own})
    assert urls.with_own("x-grant-id")(key, own) == (signed.url, signed.signature)


@often
@given(boto=botos, key=keys, headers=st.dictionaries(st.sampled_from([*HEADERS]), sent),
       size=st.integers(0, 2**40), own=st.integers(0, 6))  # fmt: skip
def test_signed_headers_of_the_batch_or_the_item_are_boto3s(
    boto: Boto, key: str, headers: dict[str, str], size: int, own: int
) -> None:
    named = [(HEADERS[name], value) for name, value in headers.items()]
    puts = signer(boto, "PUT", headers={**dict(named[own:]), "If-None-Match": "*"})
    signed = puts.sign(key, headers={"Content-Length": str(size), **dict(named[:own])})
    params = {"Key": key, "ContentLength": size, "IfNoneMatch": "*", **headers}
    assert signed.url == boto.url("put_object", params)


@given(boto=botos, key=keys, upload=texts.filter(bool), part=st.integers(1, 10_000))
def test_a_part_of_a_multipart_upload_is_boto3s(
    boto: Boto, key: str, upload: str, part: int
) -> None:
    parts = signer(boto, "PUT", query={"uploadId": upload})
    signed = parts.sign(key, {"partNumber": str(part)}, {"Content-Length": "5"})
    params = {"Key": key, "PartNumber": part, "UploadId": upload, "ContentLength": 5}
    assert signed.url == boto.url("upload_part", params)


@pytest.mark.parametrize(
    ("method", "operation", "query", "params"),
    [
        ("HEAD", "head_object", {}, {}),
        ("POST", "create_multipart_upload", {"uploads": ""}, {}),
        ("POST", "complete_multipart_upload", {"uploadId": "u+/="}, {"UploadId": "u+/="}),
        ("DELETE", "abort_multipart_upload", {"uploadId": "u+/="}, {"UploadId": "u+/="}),
    ],
)
def test_other_methods_are_boto3s(
    method: str, operation: str, query: dict[str, str], params: dict[str, str]
) -> None:
    boto = Boto(credentials=SESSION)
    signed = signer(boto, method, query=query).sign("a/b.bin")
    assert signed.url == boto.url(operation, {"Key": "a/b.bin", **params})


def test_metadata_and_checksum_headers_are_boto3s() -> None:
    boto, checksum = Boto(), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
    headers = {"x-amz-meta-Grant-Id": "  a  {0} b ", "x-amz-checksum-sha256": checksum}
    params = {"Metadata": {"Grant-Id": "  a  {0} b "}, "ChecksumSHA256": checksum}
    assert signer(boto, "PUT").sign("k", headers=headers).url == boto.url(
        "put_object", {"Key": "k", **params}
    )


def test_five_thousand_keys_of_one_batch_are_boto3s() -> None:
    boto, random = Boto(), Random(1)
    urls = signer(boto, "GET")
    alphabet = string.ascii_letters + string.digits + "/ ._-~+%é漢😀"
    keys = ["".join(random.choices(alphabet, k=random.randint(1, 80))) for _ in range(5_000)]
    assert [urls.sign(key).url for key in keys] == [
        boto.url("get_object", {"Key": k}) for k in keys
    ]


def test_an_items_own_value_replaces_the_batchs() -> None:
    batch = signer(Boto(), "GET", query={"versionId": "1", "response-content-type": "a/b"})
    alone = signer(Boto(), "GET", query={"versionId": "2", "response-content-type": "a/b"})
    assert batch.sign("k", {"versionId": "2"}) == alone.sign("k")


def test_items_that_bring_different_names_do_not_mix() -> None:
    urls = signer(Boto(), "PUT")
    in_query, in_headers = urls.sign("k", {"x-a": "1"}), urls.sign("k", headers={"x-a": "1"})
    assert in_query != in_headers
    assert urls.sign("k", {"x-a": "1"}) == in_query


def test_the_zone_of_the_clock_does_not_matter() -> None:
    boto = Boto()
    east = Boto(issued_at=boto.issued_at.astimezone(timezone(timedelta(hours=9))))
    assert signer(east, "GET").sign("k") == signer(boto, "GET").sign("k")


def test_a_header_cannot_forge_another_line() -> None:
    urls = signer(Boto(), "PUT")
    forged = urls.sign("k", headers={"x-amz-meta-a": "1\nx-amz-acl:public-read"})
    assert forged == urls.sign("k", headers={"x-amz-meta-a": "1 x-amz-acl:public-read"})


def test_a_header_with_nul_is_not_signed() -> None:
    with pytest.raises(ValueError, match="size"):
        signer(Boto(), "PUT", headers={"x-amz-meta-a": "\0"}).sign("k")


def test_no_secret_prints() -> None:
    signed = signer(Boto(credentials=SESSION), "GET").sign("k")
    shown = repr(signed) + repr(SESSION)
    assert signed.signature not in shown
    assert SESSION.secret_key not in shown
    assert str(SESSION.token) not in shown
