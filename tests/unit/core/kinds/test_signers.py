"""Each kind's grants are byte-equal to those that boto3 signs for the same terms."""

import base64
from typing import Any

import pytest
from hypothesis import given

from tests.support.builders.boto import FrozenBoto, frozen_botos, object_keys
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
from worker.core.kinds.registry import grant_kind
from worker.core.signing.context import SigningContext
from worker.core.signing.multipart_plan import NO_UPLOAD, MultipartPlan, StartedUpload
from worker.core.signing.validity import Validity

GRANT_ID = "0199a000-0000-7000-8000-000000000000.7"
CHECKSUM = Checksum(algorithm="sha256", value=base64.b64encode(bytes(32)).decode())
KMS = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd"
TERMS: dict[str, Any] = {"bucket": "demo", "expires_in": 900}
STORAGE_TERMS: dict[str, Any] = {
    "content_type": "image/png",
    "acl": "public-read",
    "metadata": {"case": "a b", "lang": "de"},
    "tags": {"team": "a&b", "cost": "x=y"},
    "storage_class": "STANDARD_IA",
    "encryption": Encryption(algorithm="aws:kms", key=KMS),
}
UPLOAD = StartedUpload("upload+id/==", MultipartPlan(12 * 2**20, 5 * 2**20))
OWNER = "111122223333"
DISPOSITION = "attachment; filename=\"u.pdf\"; filename*=UTF-8''%C3%BC.pdf"


def sign_grant(
    boto: FrozenBoto, terms: AnyTerms, item: Item, upload: StartedUpload = NO_UPLOAD
) -> dict[str, Any]:
    validity = Validity(boto.issued_at.replace(microsecond=0), boto.expires_in, "request")
    bucket = boto.bucket.bucket
    context = SigningContext(bucket, OWNER, boto.target, boto.credentials, validity)
    return grant_kind(terms).make_signer(terms, context)(GRANT_ID, item, upload)[0]


@given(frozen_botos, object_keys)
def test_a_download_equals_boto3s_get(boto: FrozenBoto, key: str) -> None:
    terms = Download(**TERMS, filename="ü.pdf", cache_control="no-store", content_language="de")
    expected = boto.url(
        "get_object",
        {
            "Key": key,
            "ResponseCacheControl": "no-store",
            "ResponseContentDisposition": DISPOSITION,
            "ResponseContentLanguage": "de",
            "ResponseContentType": "application/octet-stream",
        },
        GRANT_ID,
    )
    assert sign_grant(boto, terms, Item(key=key))["url"] == expected


def test_a_head_of_a_version_with_an_owner_check_equals_boto3s() -> None:
    terms = Download(**TERMS, method="HEAD", check_owner=True, inline=True)
    grant = sign_grant(FrozenBoto(), terms, Item(key="a", version_id="v.1"))
    params = {
        "Key": "a",
        "ExpectedBucketOwner": OWNER,
        "ResponseContentDisposition": "inline",
        "ResponseContentType": "application/octet-stream",
        "VersionId": "v.1",
    }
    assert grant["url"] == FrozenBoto().url("head_object", params, GRANT_ID)
    assert grant["headers"] == {"x-amz-expected-bucket-owner": OWNER}


@given(frozen_botos, object_keys)
def test_a_plain_download_is_boto3s_get_of_the_key_alone(boto: FrozenBoto, key: str) -> None:
    grant = sign_grant(boto, Download(**TERMS, plain=True), Item(key=key))
    assert grant["url"] == boto.url("get_object", {"Key": key})
    assert grant["id"] == GRANT_ID


def test_a_plain_head_of_a_version_with_an_owner_check_equals_boto3s() -> None:
    terms = Download(**TERMS, method="HEAD", check_owner=True, plain=True)
    grant = sign_grant(FrozenBoto(), terms, Item(key="a", version_id="v.1"))
    params = {"Key": "a", "ExpectedBucketOwner": OWNER, "VersionId": "v.1"}
    assert grant["url"] == FrozenBoto().url("head_object", params)
    assert grant["headers"] == {"x-amz-expected-bucket-owner": OWNER}


@given(frozen_botos, object_keys)
def test_a_put_equals_boto3s(boto: FrozenBoto, key: str) -> None:
    terms = Put(**TERMS, **STORAGE_TERMS, max_size=100)
    expected = boto.url(
        "put_object",
        {
            "Key": key,
            "ACL": "public-read",
            "ChecksumSHA256": CHECKSUM.value,
            "ContentLength": 30,
            "ContentType": "image/png",
            "IfNoneMatch": "*",
            "Metadata": {"case": "a b", "lang": "de", "grant-id": GRANT_ID},
            "SSEKMSKeyId": KMS,
            "ServerSideEncryption": "aws:kms",
            "StorageClass": "STANDARD_IA",
            "Tagging": "team=a%26b&cost=x%3Dy",
        },
        GRANT_ID,
    )
    grant = sign_grant(boto, terms, Item(key=key, size=30, checksum=CHECKSUM))
    assert grant["url"] == expected


def test_a_put_lists_every_header_that_is_signed() -> None:
    grant = sign_grant(
        FrozenBoto(),
        Put(**TERMS, **STORAGE_TERMS, max_size=9),
        Item(key="a", size=9, checksum=CHECKSUM),
    )
    signed = grant["url"].partition("X-Amz-SignedHeaders=")[2].partition("&")[0].split("%3B")
    assert {*grant["headers"], "host"} == set(signed)


def test_a_put_may_replace_an_object_only_with_overwrite() -> None:
    default = sign_grant(FrozenBoto(), Put(**TERMS, max_size=9), Item(key="a", size=9))
    overwriting = sign_grant(
        FrozenBoto(), Put(**TERMS, max_size=9, overwrite=True), Item(key="a", size=9)
    )
    assert default["headers"]["if-none-match"] == "*"
    assert "if-none-match" not in overwriting["headers"]


@given(frozen_botos, object_keys)
def test_an_upload_equals_boto3s_form(boto: FrozenBoto, key: str) -> None:
    terms = Upload(**TERMS, **STORAGE_TERMS, max_size=500, min_size=1, success_status=201)
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
        "x-amz-checksum-sha256": CHECKSUM.value,
        "x-amz-meta-grant-id": GRANT_ID,
    }
    conditions = [["content-length-range", 1, 500], *({name: v} for name, v in fields.items())]
    expected = boto.form(key, dict(fields), conditions)
    grant = sign_grant(boto, terms, Item(key=key, checksum=CHECKSUM))
    assert (grant["url"], grant["fields"]) == (expected["url"], expected["fields"])


def test_an_upload_of_a_content_type_family_leaves_the_field_to_the_client() -> None:
    terms = Upload(**TERMS, max_size=9, content_type="video/*")
    grant = sign_grant(FrozenBoto(), terms, Item(key="a"))
    policy = base64.b64decode(grant["fields"]["policy"]).decode()
    assert '["starts-with", "$Content-Type", "video/"]' in policy
    assert "Content-Type" not in grant["fields"]


@given(frozen_botos, object_keys)
def test_the_complete_and_abort_urls_of_a_multipart_equal_boto3s(
    boto: FrozenBoto, key: str
) -> None:
    terms = Multipart(**TERMS, max_size=2**30)
    grant = sign_grant(boto, terms, Item(key=key, size=12 * 2**20), UPLOAD)
    params = {"Key": key, "UploadId": UPLOAD.upload_id}
    assert grant["url"] == boto.url("complete_multipart_upload", params, GRANT_ID)
    assert grant["multipart"]["abort_url"] == boto.url("abort_multipart_upload", params, GRANT_ID)
    assert grant["multipart"]["part_count"] == 3


@given(frozen_botos, object_keys)
def test_a_part_equals_boto3s_and_has_exactly_its_length(boto: FrozenBoto, key: str) -> None:
    params = {
        "Key": key,
        "PartNumber": 3,
        "UploadId": UPLOAD.upload_id,
        "ContentLength": 2 * 2**20,
    }
    grant = sign_grant(boto, Parts(**TERMS, of=GRANT_ID), Item(key=key, part=3), UPLOAD)
    assert grant["url"] == boto.url("upload_part", params, GRANT_ID)
    assert grant["headers"] == {"content-length": str(2 * 2**20)}


@pytest.mark.parametrize("algorithm", ["sha256", "crc32", "crc32c", "crc64nvme"])
def test_a_checksum_header_has_the_name_that_boto3_gives_it(algorithm: Any) -> None:
    checksum = Checksum(algorithm=algorithm, value="AAAAAA==")
    put = Put(**TERMS, max_size=9, overwrite=True)
    params = {
        "Key": "a",
        f"Checksum{algorithm.upper()}": "AAAAAA==",
        "ContentLength": 9,
        "ContentType": "application/octet-stream",
        "Metadata": {"grant-id": GRANT_ID},
    }
    item = Item(key="a", size=9, checksum=checksum)
    assert sign_grant(FrozenBoto(), put, item)["url"] == FrozenBoto().url(
        "put_object", params, GRANT_ID
    )
