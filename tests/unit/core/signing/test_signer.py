"""Each kind's grant is what boto3 signs for the same limits, by boto3's own names for them."""

import base64
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from tests.support.builders.boto import Boto, botos, keys
from valetkey.wire.messages import Item
from valetkey.wire.terms import (
    AnyTerms,
    Checksum,
    Download,
    Encryption,
    Multipart,
    Parts,
    Put,
    Upload,
)
from worker.core.policy.decisions import NO_UPLOAD, StartedUpload, Validity
from worker.core.signing.multipart_plan import MultipartPlan
from worker.core.signing.signer import SigningContext, item_signer

ID = "0199a000-0000-7000-8000-000000000000.7"
SUM = Checksum(algorithm="sha256", value=base64.b64encode(bytes(32)).decode())
KMS = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd"
COMMON: dict[str, Any] = {"bucket": "demo", "expires_in": 900}
STORED: dict[str, Any] = {
    "content_type": "image/png",
    "acl": "public-read",
    "metadata": {"case": "a b", "lang": "de"},
    "tags": {"team": "a&b", "cost": "x=y"},
    "storage_class": "STANDARD_IA",
    "encryption": Encryption(algorithm="aws:kms", key=KMS),
}
BEGUN = StartedUpload("upload+id/==", MultipartPlan(12 * 2**20, 5 * 2**20))
OWNER = "111122223333"
NAMED = "attachment; filename=\"u.pdf\"; filename*=UTF-8''%C3%BC.pdf"


def granted(
    boto: Boto, terms: AnyTerms, item: Item, begun: StartedUpload = NO_UPLOAD
) -> dict[str, Any]:
    bucket = replace(boto.place, owner=OWNER)
    life = Validity(boto.issued_at.replace(microsecond=0), boto.expires_in, "request")
    return item_signer(terms, SigningContext(bucket, boto.target, boto.credentials, life))(
        ID, item, begun
    )[0]


@given(botos, keys)
def test_a_download_is_boto3s_get(boto: Boto, key: str) -> None:
    terms = Download(**COMMON, filename="ü.pdf", cache_control="no-store", content_language="de")
    expected = boto.url(
        "get_object",
        {
            "Key": key,
            "ResponseCacheControl": "no-store",
            "ResponseContentDisposition": NAMED,
            "ResponseContentLanguage": "de",
            "ResponseContentType": "application/octet-stream",
        },
        ID,
    )
    assert granted(boto, terms, Item(key=key))["url"] == expected


def test_a_download_of_a_version_by_head_from_its_owner_is_boto3s() -> None:
    terms = Download(**COMMON, method="HEAD", check_owner=True, inline=True)
    grant = granted(Boto(), terms, Item(key="a", version_id="v.1"))
    params = {
        "Key": "a",
        "ExpectedBucketOwner": OWNER,
        "ResponseContentDisposition": "inline",
        "ResponseContentType": "application/octet-stream",
        "VersionId": "v.1",
    }
    assert grant["url"] == Boto().url("head_object", params, ID)
    assert grant["headers"] == {"x-amz-expected-bucket-owner": OWNER}


@given(botos, keys)
def test_a_put_is_boto3s(boto: Boto, key: str) -> None:
    terms = Put(**COMMON, **STORED, max_size=100)
    expected = boto.url(
        "put_object",
        {
            "Key": key,
            "ACL": "public-read",
            "ChecksumSHA256": SUM.value,
            "ContentLength": 30,
            "ContentType": "image/png",
            "IfNoneMatch": "*",
            "Metadata": {"case": "a b", "lang": "de", "grant-id": ID},
            "SSEKMSKeyId": KMS,
            "ServerSideEncryption": "aws:kms",
            "StorageClass": "STANDARD_IA",
            "Tagging": "team=a%26b&cost=x%3Dy",
        },
        ID,
    )
    grant = granted(boto, terms, Item(key=key, size=30, checksum=SUM))
    assert grant["url"] == expected


def test_a_put_says_every_header_that_its_signature_holds() -> None:
    grant = granted(
        Boto(), Put(**COMMON, **STORED, max_size=9), Item(key="a", size=9, checksum=SUM)
    )
    signed = grant["url"].partition("X-Amz-SignedHeaders=")[2].partition("&")[0].split("%3B")
    assert {*grant["headers"], "host"} == set(signed)


def test_a_put_may_replace_an_object_only_where_that_was_asked() -> None:
    once = granted(Boto(), Put(**COMMON, max_size=9), Item(key="a", size=9))
    again = granted(Boto(), Put(**COMMON, max_size=9, overwrite=True), Item(key="a", size=9))
    assert once["headers"]["if-none-match"] == "*"
    assert "if-none-match" not in again["headers"]


@given(botos, keys)
def test_an_upload_is_boto3s_form(boto: Boto, key: str) -> None:
    terms = Upload(**COMMON, **STORED, max_size=500, min_size=1, success_status=201)
    fields = {
        "Content-Type": "image/png",
        "x-amz-meta-case": "a b",
        "x-amz-meta-lang": "de",
        "x-amz-storage-class": "STANDARD_IA",
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": KMS,
        "acl": "public-read",
        "tagging": "<Tagging><TagSet><Tag><Key>team</Key><Value>a&amp;b</Value></Tag>"
        "<Tag><Key>cost</Key><Value>x=y</Value></Tag></TagSet></Tagging>",
        "success_action_status": "201",
        "x-amz-checksum-algorithm": "SHA256",
        "x-amz-checksum-sha256": SUM.value,
        "x-amz-meta-grant-id": ID,
    }
    conditions = [["content-length-range", 1, 500], *({name: v} for name, v in fields.items())]
    expected = boto.form(key, dict(fields), conditions)
    grant = granted(boto, terms, Item(key=key, checksum=SUM))
    assert (grant["url"], grant["fields"]) == (expected["url"], expected["fields"])


def test_an_upload_of_a_family_of_types_leaves_the_field_to_the_client() -> None:
    terms = Upload(**COMMON, max_size=9, content_type="video/*")
    grant = granted(Boto(), terms, Item(key="a"))
    policy = base64.b64decode(grant["fields"]["policy"]).decode()
    assert '["starts-with", "$Content-Type", "video/"]' in policy
    assert "Content-Type" not in grant["fields"]


@given(botos, keys)
def test_a_multipart_is_completed_and_aborted_by_boto3s_urls(boto: Boto, key: str) -> None:
    terms = Multipart(**COMMON, max_size=2**30)
    grant = granted(boto, terms, Item(key=key, size=12 * 2**20), BEGUN)
    params = {"Key": key, "UploadId": BEGUN.upload_id}
    assert grant["url"] == boto.url("complete_multipart_upload", params, ID)
    assert grant["multipart"]["abort_url"] == boto.url("abort_multipart_upload", params, ID)
    assert grant["multipart"]["part_count"] == 3


@given(botos, keys)
def test_a_part_is_boto3s_of_exactly_its_bytes(boto: Boto, key: str) -> None:
    params = {"Key": key, "PartNumber": 3, "UploadId": BEGUN.upload_id, "ContentLength": 2 * 2**20}
    grant = granted(boto, Parts(**COMMON, of=ID), Item(key=key, part=3), BEGUN)
    assert grant["url"] == boto.url("upload_part", params, ID)
    assert grant["headers"] == {"content-length": str(2 * 2**20)}


@pytest.mark.parametrize("algorithm", ["sha256", "crc32", "crc32c", "crc64nvme"])
def test_a_checksum_is_named_as_boto3_names_it(algorithm: Any) -> None:
    checksum = Checksum(algorithm=algorithm, value="AAAAAA==")
    put = Put(**COMMON, max_size=9, overwrite=True)
    params = {
        "Key": "a",
        f"Checksum{algorithm.upper()}": "AAAAAA==",
        "ContentLength": 9,
        "ContentType": "application/octet-stream",
        "Metadata": {"grant-id": ID},
    }
    item = Item(key="a", size=9, checksum=checksum)
    assert granted(Boto(), put, item)["url"] == Boto().url("put_object", params, ID)
