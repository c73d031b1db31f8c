"""Each kind's grants are byte-equal to those that boto3 signs for the same terms."""

import base64
from typing import Any, NamedTuple

import pytest

from tests.support.builders.boto import SESSION, FrozenBoto
from valetkey.signing.signers import SIGNERS
from valetkey.signing.signing_context import (
    NO_UPLOAD,
    MultipartPlan,
    SigningContext,
    StartedUpload,
    Validity,
)
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
    return SIGNERS[terms.kind](terms, context)(GRANT_ID, item, upload)[0]


class UrlCase(NamedTuple):
    """Terms and an item, and the call of boto3 that signs the same URL."""

    terms: AnyTerms
    item: Item
    operation: str
    params: dict[str, Any]
    has_grant_id: bool = True


VERSION = Item(key="a", version_id="v.1")
LARGE = Item(key="a b/ü", size=12 * 2**20)
URLS = {
    "a download": UrlCase(
        Download(**TERMS, filename="ü.pdf", cache_control="no-store", content_language="de"),
        Item(key="a b/ü"),
        "get_object",
        {
            "ResponseCacheControl": "no-store",
            "ResponseContentDisposition": DISPOSITION,
            "ResponseContentLanguage": "de",
            "ResponseContentType": "application/octet-stream",
        },
    ),
    "a head of a version with an owner check": UrlCase(
        Download(**TERMS, method="HEAD", check_owner=True, inline=True),
        VERSION,
        "head_object",
        {
            "ExpectedBucketOwner": OWNER,
            "ResponseContentDisposition": "inline",
            "ResponseContentType": "application/octet-stream",
            "VersionId": "v.1",
        },
    ),
    "a plain download": UrlCase(
        Download(**TERMS, plain=True), Item(key="a b/ü"), "get_object", {}, has_grant_id=False
    ),
    "a plain head of a version with an owner check": UrlCase(
        Download(**TERMS, method="HEAD", check_owner=True, plain=True),
        VERSION,
        "head_object",
        {"ExpectedBucketOwner": OWNER, "VersionId": "v.1"},
        has_grant_id=False,
    ),
    "a put": UrlCase(
        Put(**TERMS, **STORAGE_TERMS, max_size=100),
        Item(key="a b/ü", size=30, checksum=CHECKSUM),
        "put_object",
        {
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
    ),
    "the completion of a multipart upload": UrlCase(
        Multipart(**TERMS, max_size=2**30),
        LARGE,
        "complete_multipart_upload",
        {"UploadId": UPLOAD.upload_id},
    ),
    "a part": UrlCase(
        Parts(**TERMS, of=GRANT_ID),
        Item(key="a b/ü", part=3),
        "upload_part",
        {"PartNumber": 3, "UploadId": UPLOAD.upload_id, "ContentLength": 2 * 2**20},
    ),
}


@pytest.mark.parametrize("case", URLS.values(), ids=URLS)
def test_a_url_equals_boto3s(case: UrlCase) -> None:
    boto = FrozenBoto(credentials=SESSION)
    grant = sign_grant(boto, case.terms, case.item, UPLOAD)
    params = {"Key": case.item.key, **case.params}
    grant_id = GRANT_ID if case.has_grant_id else None
    assert grant["url"] == boto.url(case.operation, params, grant_id)
    assert grant["id"] == GRANT_ID


def test_a_grant_lists_the_headers_that_a_client_has_to_send() -> None:
    for name, headers in {
        "a head of a version with an owner check": {"x-amz-expected-bucket-owner": OWNER},
        "a part": {"content-length": str(2 * 2**20)},
    }.items():
        case = URLS[name]
        assert sign_grant(FrozenBoto(), case.terms, case.item, UPLOAD)["headers"] == headers


def test_a_put_may_replace_an_object_only_with_overwrite() -> None:
    for overwrite, condition in ((False, "*"), (True, None)):
        put = Put(**TERMS, max_size=9, overwrite=overwrite)
        headers = sign_grant(FrozenBoto(), put, Item(key="a", size=9))["headers"]
        assert headers.get("if-none-match") == condition


def test_an_upload_equals_boto3s_form() -> None:
    boto = FrozenBoto(credentials=SESSION)
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
    expected = boto.form("a b/ü", dict(fields), conditions)
    grant = sign_grant(boto, terms, Item(key="a b/ü", checksum=CHECKSUM))
    assert (grant["url"], grant["fields"]) == (expected["url"], expected["fields"])


def test_a_multipart_upload_can_be_aborted_with_a_url_that_equals_boto3s() -> None:
    boto = FrozenBoto()
    multipart = sign_grant(boto, Multipart(**TERMS, max_size=2**30), LARGE, UPLOAD)["multipart"]
    params = {"Key": LARGE.key, "UploadId": UPLOAD.upload_id}
    assert multipart["abort_url"] == boto.url("abort_multipart_upload", params, GRANT_ID)
    assert multipart["part_count"] == 3
